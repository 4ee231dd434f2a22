import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from biflow import cli
from biflow.config import NetworkConfig
from biflow.networks import VideoUNet
from biflow.training.checkpoint import save_model

TINY = {"network": {"channels": [32, 32], "attention": [], "patch": 2}, "batch": 4, "preview_every": 0}


def run(*words, capsys) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def refused(*words, capsys) -> str:
    """The sentence that `biflow words` was refused with."""
    code, _, errors = run(*words, capsys=capsys)
    sentences = [line for line in errors.splitlines() if line.startswith("biflow: ")]
    assert code == 2, errors
    assert "Traceback" not in errors
    assert sentences, errors
    return sentences[-1]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "steps": 4, "log_every": 2, "save_every": 2}))
    return path


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", VideoUNet("biflow", NetworkConfig((32, 32), attention=()), (16, 16)), None, {})
    return tmp_path / "model"


@pytest.mark.parametrize("method", ["flow", "biflow", "condiff"])
def test_prepare_train_sample_export_without_hand_holding(method, config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for clip in range(3):
        for i in range(6):
            path = tmp_path / "clips" / f"clip {clip}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    run_dir, prepared = tmp_path / "run", tmp_path / "prepared"
    assert run("prepare", tmp_path / "clips", prepared, "--size", 16, capsys=capsys)[0] == 0
    train = ("train", "--config", config, "--data", prepared, "--out", run_dir, "--method", method)
    assert run(*train, capsys=capsys)[0] == 0
    sample = ("sample", run_dir, "--first", prepared, "--frames", 3, "--samples", 2, "--out", tmp_path / "out")
    assert run(*sample, capsys=capsys)[0] == 0
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
    assert run(*words, capsys=capsys)[0] == 0
    assert run(*words, "--steps", 6, capsys=capsys)[0] == 0


def test_dry_run_prints_settings_that_a_config_file_can_hold(config, tmp_path, capsys):
    words = (
        "train",
        "--config",
        config,
        "--data",
        "x",
        "--out",
        "y",
        "--lr",
        "0.5",
        "--network.layers",
        2,
        "--dry-run",
    )
    code, out, _ = run(*words, capsys=capsys)
    settings = yaml.safe_load(out)
    assert code == 0
    assert (settings["lr"], settings["network"]["layers"], settings["network"]["patch"]) == (0.5, 2, 2)
    (tmp_path / "again.yaml").write_text(out)
    again = run("train", "--config", tmp_path / "again.yaml", "--data", "x", "--out", "y", "--dry-run", capsys=capsys)
    assert yaml.safe_load(again[1]) == settings


@pytest.mark.parametrize("content", [{"stepz": 3}, {"network": {"layerz": 2}}])
def test_an_unknown_key_in_a_config_names_the_nearest(content, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    told = refused("train", "--config", tmp_path / "bad.yaml", "--data", "x", "--out", "y", capsys=capsys)
    assert "nearest known one is network.layers" in told or "nearest known one is steps" in told


def test_an_unknown_option_names_the_nearest(capsys):
    assert "nearest known one is steps" in refused("train", "--data", "x", "--out", "y", "--stepz", 3, capsys=capsys)
    assert "nearest known one is frames" in refused("sample", "m", "--framez", 3, capsys=capsys)


def test_an_unknown_verb_names_the_nearest(capsys):
    assert "nearest is 'prepare'" in refused("prepar", "a", "b", capsys=capsys)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--lr", "abc", "lr"),
        ("--steps", 0, "steps is 0"),
        ("--ema", 1.5, "ema is 1.5"),
        ("--method", "gan", "method"),
        ("--network.channels", "[48]", "48 is not a multiple of 32"),
    ],
)
def test_a_bad_setting_is_named(option, value, told, capsys):
    assert told in refused("train", "--data", "x", "--out", "y", option, value, capsys=capsys)


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


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (16, 16), (90, 60, 30)).save(tmp_path / "first.png")
    return tmp_path / "first.png"


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


def test_no_space_left_is_told(model, image, tmp_path, capsys, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device", "somewhere/file")

    monkeypatch.setattr("biflow.sampling.sample", full)
    assert "No space left" in refused("sample", model, "--first", image, capsys=capsys)


def test_importing_a_reference_checkpoint_of_another_width_is_refused(tmp_path, capsys):
    from safetensors.torch import save_file

    save_file({"model1.conv_in.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "model.safetensors")
    words = ("import", "reference", tmp_path / "model.safetensors", tmp_path / "out")
    words += ("--method", "biflow", "--width", 32, "--size", 64)
    assert "no biflow checkpoint of width 32" in refused(*words, capsys=capsys)
    assert not (tmp_path / "out").exists()


def test_help_lists_the_verbs_and_help_of_a_verb_its_options(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    assert all(verb in out for verb in ("prepare", "train", "sample", "import reference", "data fetch"))
    code, out, _ = run("sample", "--help", capsys=capsys)
    assert code == 0
    assert "--fps_factor" in out
