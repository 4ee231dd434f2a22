import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.actions import Actions
from biflow.config import NetworkConfig
from biflow.methods import BIFLOW
from biflow.model import Model, empty_conditions, save_model
from biflow.networks import VideoUNet

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_two_moons_flow_leaves_and_biflow_stays(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "plots" / "moons.png"
    command = [sys.executable, EXAMPLES / "01_two_moons.py", "--out", out, "--steps", "1200", "--frames", "100"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # "  BI-FLOW, eps 0.1 forward   0.085   backward   0.082"
    rows = [line.split(" forward ") for line in printed.splitlines() if " forward " in line]
    forward = {run.strip(): float(rest.split()[0]) for run, rest in rows}
    backward = {run.strip(): float(rest.split()[-1]) for run, rest in rows}
    assert 3 * forward["BI-FLOW, eps 0.1"] < forward["FLOW"]
    assert max(forward["BI-FLOW, eps 0.1"], backward["BI-FLOW, eps 0.1"]) < 0.15
    assert out.stat().st_size > 10_000


def test_futures_of_a_frame_differ_by_what_is_done_alone(tmp_path, monkeypatch):
    torch.manual_seed(0)
    side, actions = 16, Actions(("turn",), ((-1.0, 1.0),))
    conditions = empty_conditions(1, (3, 1, 1), 1, actions)
    network = VideoUNet(BIFLOW, NetworkConfig(channels=(64,), attention=(), patch=2), conditions=conditions)
    with torch.no_grad():
        for name, weight in network.named_parameters():  # an action has no effect until it is trained
            weight.add_((0.5 if "class_embedding" in name else 0.05) * torch.randn_like(weight))
    folder, out = tmp_path / "model", tmp_path / "out" / "futures.png"
    save_model(folder, Model(network, BIFLOW, (3, side, side), eps=0.2, context=1, actions=actions))
    (folder / "first").mkdir()
    Image.new("RGB", (side, side), (200, 90, 30)).save(folder / "first" / "0.png")
    words = ["futures", folder, "left*6", "right*9", "left*8", "--out", out]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    runpy.run_path(str(EXAMPLES / "03_futures.py"), run_name="__main__")
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (3 * 34 + 2, 7 * 34 + 2, 3)  # the first frame and six others, each enlarged, with gaps of 2
    left, right, again = (sheet[2 + row * 34 : 34 + row * 34, 2:] for row in range(3))
    assert (left == again).all()
    assert (left[:, :32] == (200, 90, 30)).all()
    assert (left[:, :32] == right[:, :32]).all()
    assert (left[:, 34:66] != right[:, 34:66]).any()
