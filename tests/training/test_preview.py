import json
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.data.starts import held_out
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.films import decode
from biflow.methods import FLOW
from biflow.training import preview as previews
from biflow.training.first import places, write_first
from biflow.training.preview import first_due, is_due, preview
from biflow.video import to_float
from tests.rollout.known import constant, known

LENGTH, SIZE = 14, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six clips, one of them for testing, of frames that get brighter, with an action that is the frame's number."""
    root = tmp_path_factory.mktemp("bright")
    for clip in range(6):
        frames = np.full((LENGTH, SIZE, SIZE, 3), 20 * clip, np.uint8)
        frames += 8 * np.arange(LENGTH, dtype=np.uint8)[:, None, None, None]
        np.save(root / f"{clip}.npy", frames)
    rows = {str(clip): [[i] for i in range(LENGTH)] for clip in range(6)}
    (root / "actions.json").write_text(json.dumps({"columns": ["gas"], "ranges": [[0, LENGTH]], "actions": rows}))
    prepare(Prepare(root, root / "set", size=SIZE), progress=False)
    return root / "set"


def model(data, **settings):
    """It leaves every frame as it is, and keeps what it is asked."""
    return known(FLOW, constant(0.0), shape=(3, SIZE, SIZE), actions=Windows(data).actions, fps=10.0, **settings)


def draw(model, data, path, *, stopped=lambda: False):
    shown = []
    return preview(model, data, path, show=shown.append, stopped=stopped), shown


def test_previews_come_after_50_100_200_and_so_on_and_then_regularly():
    assert [step for step in range(1, 3001) if is_due(step, 1000)] == [50, 100, 200, 400, 800, 1000, 2000, 3000]
    assert [step for step in range(1, 13) if is_due(step, 4)] == [4, 8, 12]
    assert not any(is_due(step, 0) for step in range(1, 200))
    assert [first_due(step, 1000) for step in (0, 49, 50, 400, 1000)] == [50, 50, 100, 800, 2000]


def test_a_preview_shows_the_clip_above_what_the_model_makes_of_its_start(data, tmp_path):
    done, shown = draw(model(data, context=2), data, tmp_path / "step_1.png")
    assert done
    assert Image.open(tmp_path / "step_1.png").height > 2 * 2 * SIZE  # two rows, each pixel a block of two
    video = decode(tmp_path / "step_1.mp4")
    assert video.fps == 10
    pixels = torch.stack(list(video.frames)).float()
    (start,) = {clip["start"] for clip in held_out(data).clips}
    truth = torch.from_numpy(np.load(data / "frames.npy")[start : start + LENGTH]).float().mean((1, 2, 3))
    half, right = pixels.shape[-2] // 2, pixels[..., -100:].mean(dim=(1, 3))
    (begin,) = {int(frame) for _, frame in places(held_out(data), 3, before=2, after=48)}
    assert (begin, len(pixels)) == (2, LENGTH - 2)  # the first frame that has two before it
    assert torch.allclose(right[:, 8 : half - 8].mean(1), truth[2:], atol=3)
    assert torch.allclose(right[:, half + 8 : -8].mean(1), truth[2].expand(LENGTH - 2), atol=3)
    assert shown == [f"drawing a preview, frame {i} of {LENGTH - 3}" for i in range(1, LENGTH - 2)]


def test_a_preview_has_the_past_and_the_actions_of_its_clip(data, tmp_path):
    one = model(data, context=2)
    draw(one, data, tmp_path / "step_1.png")
    query, clip = one.network.queries[0], to_float(held_out(data).clip(0))
    assert torch.equal(query.past[0], clip[[1, 0]])
    assert query.past_noise.tolist() == [[0, 0]]
    assert query.action.tolist() == [[1, pytest.approx(2 / LENGTH)]]


def test_actions_that_a_clip_does_not_have_are_unknown(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Windows, "action_rows", lambda self, clip: np.full((LENGTH, 1), np.nan, np.float32))
    one = model(data)
    draw(one, data, tmp_path / "step_1.png")
    assert all(query.action.tolist() == [[0, 0]] for query in one.network.queries)


def test_a_preview_that_takes_too_long_has_fewer_frames(data, tmp_path, monkeypatch):
    clock = count(step=100)
    monkeypatch.setattr(previews.time, "monotonic", lambda: next(clock))
    draw(model(data), data, tmp_path / "step_1.png")
    assert len(list(decode(tmp_path / "step_1.mp4").frames)) == 1 + previews.FEWEST


def test_a_preview_that_is_stopped_leaves_nothing(data, tmp_path):
    calls = count()
    done, shown = draw(model(data), data, tmp_path / "step_1.png", stopped=lambda: next(calls) == 3)
    assert (done, len(shown)) == (False, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_cannot_be_solved_is_an_error_without_files(data, tmp_path):
    one = known(FLOW, constant(float("nan")), shape=(3, SIZE, SIZE), actions=Windows(data).actions)
    with pytest.raises(UserError, match="Frame 1 could not be solved"):
        draw(one, data, tmp_path / "step_1.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after", "found"), [(0, 0, [2, 7, 12]), (2, 6, [3, 5, 7]), (99, 0, [14])])
def test_places_lie_evenly_among_those_that_have_room(before, after, found, tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((17, 8, 8, 3), np.uint8))
    prepare(Prepare(tmp_path, tmp_path / "set", size=8, split=0.1), progress=False)
    test = held_out(tmp_path / "set")
    assert (test.split, [clip["frames"] for clip in test.clips]) == ("test", [15])
    assert places(test, 3, before=before, after=after)[:, 1].tolist() == found


def test_without_a_test_split_frames_are_those_that_are_trained_on(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 8, 3), np.uint8))
    prepare(Prepare(tmp_path, tmp_path / "set", size=8), progress=False)
    index = json.loads((tmp_path / "set" / "index.json").read_text())
    index["clips"] = [clip for clip in index["clips"] if clip["split"] == "train"]
    (tmp_path / "set" / "index.json").write_text(json.dumps(index))
    windows = held_out(tmp_path / "set")
    assert windows.split == "train"
    write_first(tmp_path / "first", tmp_path / "set", 0)
    frames = [int(np.asarray(Image.open(path))[0, 0, 0]) for path in sorted((tmp_path / "first").iterdir())]
    assert frames == list(range(windows.clips[0]["frames"]))
    write_first(tmp_path / "first", tmp_path / "set", 2)  # with the two frames before each
    assert [path.name for path in sorted((tmp_path / "first" / "000").iterdir())] == [f"{i:06d}.png" for i in range(3)]
