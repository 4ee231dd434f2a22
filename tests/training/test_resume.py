"""A run resumes on the data, the checkpoint and in the folder that it should, or says why not."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from biflow import files
from biflow.config import Export, NetworkConfig, Prepare, TrainConfig
from biflow.data.prepare import prepare
from biflow.data.windows import Windows, window_order
from biflow.errors import UserError
from biflow.files import alone
from biflow.model import load_model
from biflow.training.average import Average
from biflow.training.checkpoint import _averaged, latest
from biflow.training.export import export
from biflow.training.fingerprint import differences, fingerprint
from biflow.training.loop import train
from biflow.training.raw import prepare_in
from tests.command_line import refused, run

TINY = NetworkConfig(channels=(32,), attention=(), patch=2)
CONFIG = TrainConfig(steps=4, batch=2, ema=0.9, save_every=2, log_every=1, preview_every=0, network=TINY)
LONGER = replace(CONFIG, steps=6)


def clips(folder, *, count=3, pace=1, frames=8, size=16, start=0):
    """Arrays of a square that moves by `pace` pixels a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for clip in range(start, start + count):
        film = np.full((frames, size, size, 3), 40, np.uint8)
        for i in range(frames):
            left = (clip + pace * i) % (size - 4)
            film[i, 4:8, left : left + 4] = (220, 180, 60 * (clip % 4))
        np.save(folder / f"{clip}.npy", film)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of four steps, with checkpoints at 2 and 4, and the prepared set that it trained on: (run, data)."""
    root = tmp_path_factory.mktemp("first")
    prepare(Prepare(clips(root / "clips"), root / "data", size=16, fps=10.0), progress=False)
    train(CONFIG, root / "data", root / "run")
    return root / "run", root / "data"


@pytest.fixture
def copy(first, tmp_path):
    """The same, to be damaged."""
    for source, name in zip(first, ("run", "data"), strict=True):
        shutil.copytree(source, tmp_path / name)
    return tmp_path / "run", tmp_path / "data"


def steps(out):
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What goes on


def test_losses_are_known_before_a_resumed_run_has_logged_new_ones(copy):
    out, data = copy
    train(replace(LONGER, log_every=100, save_every=1), data, out)
    state = json.loads((out / "checkpoints" / "step_00000005" / "state.json").read_text())
    assert state["losses"].keys() == {"v", "n"}


def test_a_raw_folder_may_hold_names_that_are_not_utf8(tmp_path):
    folder = clips(tmp_path / "clips")
    (folder / "0.npy").rename(folder / os.fsdecode(b"caf\xe9.npy"))
    assert train(replace(CONFIG, steps=1), folder, tmp_path / "run", size=16)["step"] == 1


def test_training_leaves_the_global_generator_alone(prepared, tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    train(replace(CONFIG, steps=1), prepared, tmp_path)
    assert torch.equal(torch.rand(3), expected)


# Data


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": 5}, r"\(3 clips then, 5 now; 24 frames then, 40 now\)"),
        ({"size": 32}, r"\(16x16 pixels then, 32x32 now\)"),
        ({"fps": 20.0}, r"\(10 frames per second then, 20 frames per second now\)"),
        ({"fps": None}, r"\(10 frames per second then, no known rate now\)"),
        ({"pace": 3}, r"\(other pixels\)"),
        ({"seed": 3}, r"\(other lengths, rates or splits of clips\)"),
    ],
)
def test_a_run_does_not_resume_on_other_data_and_says_what_differs(change, sentence, copy, tmp_path):
    out, _ = copy
    before = contents(out)
    made = {key: value for key, value in change.items() if key in ("count", "pace")}
    settings = {"size": 16, "fps": 10.0, **{key: value for key, value in change.items() if key not in made}}
    prepare(Prepare(clips(tmp_path / "clips", **made), tmp_path / "new", **settings), progress=False)
    with pytest.raises(UserError, match=rf"run in {out} was trained on other data {sentence}: give new_data='accept'"):
        train(LONGER, tmp_path / "new", out)
    assert contents(out) == before


def test_data_of_a_moved_source_with_other_names_are_the_same_data(copy, tmp_path):
    out, _ = copy
    clips(tmp_path / "moved")
    for i in range(3):
        (tmp_path / "moved" / f"{i}.npy").rename(tmp_path / "moved" / f"clip {i}.npy")
    prepare(Prepare(tmp_path / "moved", tmp_path / "new", size=16, fps=10.0), progress=False)
    assert train(LONGER, tmp_path / "new", out)["step"] == 6


def test_one_changed_frame_of_a_small_set_is_noticed(copy):
    _, data = copy
    then = fingerprint(Windows(data))
    frames = np.load(data / "frames.npy", mmap_mode="r+")
    frames[13, 0, 5, 5] += 1
    frames.flush()
    assert differences(then, fingerprint(Windows(data))) == "other pixels"
    assert differences(then, then) == ""


def test_accepted_data_keep_the_unit_of_the_weights_and_begin_a_new_pass(copy, tmp_path, monkeypatch):
    out, _ = copy
    v_scale = load_model(out).network.v_scale
    prepare(Prepare(clips(tmp_path / "clips", count=6, pace=5), tmp_path / "new", size=16), progress=False)
    asked = []

    def order(n, *, step, **rest):
        asked.append(step)
        return window_order(n, step=step, **rest)

    monkeypatch.setattr("biflow.training.loop.window_order", order)
    train(LONGER, tmp_path / "new", out, new_data="accept")
    assert asked == [0, 1]
    assert load_model(out).network.v_scale == v_scale
    assert json.loads((latest(out) / "state.json").read_text())["v_scale"] == v_scale
    train(replace(CONFIG, steps=7), tmp_path / "new", out)  # these are the run's data now
    assert asked == [0, 1, 2]


def test_a_checkpoint_that_records_no_data_counts_as_one_of_other_data(copy):
    out, data = copy
    path = latest(out) / "state.json"
    state = json.loads(path.read_text())
    v_scale = state["v_scale"]
    path.write_text(json.dumps({key: state[key] for key in state if key not in ("data", "v_scale", "sha256")}))
    with pytest.raises(UserError, match="does not record what data it was trained on: give new_data='accept'"):
        train(LONGER, data, out)
    train(LONGER, data, out, new_data="accept")
    assert load_model(out).network.v_scale == v_scale


def test_actions_of_other_columns_are_not_accepted(copy, tmp_path):
    out, _ = copy
    folder = clips(tmp_path / "clips")
    actions = {str(clip): [[0.5]] * 7 for clip in range(3)}
    (folder / "actions.json").write_text(json.dumps({"columns": ["steer"], "actions": actions}))
    prepare(Prepare(folder, tmp_path / "new", size=16, fps=10.0), progress=False)
    with pytest.raises(UserError, match=r"data with other actions \(actions then: none; now: steer\)"):
        train(LONGER, tmp_path / "new", out, new_data="accept")


# Clips that are not prepared


def test_a_raw_folder_is_prepared_again_when_it_or_the_size_changed(tmp_path, capsys):
    raw, out = clips(tmp_path / "raw"), tmp_path / "run"
    with pytest.raises(UserError, match="do not fit this network"):
        train(CONFIG, raw, out, size=15)
    assert not out.exists()
    train(CONFIG, raw, out, size=16)
    assert f"preparing it at 16x16 in {out / 'data'}" in capsys.readouterr().out
    train(CONFIG, raw, out, size=16)
    assert "preparing" not in capsys.readouterr().out
    before = contents(out / "data")
    for change, size, said, sentence in (
        (lambda: None, 32, "with other settings", "16x16 pixels then, 32x32 now"),
        (lambda: clips(raw, count=1, start=7), 16, "of other files", "3 clips then, 4 now"),
    ):
        change()
        with pytest.raises(UserError, match=sentence):
            train(LONGER, raw, out, size=size)
        assert f"was prepared {said}; preparing {raw} at {size}x{size}" in capsys.readouterr().out
        assert contents(out / "data") == before
    train(LONGER, raw, out, size=16, new_data="accept")
    assert len(Windows(out / "data", split="all").clips) == 4
    other = clips(tmp_path / "other", count=4, pace=3)
    with pytest.raises(UserError, match="other pixels"):
        train(LONGER, other, out, size=16)
    assert "was prepared of another source" in capsys.readouterr().out


def test_clips_that_were_trained_on_are_not_tested_on_where_there_are_more_of_them(tmp_path):
    raw, out = clips(tmp_path / "raw", count=8), tmp_path / "run"

    def splits():
        return {clip["name"]: clip["split"] for clip in Windows(out / "data", split="all").clips}

    prepare_in(out, raw, 16, admit=lambda _: None)
    before = splits()
    clips(raw, count=7, start=20)
    (raw / "loop").symlink_to(raw / "loop")
    prepare_in(out, raw, 16, admit=lambda _: None)
    after = splits()
    assert {name: after[name] for name in before} == before
    assert len(after) == 15


def test_a_folder_called_data_that_is_not_a_prepared_set_is_left_alone(tmp_path):
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a prepared set"):
        train(CONFIG, clips(tmp_path / "raw"), tmp_path / "run", size=16)
    assert (tmp_path / "run" / "data" / "mine.txt").read_text() == "mine"


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path):
    path.write_bytes((path.parent.with_name("step_00000002") / path.name).read_bytes())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", lambda path: path.write_bytes(b"")),
        ("model.safetensors", lambda path: path.unlink()),
        ("ema.safetensors", truncate),
        ("optimizer.safetensors", flip),
        ("optimizer.safetensors", swap),
        ("state.json", lambda path: path.write_text(path.read_text().replace('"batch": 2', '"batch": 3'))),
        ("state.json", swap),
        ("state.json", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    ],
)
def test_the_newest_checkpoint_that_is_whole_is_used(name, damage, copy, caplog):
    out, data = copy
    damage(out / "checkpoints" / "step_00000004" / name)
    for kept in ("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ema.safetensors"):
        (out / kept).write_bytes(b"")
    train(replace(CONFIG, steps=3, save_every=3), data, out)
    assert f"step_00000004/{name} is damaged. The newest checkpoint that is whole, {out}/checkpoints/step_00000002" in (
        caplog.text
    )
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_00000002", "step_00000003"]
    averaged = load_file(latest(out) / "ema.safetensors")
    assert all(torch.equal(value, averaged[key]) for key, value in load_model(out).weights.state_dict().items())
    assert steps(out) == [1, 2, 3]


def test_a_run_of_damaged_checkpoints_alone_is_refused_in_a_sentence(copy, capsys):
    out, data = copy
    for checkpoint in (out / "checkpoints").iterdir():
        truncate(checkpoint / "model.safetensors")
    words = ("train", "--data", data, "--out", out)
    assert f"No checkpoint of the run in {out} is whole" in refused(*words, "--network.channels", "32", capsys=capsys)


def test_a_damaged_model_beside_whole_checkpoints_is_written_again(copy):
    out, data = copy
    expected = contents(out)
    for path in (*out.glob("*.safetensors"), out / "config.json"):
        path.write_bytes(b"torn")
    train(CONFIG, data, out)
    written = contents(out)
    for path in (*out.glob("*.safetensors"), out / "config.json"):
        assert written[path.relative_to(out)] == expected[path.relative_to(out)]


@pytest.mark.parametrize("tail", [b'{"step": 5, "v"', b"\0" * 300, b'\0\0\n[1]\n{"v": 1}\n\xff\xfe'])
def test_a_torn_log_is_repaired_and_that_is_said(tail, copy, caplog):
    out, data = copy
    with (out / "log.jsonl").open("ab") as file:
        file.write(tail)
    train(LONGER, data, out)
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert "log.jsonl was damaged" in caplog.text
    assert b"\0" not in (out / "log.jsonl").read_bytes()


# One run at a time, equal runs, what is missing


def test_a_second_run_in_the_same_folder_is_refused(copy, capsys):
    out, data = copy
    with alone(out):
        words = ("train", "--data", data, "--out", out, "--network.channels", "32")
        assert refused(*words, capsys=capsys).startswith(f"Another command is writing in {out}.")
    assert train(LONGER, data, out)["step"] == 6


@pytest.mark.parametrize("full", ["diffusion_pytorch_model.safetensors", "evidence.json"])
def test_an_export_to_a_full_disk_changes_nothing(full, first, tmp_path, monkeypatch):
    sync = files._sync

    def fill(path):
        if path.name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    out = tmp_path / "model"
    for expected in ({}, None):  # a new folder, then one with a model in it
        before = contents(out) if expected is None else expected
        with monkeypatch.context() as patch:
            patch.setattr(files, "_sync", fill)
            with pytest.raises(UserError, match=rf"^No space left to write {out}/{full}\."):
                export(Export(first[0], out))
        assert (contents(out) if out.exists() else {}) == before
        export(Export(first[0], out))


def test_equal_runs_publish_equal_files(first, tmp_path):
    out, data = first
    prepare(Prepare(clips(tmp_path / "clips"), tmp_path / "data", size=16, fps=10.0), progress=False)
    for name in ("frames.npy", "sheet.png"):
        assert (tmp_path / "data" / name).read_bytes() == (data / name).read_bytes()
    again = (tmp_path / "data" / "index.json").read_text().replace(str(tmp_path), str(data.parent))
    assert again == (data / "index.json").read_text()
    train(CONFIG, data, tmp_path / "again")
    published = (*out.glob("*.safetensors"), out / "config.json", *out.glob("first/*"))
    for path in (*published, *latest(out).glob("*.safetensors")):
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_a_set_without_a_test_split_is_trained_and_sampled_on(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, out = tmp_path / "my data", tmp_path / "run"
    prepare(Prepare(clips(tmp_path / "clips", count=1, frames=3), data, size=16), progress=False)
    words = ("train", "--data", data, "--out", out, "--steps", 1, "--batch", 2, "--preview-every", 1)
    code, told, _ = run(*words, "--network.channels", "32", "--network.attention", "[]", capsys=capsys)
    assert code == 0
    assert (out / "previews" / "step_00000001.png").exists()
    assert caplog.text.count("has no test split, so streams start from frames of its training split") == 1
    _, _, command = told.partition("Stream from it with: biflow ")
    more = ("--frames", 1, "--samples", 1, "--engine", "torch", "--solver", "euler", "--steps", 1)
    assert run(*shlex.split(command), *more, capsys=capsys)[0] == 0


class Board:
    """A TensorBoard that fails where it is told to."""

    def __init__(self, place, error):
        self.place, self.error = place, error

    def __call__(self, *_, **__):
        if self.place == "construction":
            raise self.error
        return self

    def add_scalar(self, *_):
        raise self.error


@pytest.mark.parametrize("error", [TypeError("Descriptors"), SystemExit(1), OSError(28, "No space left")])
@pytest.mark.parametrize("place", ["import", "construction", "writing"])
def test_a_broken_tensorboard_costs_its_log_and_a_line(place, error, copy, caplog, monkeypatch):
    out, data = copy
    module = types.ModuleType("torch.utils.tensorboard")
    module.__getattr__ = lambda name: (_ for _ in ()).throw(error)
    if place != "import":
        module.SummaryWriter = Board(place, error)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(LONGER, data, out)
    assert steps(out)[-1] == 6
    assert caplog.text.count("No TensorBoard log from here on") == 1


def test_broken_packages_that_diffusers_would_use_are_done_without(tmp_path):
    for name in ("torchvision", "transformers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise TypeError('does not go with this torch')\n")
        (tmp_path / f"{name}-9.9.dist-info").mkdir()
        (tmp_path / f"{name}-9.9.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n"
        )
    code = "import biflow.training.loop"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("torchvision", "transformers"):
        assert f"{name} is broken (does not go with this torch), and not used." in done.stderr


def test_tied_weights_are_averaged_under_all_of_their_names():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    ema = Average(network.parameters(), 0.9)
    ema.shadow = [torch.full((2, 2), 7.0)]
    assert {name: value.mean().item() for name, value in _averaged(network, ema).items()} == {
        "0.weight": 7.0,
        "1.weight": 7.0,
    }
