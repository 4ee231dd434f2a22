from pathlib import Path

import pytest
import yaml

from biflow.cli import main
from biflow.networks import VideoUNet
from biflow.training.flops import training_flops

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_preset_is_a_config_that_train_takes(config, capsys):
    assert main(["train", "--config", str(config), "--data", "d", "--out", "o", "--dry-run"]) in (None, 0)
    assert "steps:" in capsys.readouterr().out


def test_base_costs_what_its_comment_says():
    (path,) = (path for path in CONFIGS if path.stem == "base")
    model = VideoUNet("biflow", yaml.safe_load(path.read_text())["network"], (128, 128))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(30e6, rel=0.02)
    assert training_flops(model) == pytest.approx(92e9, rel=0.02)
