"""What is done when nobody steers: moments of clips, as they are written, read, found and followed."""

import json
from itertools import islice, repeat

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from biflow.actions import Actions
from biflow.config import Export, NetworkConfig, Prepare
from biflow.data.prepare import prepare
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model, empty_conditions, load_model, save_model
from biflow.moments import FILE, Moments, autopilot, look, read_moments
from biflow.networks import VideoUNet
from biflow.rollout import stream
from biflow.training.export import export
from biflow.training.first import ACTIONS, write_first
from biflow.video import to_float
from tests.rollout.known import EULER, constant, known

GAS = Actions(("gas", "turn"), ((0.0, 1.0), (-1.0, 1.0)))
LENGTH, SIDE = 14, 16


def grey(value: int, side: int = SIDE) -> torch.Tensor:
    return torch.full((1, 3, side, side), value, dtype=torch.uint8)


def write_set(root, rows, clips=6):
    """A prepared set of clips whose frame i has the grey value 10 i."""
    root.mkdir()
    for clip in range(clips):
        frames = 10 * np.arange(LENGTH, dtype=np.uint8)[:, None, None, None] + np.zeros((SIDE, SIDE, 3), np.uint8)
        np.save(root / f"{clip}.npy", frames)
    content = {**GAS.as_json(), "actions": {str(clip): rows for clip in range(clips)}}
    (root / "actions.json").write_text(json.dumps(content))
    prepare(Prepare(root, root / "set", size=SIDE), progress=False)
    return root / "set"


@pytest.fixture
def data(tmp_path):
    """Frame i is followed by gas i / 20."""
    return write_set(tmp_path / "source", [[i / 20, 0.5] for i in range(LENGTH - 1)])


def test_moments_are_of_the_training_clips_and_have_what_followed(data, tmp_path):
    write_first(tmp_path / "model" / "first", data, 0, GAS)
    found = read_moments(tmp_path / "model", GAS)
    assert found is not None
    clips = len(Windows(data).clips)
    assert found.rows.shape == (clips * (LENGTH - ACTIONS), ACTIONS, 2)
    for picture, rows in zip(found.pictures, found.rows, strict=True):
        first = round(picture.mean().item() / 10)
        np.testing.assert_allclose(rows[:, 0], np.arange(first, first + ACTIONS) / 20, atol=1e-6)


def test_the_nearest_moment_is_the_one_that_looks_most_like_it():
    pictures = torch.zeros(3, 3, 8, 8)
    pictures[1, :, :4], pictures[2] = 200, 90
    found = Moments(pictures, np.zeros((3, 1, 1), np.float32))
    frames = torch.zeros(3, 3, 20, 12, dtype=torch.uint8)  # of any size
    frames[0] = 100
    frames[1, :, :10] = 150
    frames[2, :, :10] = 20
    assert [found.nearest(frame) for frame in frames] == [2, 1, 0]
    assert [found.nearest(frames[0], recent) for recent in ([2], [2, 0], [2, 0, 1])] == [0, 1, 2]


def test_from_afar_parts_are_means():
    frame = torch.arange(24 * 40, dtype=torch.float).reshape(24, 40).expand(1, 3, -1, -1) % 251
    seen = look(frame.to(torch.uint8))
    assert seen.shape == (1, 3, 8, 8)
    torch.testing.assert_close(seen[0, 0, 2, 3], frame[0, 0, 6:9, 15:20].mean())


def test_a_stream_does_what_was_done_then_and_looks_again(tmp_path):
    pictures = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255.0)])
    rows = np.array([[[0.1, 0], [0.2, 0]], [[0.8, 0], [0.9, 0]]], np.float32)
    bright = known(FLOW, constant(1.0), actions=GAS)  # by 1 with every frame: it looks again at white
    first = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)])
    asked = bright.network.queries
    list(islice(stream(bright, first, actions=Moments(pictures, rows).policy(), solver=EULER), 4))
    gas = torch.stack([query.action[:, 1] for query in asked])
    torch.testing.assert_close(gas, torch.tensor([[0.1, 0.8], [0.2, 0.9], [0.8, 0.1], [0.9, 0.2]]))


def test_a_function_of_the_frame_steers(tmp_path):
    seen = []

    def policy(frames):
        seen.append(frames.mean().item())
        return [1.0, 0.0]

    model = known(FLOW, constant(0.25), actions=GAS)
    list(islice(stream(model, torch.zeros(1, 3, 4, 4), actions=policy, solver=EULER), 3))
    assert seen == pytest.approx([0, 0.25, 0.5])
    assert [query.action.tolist() for query in model.network.queries] == [[[1, 1, 0]]] * 3


def test_a_model_without_moments_continues_by_itself(tmp_path):
    assert autopilot(known(FLOW, constant(0))) is None
    model = known(FLOW, constant(0), actions=GAS, folder=tmp_path)
    assert isinstance(autopilot(model), repeat)
    (tmp_path / "first").mkdir()
    save_file({"pictures": torch.zeros(1, 3, 8, 8).byte(), "rows": torch.ones(1, 1, 2)}, tmp_path / "first" / FILE)
    policy = autopilot(model)
    assert callable(policy)
    assert policy(to_float(grey(3))).tolist() == [[1, 1]]


def test_moments_are_left_out_of_models_of_other_actions_and_of_none(data, tmp_path):
    for actions in (None, Actions(("gas", "steer"), ((0.0, 1.0), (-1.0, 1.0)))):
        write_first(tmp_path / "first", data, 0, actions)
        assert (tmp_path / "first" / "000.png").exists()
        assert not (tmp_path / "first" / FILE).exists()


def test_values_lie_in_the_ranges_of_the_model(data, tmp_path):
    write_first(tmp_path / "first", data, 2, Actions(("gas", "turn"), ((0.0, 0.25), (-1.0, 0.25))))
    found = read_moments(tmp_path, GAS)
    assert found is not None
    assert (found.rows.max((0, 1)) == 0.25).all()


def test_a_set_in_which_no_actions_are_known_in_a_row_has_no_moments(data, tmp_path):
    rows = np.load(data / "actions.npy")
    rows[::4] = np.nan
    np.save(data / "actions.npy", rows)
    write_first(tmp_path / "first", data, 0, GAS)
    assert not (tmp_path / "first" / FILE).exists()


def test_clips_shorter_than_that_give_what_they_have(tmp_path):
    (tmp_path / "source").mkdir()
    for clip in "ab":
        np.save(tmp_path / "source" / f"{clip}.npy", np.zeros((4, SIDE, SIDE, 3), np.uint8))
        (tmp_path / "source" / f"{clip}.csv").write_text("gas,turn\n1,0\n0,1\n1,1\n")
    prepare(Prepare(tmp_path / "source", tmp_path / "set", size=SIDE), progress=False)
    write_first(tmp_path / "first", tmp_path / "set", 0, GAS)
    found = read_moments(tmp_path, GAS)
    assert found is not None
    assert found.rows.tolist() == [[[1, 0], [0, 1], [1, 1]]]


BAD = {
    "words": (b"words", "not a safetensors file"),
    "columns": ({"rows": torch.zeros(2, 1, 3)}, "does not hold moments of the actions gas, turn"),
    "count": ({"pictures": torch.zeros(3, 3, 8, 8).byte()}, "another shape"),
    "nothing": ({"rows": torch.zeros(0, 1, 2), "pictures": torch.zeros(0, 3, 8, 8).byte()}, "does not hold moments"),
    "nan": ({"rows": torch.full((2, 1, 2), torch.nan)}, "not finite"),
    "far": ({"rows": torch.full((2, 1, 2), 7.0)}, "gas"),
    "more": ({"other": torch.zeros(1)}, "in only one of the two"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_a_file_of_something_else_is_refused(content, sentence, tmp_path):
    (tmp_path / "first").mkdir()
    path = tmp_path / "first" / FILE
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file({"pictures": torch.zeros(2, 3, 8, 8).byte(), "rows": torch.zeros(2, 1, 2), **content}, path)
    with pytest.raises(UserError, match=sentence) as refusal:
        read_moments(tmp_path, GAS)
    assert str(path) in str(refusal.value)


def test_it_says_nothing_about_a_model_that_takes_no_actions(tmp_path):
    assert read_moments(tmp_path, None) is None
    assert read_moments(None, GAS) is None
    assert autopilot(known(BIFLOW, constant(0), constant(0), folder=tmp_path)) is None


def test_an_export_with_first_frames_of_a_set_has_its_moments(data, tmp_path):
    shape = NetworkConfig(channels=(32,), attention=(), patch=2)
    network = VideoUNet(FLOW, shape, conditions=empty_conditions(1, (3, 1, 1), 0, GAS))
    save_model(tmp_path / "model", Model(network, FLOW, (3, SIDE, SIDE), actions=GAS))
    export(Export(tmp_path / "model", tmp_path / "out", first=data), say=str)
    found = read_moments(tmp_path / "out", GAS)
    assert found is not None
    assert found.rows.shape[1:] == (ACTIONS, 2)
    assert callable(autopilot(load_model(tmp_path / "out")))
