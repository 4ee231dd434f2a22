"""The commands from end to end, on small clips and networks."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from biflow import methods
from biflow.config import NetworkConfig, TrainConfig
from biflow.config.checks import check_run_folder
from biflow.errors import UserError
from biflow.model import Model, save_model
from biflow.networks import VideoUNet
from biflow.training.loop import train
from tests.command_line import refused, run

TINY = {"network": {"channels": [32, 32], "attention": [], "patch": 2}, "batch": 4, "preview_every": 0}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "steps": 4, "log_every": 2, "save_every": 2}))
    return path


@pytest.fixture
def model(tmp_path):
    method = methods.get("biflow")
    network = VideoUNet(method, NetworkConfig((32, 32), attention=()))
    save_model(tmp_path / "model", Model(network, method, shape=(3, 16, 16)))
    return tmp_path / "model"


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (16, 16), (90, 60, 30)).save(tmp_path / "first.png")
    return tmp_path / "first.png"


@pytest.fixture(autouse=True)
def short_pictures(monkeypatch):
    monkeypatch.setattr("biflow.training.picture.FRAMES", 2)


@pytest.mark.parametrize("method", ["flow", "biflow", "condiff"])
def test_prepare_train_sample_export_without_hand_holding(method, config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for clip in range(3):
        for i in range(6):
            path = tmp_path / "clips" / f"clip {clip}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    run_dir, prepared = tmp_path / "run", tmp_path / "prepared"
    code, out, _ = run("prepare", tmp_path / "clips", prepared, "--size", 16, capsys=capsys)
    counts, shape, sheet = out.splitlines()
    assert (code, counts) == (0, f"{prepared}: 18 frames of 16x16 in 3 clips, 1 of them for testing; 0 skipped.")
    assert "3 of 3 clips have frames of another shape, which were squeezed" in shape
    assert str(prepared / "sheet.png") in sheet
    train = ("train", "--config", config, "--data", prepared, "--out", run_dir, "--method", method)
    code, out, _ = run(*train, capsys=capsys)
    assert code == 0
    assert f"Trained 4 steps: {run_dir}." in out
    sample = ("sample", run_dir, "--first", prepared, "--frames", 3, "--samples", 2, "--out", tmp_path / "out")
    code, out, _ = run(*sample, capsys=capsys)
    assert code == 0
    assert out.startswith(f"2 videos of 3 frames: {tmp_path / 'out' / 'sample_000.mp4'} to ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "sample_000.mp4",
        "sample_001.mp4",
        "sheet.png",
        "stats.json",
    ]
    assert run("export", run_dir, tmp_path / "small", "--first", prepared, capsys=capsys)[0] == 0
    evidence = json.loads((tmp_path / "small" / "evidence.json").read_text())
    assert (evidence["step"], evidence["samples"], evidence["config"]["method"]) == (4, 16, method)
    again = ("sample", tmp_path / "small", "--frames", 2, "--out", tmp_path / "again")
    assert run(*again, capsys=capsys)[0] == 0


def test_training_runs_straight_from_a_folder(config, tmp_path, capsys):
    for clip in range(2):
        (tmp_path / "clips").mkdir(exist_ok=True)
        np.save(tmp_path / "clips" / f"{clip}.npy", np.zeros((4, 16, 16, 3), np.uint8))
    words = ("train", "--config", config, "--data", tmp_path / "clips", "--out", tmp_path / "run", "--size", 16)
    code, out, _ = run(*words, capsys=capsys)
    assert code == 0
    assert f"preparing it at 16x16 in {tmp_path / 'run' / 'data'}" in out
    code, out, _ = run(*words, "--steps", 6, capsys=capsys)
    assert code == 0
    assert "preparing" not in out


def test_the_demo_says_what_it_wrote(tmp_path, capsys):
    code, out, _ = run("demo", "racing", "--frames", 2, "--samples", 1, "--out", tmp_path / "out", capsys=capsys)
    names = ["demo.mp4", "demo.png", "demo.json"]
    assert (code, [line.split()[0] for line in out.splitlines()]) == (
        0,
        [str(tmp_path / "out" / name) for name in names],
    )
    assert "network evaluations per frame" in out
    assert all((tmp_path / "out" / name).stat().st_size for name in names)


def test_an_unknown_method_is_refused_before_anything_is_done(tmp_path, capsys):
    for last in ("--dry-run", "--compile"):
        words = ("train", "--data", tmp_path, "--out", tmp_path / "run", "--method", "gan", last)
        told = refused(*words, capsys=capsys)
        assert "--method" in told
        assert "'gan'" in told
    words = ("import", "reference", tmp_path, tmp_path / "run", "--method", "gan", "--width", 32, "--size", 64)
    assert "--method" in refused(*words, capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_fit_the_frames_names_sizes_that_do(prepared, tmp_path, capsys):
    words = ("train", "--data", prepared, "--out", tmp_path / "run", "--network.channels", "[32,32,32,32,32]")
    assert "multiples of 32; 32 works" in refused(*words, capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_missing_empty_and_single_frame_clips_are_refused(tmp_path, capsys):
    assert "nowhere" in refused("prepare", tmp_path / "nowhere", tmp_path / "out", capsys=capsys)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("prepare", tmp_path / "empty", tmp_path / "out", capsys=capsys)
    (tmp_path / "one").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "one" / "0.png")
    assert "one" in refused("prepare", tmp_path / "one", tmp_path / "out", capsys=capsys)
    assert not (tmp_path / "out").exists()


def test_a_corrupt_clip_is_named_and_skipped_or_fatal(tmp_path, capsys, caplog):
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips" / "good.npy", np.zeros((10, 16, 16, 3), np.uint8))
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video at all")
    code, out, errors = run("prepare", tmp_path / "clips", tmp_path / "out", "--size", 16, capsys=capsys)
    assert code == 0
    assert "1 skipped" in out
    assert "broken.mp4" in errors + caplog.text
    told = refused("prepare", tmp_path / "clips", tmp_path / "strict", "--size", 16, "--strict", "true", capsys=capsys)
    assert "broken.mp4" in told
    assert not (tmp_path / "strict").exists()


def test_a_pickle_is_refused_and_never_run(model, image, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (model / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert "not a safetensors file" in refused("sample", model, "--first", image, capsys=capsys)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_shape_is_refused(model, image, capsys):
    settings = json.loads((model / "config.json").read_text())
    settings["network"]["channels"] = [32, 64]
    (model / "config.json").write_text(json.dumps(settings))
    assert "another" in refused("sample", model, "--first", image, capsys=capsys)


def test_no_model_and_no_first_frame_are_told(model, image, tmp_path, capsys):
    assert "No model in" in refused("sample", tmp_path, "--first", image, capsys=capsys)
    assert "--first" in refused("sample", model, capsys=capsys)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "broken.png" in refused("sample", model, "--first", tmp_path / "broken.png", capsys=capsys)


def test_no_space_left_is_told(model, image, capsys, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device", "somewhere/file")

    monkeypatch.setattr("biflow.outputs.sample", full)
    told = refused("sample", model, "--first", image, capsys=capsys)
    assert "No space left" in told
    assert "somewhere/file" in told


def test_importing_a_reference_checkpoint_of_another_width_is_refused(tmp_path, capsys):
    from safetensors.torch import save_file

    save_file({"model1.conv_in.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "model.safetensors")
    words = ("import", "reference", tmp_path / "model.safetensors", tmp_path / "out")
    words += ("--method", "biflow", "--width", 32, "--size", 64)
    assert "not a biflow checkpoint of width 32" in refused(*words, capsys=capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_written_over_a_run(tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    sentence = f"--out: {tmp_path / 'run'} is a run of `biflow train`. Choose another folder."
    assert refused("export", tmp_path, tmp_path / "run", capsys=capsys) == sentence
    words = ("import", "reference", tmp_path, tmp_path / "run", "--method=flow", "--width=32", "--size=32")
    assert refused(*words, capsys=capsys) == sentence


def test_what_is_not_prepared_is_not_to_be_prepared_into_itself(model, tmp_path, capsys):
    (tmp_path / "my clips").mkdir()
    words = ("evaluate", model, "--data", tmp_path / "my clips", "--out", tmp_path / "out")
    command = f"biflow prepare '{tmp_path}/my clips' '{tmp_path}/my clips_prepared'"
    assert refused(*words, capsys=capsys).endswith(f"is not a prepared set. Make one with: {command}")
    assert not (tmp_path / "out").exists()


def test_two_sets_of_videos_are_not_compared_into_a_folder(tmp_path, capsys):
    assert refused("fvd", tmp_path, tmp_path, "--json", tmp_path, capsys=capsys).startswith(
        f"--json: {tmp_path} is a folder"
    )


def test_the_solver_of_a_protocol_is_changed_as_asked(monkeypatch, model, prepared, tmp_path, capsys):
    """What `biflow evaluate` hands to the library: the protocol with the options over it, and the model's engine."""
    seen = []

    def evaluate(model, data, out, protocol, **batches):
        seen.append((model, protocol, batches))
        return {}

    monkeypatch.setattr("biflow.evaluation.evaluate.evaluate", evaluate)
    words = ("evaluate", model, "--data", prepared, "--out", tmp_path / "out", "--engine", "torch")
    for options in ((), ("--steps", 3), ("--solver", "heun"), ("--solver", "reference", "--eps", 0.3, "--batch", 2)):
        assert run(*words, *options, capsys=capsys)[0] == 0
    usual, steps, heun, reference = (protocol.solver for _, protocol, _ in seen)
    assert (steps.method, steps.steps, steps.rtol) == (usual.method, 3, usual.rtol)
    assert (heun.method, heun.steps, heun.reference) == ("heun", None, False)
    assert (reference.name, reference.steps) == ("reference", None)
    assert (seen[3][1].eps, seen[3][2]) == (0.3, {"batch": 2, "feature_batch": 4})
    assert seen[0][0].engine.startswith("torch")
    assert "--steps" in refused(*words, "--steps", 0, capsys=capsys)


def test_a_run_has_a_folder_of_its_own(prepared, config, tmp_path, capsys):
    clips, copy = tmp_path / "clips", tmp_path / "copy"
    clips.mkdir()
    (clips / "a.mp4").write_bytes(b"a film")
    shutil.copytree(prepared, copy)
    for folder, name in ((clips, "a.mp4"), (copy, "frames.npy")):
        sentence = refused("train", "--config", config, "--data", prepared, "--out", folder, capsys=capsys)
        assert f"{folder} holds other files, such as {name}. Name a new folder for the run." in sentence
        with pytest.raises(UserError, match="Name a new folder"):
            train(TrainConfig(steps=1), prepared, folder)
    assert [path.name for path in clips.iterdir()] == ["a.mp4"]
    (tmp_path / "begun").mkdir()
    for name in ("wandb.json", "log.jsonl", ".lock"):  # of a run that was stopped before its first checkpoint
        (tmp_path / "begun" / name).write_text("")
    check_run_folder(tmp_path / "begun")


def test_a_run_that_is_long_enough_says_so(prepared, config, tmp_path, capsys):
    train = ("train", "--config", config, "--data", prepared, "--out", tmp_path / "run")
    assert "Trained 4 steps: " in run(*train, capsys=capsys)[1]
    again = run(*train, "--steps", 2, capsys=capsys)[1].splitlines()[-1]
    assert again == f"{tmp_path / 'run'} has 4 steps already, so nothing was trained. For more, give --steps."
