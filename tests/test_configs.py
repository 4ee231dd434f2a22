from pathlib import Path

import pytest

from biflow import methods
from biflow.cli import main
from biflow.config import TrainConfig
from biflow.config.parsing import parse, read_yaml
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.training.log import training_flops

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_preset_is_a_config_that_train_takes(config, capsys):
    assert main(["train", "--config", str(config), "--data", "d", "--out", "o", "--dry-run"]) in (None, 0)
    assert "steps:" in capsys.readouterr().out


def test_base_costs_what_its_comment_says():
    (path,) = (path for path in CONFIGS if path.stem == "base")
    config = parse(TrainConfig, read_yaml(path))
    method = methods.get(config.method)
    network = VideoUNet(method, config.network)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(30e6, rel=0.02)
    assert training_flops(Model(network, method, shape=(3, 128, 128))) == pytest.approx(92e9, rel=0.02)
