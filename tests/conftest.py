"""Fixtures that many tests share."""

import os
import signal
from collections import Counter

# Before huggingface_hub is imported: a port where nothing listens, so that no test reaches the real Hub.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

# Before biflow too: what its modules import while jaxtyping instruments them is compiled anew in each run.
import accelerate  # noqa: F401
import diffusers.models  # noqa: F401
import jaxtyping
import numpy as np
import pytest

from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.methods import Method
from tests.hub import Hub


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Programs that tests start can be stopped by Ctrl-C and SIGHUP, also where the tests themselves ignore them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # ignored here, and not by what tests start


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """Nothing waits for the disk: what a power failure leaves is not tested, and thousands of files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Six clips of a bright square that moves to the right, 12 frames of 16x16 each, prepared."""
    root = tmp_path_factory.mktemp("squares")
    for clip in range(6):
        frames = np.full((12, 16, 16, 3), 40, np.uint8)
        for i in range(12):
            left = (clip + i) % 13
            frames[i, 4 + clip : 8 + clip, left : left + 4] = (220, 180, 30 * clip)
        np.save(root / f"clip_{clip}.npy", frames)
    prepare(Prepare(root, root / "prepared", size=16), progress=False)
    return root / "prepared"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub on loopback, empty, and an empty cache of what is downloaded from it."""
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost, so that these are the last lines before the totals
def pytest_terminal_summary(terminalreporter):
    """Say which tests were skipped, and why."""
    result = yield
    skipped = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[report.nodeid.split("::")[0], reason.removeprefix("Skipped: ")] += 1
    for (file, reason), count in sorted(skipped.items()):
        terminalreporter.write_line(f"Not run: {count} {'test' if count == 1 else 'tests'} of {file}: {reason}")
    return result


@pytest.fixture
def unchecked():
    """Without the checks of annotations at run time, which only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_make_parametrize_id(val):
    """Methods by name in the names of tests."""
    return val.name if isinstance(val, Method) else None
