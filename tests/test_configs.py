import pytest
import yaml

from biflow import methods
from biflow.config import TrainConfig
from biflow.config.parsing import PRESETS, parse, preset
from biflow.errors import UserError
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.training.log import training_flops
from tests.command_line import printed, refused

NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
TRAIN = ("train", "--data", "d", "--out", "o", "--dry-run")


def shown(*words, capsys) -> dict:
    return yaml.safe_load(printed(*TRAIN, *words, capsys=capsys))


def test_the_presets_are_those_that_the_help_names():
    assert NAMES == ["base", "compare", "maze", "own", "paper"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_what_train_takes(name, capsys):
    settings = shown("--preset", name, capsys=capsys)
    assert parse(TrainConfig, settings) == parse(TrainConfig, preset(name))


def test_without_a_preset_it_is_the_one_for_own_clips(capsys):
    settings = shown(capsys=capsys)
    assert (settings["steps"], settings["batch"], settings["context"]) == (20_000, 16, 3)
    assert settings == shown("--preset", "own", capsys=capsys)


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 7\nlr: 0.5\nnetwork: {layers: 3}\n")
    words = ("--preset", "base", "--config", path, "--lr", 0.25, "--network.attention", "[]")
    settings = shown(*words, capsys=capsys)
    assert [settings[name] for name in ("lr", "steps", "batch", "optimizer")] == [0.25, 7, 128, "muon"]
    assert [settings["network"][name] for name in ("layers", "channels", "attention")] == [3, [128, 128, 256, 256], []]
    path.write_text("preset: maze\nsteps: 7\n")
    settings = shown("--config", path, capsys=capsys)
    assert [settings[name] for name in ("steps", "coarse_noise")] == [7, 0.5]
    assert shown("--config", path, "--preset", "own", capsys=capsys)["coarse_noise"] == 0


def test_an_unknown_preset_names_the_nearest(tmp_path, capsys):
    sentence = "There is no preset 'mase'. The nearest is 'maze'; the presets are base, compare, maze, own, paper."
    assert refused(*TRAIN, "--preset", "mase", capsys=capsys) == f"--preset: {sentence}"
    with pytest.raises(UserError, match="nearest is 'own'"):
        preset("../own")


def test_weights_of_another_model_are_named_by_from(tmp_path, capsys):
    assert shown("--from", "runs/mine", capsys=capsys)["init"] == "runs/mine"
    (tmp_path / "mine.yaml").write_text("init: runs/other\n")
    assert shown("--config", tmp_path / "mine.yaml", capsys=capsys)["init"] == "runs/other"
    assert "There is no option --init" in refused(*TRAIN, "--init", "runs/mine", capsys=capsys)


def test_base_costs_what_its_comment_says():
    config = parse(TrainConfig, preset("base"))
    method = methods.get(config.method)
    network = VideoUNet(method, config.network)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(30e6, rel=0.02)
    assert training_flops(Model(network, method, shape=(3, 128, 128))) == pytest.approx(92e9, rel=0.02)
