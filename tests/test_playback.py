"""Where `biflow sample` starts, and what is done there."""

import base64
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.actions import Actions
from biflow.config import Demo, NetworkConfig, Prepare, Sample
from biflow.data.prepare import prepare
from biflow.errors import UserError
from biflow.files import write_tensors
from biflow.films import decode
from biflow.methods import BIFLOW
from biflow.model import Model, empty_conditions, load_model, save_model
from biflow.moments import FILE
from biflow.networks import VideoUNet
from biflow.outputs import demo, sample
from biflow.playback import playback
from biflow.rollout import frame_seed, stream
from biflow.training import picture
from biflow.video import to_float, to_uint8

ACTIONS = Actions(("move", "turn"), ((0.0, 1.0), (-1.0, 1.0)))
FEW = {"solver": "midpoint", "steps": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of 8x8 frames with two past ones and actions, with weights that make these matter."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    seen = empty_conditions(1, (3, 1, 1), 2, ACTIONS)
    # Not narrower: the group norms would take out what embeddings add to a channel of its own.
    shape = NetworkConfig(channels=(64, 64), attention=(), patch=2)
    network = VideoUNet(BIFLOW, shape, conditions=seen)
    for weight in network.nets[0].class_embedding.vector.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    save_model(folder, Model(network, BIFLOW, (3, 8, 8), 0.1, 10.0, 2, 0.05, ACTIONS))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four clips of 10 frames with actions: frame i has the grey value 10 i, its action move i / 10 and turn 0.5."""
    root = tmp_path_factory.mktemp("source")
    rows = [[i / 10, 0.5] for i in range(9)]
    for clip in range(4):
        np.save(
            root / f"clip_{clip}.npy",
            np.arange(10, dtype=np.uint8)[:, None, None, None] * 10 + np.zeros((8, 8, 3), np.uint8),
        )
    content = {
        "columns": ["move", "turn"],
        "ranges": [[0, 1], [-1, 1]],
        "actions": {f"clip_{i}": rows for i in range(4)},
    }
    (root / "actions.json").write_text(json.dumps(content))
    prepare(Prepare(root, root / "set", size=8, split=0.5), progress=False)
    return root / "set"


def play(model, data, **settings):
    return playback(Sample(model, first=data, **{"samples": 2, **settings}), load_model(model))


def test_a_script_says_what_is_done_and_how_long(model, data):
    found = play(model, data, actions="still*2 left+move=0.5*3")
    assert found.length == 5
    assert found.rows.shape == (2, 5, 2)
    assert found.rows[1].tolist() == [[0, 0]] * 2 + [[0.5, -1]] * 3
    assert found.frames.shape == (2, 3, 3, 8, 8)  # with their past


def test_without_actions_the_model_continues_by_itself_for_512_frames_and_this_is_said(model, data, caplog):
    found = play(model, data)
    assert np.isnan(found.rows).all()
    assert (found.rows.shape, found.length) == ((2, 512, 2), 512)
    assert "No actions are given: the model continues by itself." in caplog.text


def test_none_is_an_action_that_the_model_does_not_know(model, data):
    found = play(model, data, actions="none", frames=3)
    assert np.isnan(np.stack(list(found.actions(range(2))))).all()
    assert found.rows.shape == (2, 3, 2)


def test_the_own_actions_of_a_set_follow_its_first_frames(model, data):
    found = play(model, data, actions="data", frames=4)
    for frames, rows in zip(found.frames, found.rows, strict=True):
        now = int(frames[-1, 0, 0, 0]) // 10
        assert [int(frame[0, 0, 0]) // 10 for frame in frames] == [now - 2, now - 1, now]
        assert np.allclose(rows[:, 0] * 10, np.arange(now, now + 4))


def test_as_many_own_actions_as_there_are_by_default(model, data):
    found = play(model, data, actions="data")
    assert found.length == 7  # the first one that has two frames before it is frame 2 of 10, and the last has no action
    assert all(int(frames[-1, 0, 0, 0]) == 20 for frames in found.frames)


def test_backward_the_own_actions_are_those_that_led_to_the_frame(model, data):
    found = play(model, data, actions="data", frames=4, direction="backward")
    for frames, rows in zip(found.frames, found.rows, strict=True):
        now = int(frames[-1, 0, 0, 0]) // 10
        assert np.allclose(rows[:, 0] * 10, [now - 1, now - 2, now - 3, now - 4])


def test_own_actions_are_brought_into_the_order_of_the_model(model, data, tmp_path):
    swapped = tmp_path / "swapped"
    shutil.copytree(data, swapped)
    index = json.loads((data / "index.json").read_text())
    for key in ("columns", "ranges"):
        index["actions"][key].reverse()
    (swapped / "index.json").write_text(json.dumps(index))
    np.save(swapped / "actions.npy", np.load(data / "actions.npy")[:, ::-1])
    ours, theirs = (play(model, source, actions="data", frames=3).rows for source in (data, swapped))
    assert np.array_equal(ours, theirs)


def test_own_actions_of_other_columns_are_refused(model, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    index = (data / "index.json").read_text().replace('"turn"', '"steer"')
    (other / "index.json").write_text(index)
    with pytest.raises(UserError, match=r"other has (a|no) column (steer|turn); the model's actions are move, turn"):
        play(model, other, actions="data", frames=3)


def test_a_file_may_be_csv_or_json_with_columns_in_any_order(model, data, tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffturn;move\n-1;0.5\n0;1\n")
    (tmp_path / "a.json").write_text(json.dumps([[0.5, -1], [1, 0]]))
    for name in ("a.csv", "a.json"):
        assert play(model, data, actions=str(tmp_path / name)).rows[0].tolist() == [[0.5, -1], [1, 0]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", "[[0.5]]", r"Each action of .*a\.json has 1 numbers, but must have 2"),
        ("a.json", "[[0.5, 3]]", r"has turn 3, but its range is -1 to 1"),
        ("a.json", "{", r"a\.json is not valid JSON"),
        ("a.json", '{"actions": {"clip": [[0, 0]]}}', r"a\.json holds the actions of several clips"),
        ("a.json", '{"columns": ["move", "jump"], "actions": [[0, 0]]}', r"a\.json has .*(jump|turn)"),
        ("a.json", "[[0, null]]", r"a\.json"),
        ("a.json", "5", r"a\.json holds no list of actions"),
        ("a.json", '{"actions": true}', r"a\.json holds no list of actions"),
        ("a.json", "[" * 100_000, r"a\.json is not valid JSON"),
        ("a.json", "[]", r"a\.json holds no rows of actions"),
        ("a.csv", "move,turn\n0.5,fast\n", r"a\.csv"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(model, data, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        play(model, data, actions=str(tmp_path / name))


def test_too_few_actions_are_refused(model, data):
    with pytest.raises(UserError, match="There are 3 actions for 9 frames"):
        play(model, data, actions="forward*3", frames=9)
    with pytest.raises(UserError, match="at most 7 actions follow a frame in its test split, but 30 are needed"):
        play(model, data, actions="data", frames=30)


def test_a_model_without_actions_refuses_them(data, tmp_path):
    network = VideoUNet(BIFLOW, NetworkConfig(channels=(32, 32), attention=(), patch=2))
    save_model(tmp_path, Model(network, BIFLOW, (3, 8, 8)))
    with pytest.raises(UserError, match="This model takes no actions"):
        play(tmp_path, data, actions="forward*3")


def test_actions_change_the_video(model, data, tmp_path):
    for name, text in (("a", "forward*3"), ("b", "left*3")):
        sample(Sample(model, first=data, actions=text, samples=1, engine="torch", out=tmp_path / name, **FEW))
    first, second = (torch.stack(list(decode(tmp_path / name / "sample_000.mp4").frames)) for name in "ab")
    assert len(first) == 3
    assert (first.int() - second.int()).abs().max() > 20


def test_a_recording_is_repeated_as_it_was(model, tmp_path):
    """A stream as a live session has it, whose noise depends on the seed and the frame's number."""
    loaded = load_model(model)
    first = torch.randint(0, 255, (1, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = [[1.0, 0.0], None, [0.0, -1.0], [0.5, 0.5]]
    generator = torch.Generator()
    live = stream(loaded, to_float(first), actions=iter(rows), generators=[generator], eps=0.3)
    pictures = []
    for index in range(40, 44):
        generator.manual_seed(frame_seed(5, index))
        pictures.append(to_uint8(next(live).x)[0])
    recording = {"seed": 5, "index": 40, "eps": 0.3, "context_eps": 0.05, "direction": "forward", "in_between": 1}
    recording |= {"solver": {"method": "adams"}, "first": [png(frame) for frame in first[0]]}
    content = {"columns": ["move", "turn"], "ranges": [[0, 1], [-1, 1]], "actions": rows, "recording": recording}
    (tmp_path / "recording.json").write_text(json.dumps(content))
    settings = Sample(model, actions=str(tmp_path / "recording.json"), engine="torch", png=True, out=tmp_path / "out")
    stats = sample(settings)
    assert (stats["samples"], stats["frames"], stats["settings"]["eps"], stats["seed"]) == (1, 4, 0.3, 5)
    for name, value in {"seed": 1, "eps": 0.3, "solver": "heun", "fps_factor": 2, "first": tmp_path}.items():
        with pytest.raises(UserError, match=f"sets {name} itself: leave it out"):
            sample(replace(settings, **{name: value}))
    for index, expected in enumerate(pictures):
        written = np.array(Image.open(tmp_path / "out" / "sample_000" / f"{index:06d}.png"))
        assert torch.equal(torch.from_numpy(written).permute(2, 0, 1), expected)


def png(frame) -> str:
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def walking(model, tmp_path):
    """The model with two first frames. In its clips, dark frames went on with move 1, 0.5, bright ones with 0."""
    folder = tmp_path / "walking"
    shutil.copytree(model, folder)
    for name, value in (("0", 30), ("1", 220)):
        (folder / "first" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / "first" / name / "0.png")
    pictures = torch.tensor([30, 220], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    rows = torch.tensor([[[1.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    write_tensors(folder / "first" / FILE, {"pictures": pictures, "rows": rows})
    return folder


def test_without_actions_moments_of_the_clips_steer(walking):
    found = playback(Sample(walking, samples=3, frames=5), load_model(walking))
    assert (found.rows, found.length) == (None, 5)
    policy = found.actions(range(3))
    frames = to_float(found.frames[:, -1])
    assert [policy(frames).tolist() for _ in range(2)] == [[[1, 0], [0, 0], [1, 0]], [[0.5, 0], [0, 0], [0.5, 0]]]
    assert policy(frames).tolist() == [[0, 0], [1, 0], [0, 0]]  # it has looked again, and does not follow the same
    assert found.actions(range(1)) is not policy  # each stream has its own


def test_they_do_not_backward_nor_where_there_are_none(walking):
    backward = playback(Sample(walking, frames=2, direction="backward"), load_model(walking))
    assert np.isnan(backward.rows).all()
    (walking / "first" / FILE).unlink()
    assert np.isnan(playback(Sample(walking, frames=2), load_model(walking)).rows).all()


def test_the_demo_does_what_was_done_after_its_first_frame(walking, tmp_path, monkeypatch):
    monkeypatch.setattr("biflow.outputs.shipped_model", {"racing": walking}.__getitem__)
    demo(Demo("racing", out=tmp_path / "demo", frames=2, samples=1))
    sample(Sample(walking, samples=1, frames=2, actions="move=1 move=0.5", out=tmp_path / "again"))
    assert (tmp_path / "demo" / "demo.mp4").read_bytes() == (tmp_path / "again" / "sample_000.mp4").read_bytes()


def test_the_picture_on_the_card_does_it_too(walking, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(picture, "follow", lambda *args, actions: asked.append(actions) or stream(*args))
    picture.draw(load_model(walking), tmp_path / "stream.webp")
    assert asked[0](to_float(torch.full((1, 3, 8, 8), 30, dtype=torch.uint8))).tolist() == [[1, 0]]
    (walking / "first" / FILE).unlink()
    picture.draw(load_model(walking), tmp_path / "stream.webp")
    assert next(asked[1]) is None  # not known: the model continues by itself
