import pytest
import torch

from biflow.data.windows import Windows
from biflow.evaluation import palette
from biflow.evaluation.palette import changes, find_palettes

from . import ring


def videos(numbers):
    return [torch.from_numpy(ring.clip(number)[0].copy()) for number in numbers]


@pytest.fixture(scope="module")
def palettes():
    return find_palettes(videos(range(12)))


def test_there_are_as_many_palettes_as_colours_and_clips_keep_theirs(palettes):
    assert len(palettes.centres) == 3
    found = [palettes.of(video) for video in videos(range(100, 109))]
    assert all(len(labels.unique()) == 1 for labels in found)
    firsts = [int(labels[0]) for labels in found]
    assert firsts[:3] * 3 == firsts
    assert len(set(firsts)) == 3


def test_joined_clips_of_other_colours_change_once_at_each_join(palettes):
    joined = torch.cat(videos([100, 101, 104, 102, 105]))  # colours 1, 2, 2, 0, 0
    assert changes(palettes.of(joined)) == 2


def test_what_is_seen_is_no_palette():
    # Half of the frames of every clip are dark: they differ by more than the clips do.
    mixed = []
    for video in videos(range(12)):
        dark = video.clone()
        dark[::2, :, 8:] = 0
        mixed.append(dark)
    found = find_palettes(mixed)
    assert len(found.centres) == 3
    assert all(len(found.of(video).unique()) == 1 for video in mixed)


def test_clips_of_one_colour_have_one_palette(tmp_path, monkeypatch):
    assert len(find_palettes(videos(range(0, 36, 3))).centres) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ring, "COLOURS", ring.COLOURS[[0, 0, 0]])
    training = Windows(ring.make_set(tmp_path / "ring"))
    assert palette.load_palettes(training, "sha") is None


def test_palettes_are_found_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    training = Windows(ring.make_set(tmp_path / "ring"))
    first = palette.load_palettes(training, "sha")
    monkeypatch.setattr(palette, "find_palettes", None)
    again = palette.load_palettes(training, "sha")
    assert torch.equal(first.centres, again.centres)
    assert first.silhouette == again.silhouette


def test_of_many_clips_some_are_read_evenly_spread(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(palette.SETTINGS, "clips", 3)
    training, read = Windows(ring.make_set(tmp_path / "ring")), []
    monkeypatch.setattr(training, "parts", lambda clip, frames: read.append(clip) or [training.clip(clip)])
    palette.load_palettes(training, "sha")
    last = len(training.clips) - 1
    assert read == [0, round(last / 2), last]


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ([0] * 20, 0),
        ([0] * 10 + [1] * 10, 1),
        ([0] * 10 + [1] * 3 + [0] * 10, 0),  # too short a visit
        ([0] * 10 + [1] * 3 + [2] * 10, 1),
        ([0] * 10 + [1] * 3, 0),
        ([0] + [1] * 10, 1),  # the first frame is real
        ([0] * 4 + [1] * 8 + [0] * 8, 2),
        ([0, 1] * 10, 0),
    ],
)
def test_a_change_stays_for_some_frames(labels, count):
    assert changes(torch.tensor(labels)) == count
