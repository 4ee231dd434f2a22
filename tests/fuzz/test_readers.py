"""The short form of `make fuzz`: a few changed files for each reader."""

import importlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.reading import changed, read
from tests.fuzz.run import READERS

FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("reader", READERS)
def test_changed_files_end_in_clips_or_a_sentence(reader):
    harness = importlib.import_module(f"tests.fuzz.{reader}")
    seeds = harness.seeds()

    @FEW
    @given(st.sampled_from(seeds), st.sampled_from(seeds), st.randoms(use_true_random=False), st.booleans())
    def check(data, other, source, mended):
        data = changed(data, other, source)
        harness.one(harness.mend(data) if mended else data)

    check()


@pytest.mark.parametrize("reader", READERS)
def test_most_seeds_are_read(reader):
    harness = importlib.import_module(f"tests.fuzz.{reader}")
    seeds = harness.seeds()
    readable = 0
    for data in seeds:
        suffix = {"image": "png", "film": "mp4", "archive": "zip" if data.startswith(b"PK") else "tar"}.get(reader)
        names = [f"x.{suffix}"] if suffix else ["x.npy", "x.pt"]
        readable += any(read({name: data, "y.png": data} if suffix == "png" else {name: data})[0] for name in names)
    assert readable >= 0.6 * len(seeds)
