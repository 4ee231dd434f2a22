import math
import runpy
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
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


@pytest.fixture
def two_axes(monkeypatch):
    """The example of two axes, with six pictures of 8x8 in a turn of each."""
    spec = spec_from_file_location("two_axes", EXAMPLES / "04_two_axes.py")
    example = module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the example adds `datasets`
    spec.loader.exec_module(example)
    for name, value in {"VIEWS": 6, "LIGHTS": 6, "SIDE": 8}.items():
        setattr(example, name, value)
    return example


def test_between_four_pictures_a_slope_is_the_change_along_its_axis(two_axes):
    corners = torch.tensor([1.0, 2.0, 4.0, 8.0])  # x = 1 + t + 3 s + 3 t s
    t, s = torch.tensor(0.25), torch.tensor(0.5)
    x, along_t, along_s = two_axes.between(corners, t, s)
    assert (x, along_t, along_s) == (3.125, 2.5, 3.75)


@pytest.mark.parametrize(
    ("direction", "change"), [((1, 0), 2), ((0, 1), 3), ((1, 1), 11), ((1, -1), -1), ((-1, 0), -2)]
)
def test_a_step_goes_by_the_slopes_of_its_axes(two_axes, direction, change):
    """A world of 0.05 (2 t + 3 s + 6 t s²): t and s go up from 0 to 1, down from 1 to 0, or stay at 0."""

    def network(query):
        t, s = query.t.view(-1, 1, 1, 1), query.s.view(-1, 1, 1, 1)
        still = torch.zeros_like(query.x)
        return two_axes.Slopes(still + 0.05 * (2 + 6 * s**2), still + 0.05 * (3 + 12 * t * s), still)

    ours, _ = two_axes.walk(network, torch.zeros(6, 6, 3, 8, 8), direction, 1, 0.0)
    assert ours[0].abs().max() == 0
    assert (ours[1] / 0.05).mean().item() == pytest.approx(change, abs=0.3)  # by four Adams steps


def test_a_step_takes_its_noise_away(two_axes):
    def network(query):
        nothing = torch.zeros_like(query.x)  # a world of one grey picture: all else is noise
        return two_axes.Slopes(nothing, nothing, query.x / query.alpha.clamp(min=1e-6).view(-1, 1, 1, 1))

    ours, _ = two_axes.walk(network, torch.zeros(6, 6, 3, 8, 8), (1, 1), 3, two_axes.EPS)
    assert ours.abs().max() < 1e-4


def test_two_axes_are_learned_from_a_grid_of_pictures(two_axes):
    """The view changes red and the upper half of green, the light blue and the lower half of green."""
    angle = 2 * math.pi * torch.arange(6) / 6
    grid = torch.zeros(6, 6, 3, 8, 8)
    grid[..., 0, :, :] = 0.8 * angle.sin()[:, None, None, None]
    grid[..., 1, :4, :] = 0.8 * angle.cos()[:, None, None, None]
    grid[..., 2, :, :] = 0.8 * angle.sin()[:, None, None]
    grid[..., 1, 4:, :] = 0.8 * angle.cos()[:, None, None]
    network = two_axes.train(grid, 200, 0)
    for direction in two_axes.WALKS.values():
        ours, true = two_axes.walk(network, grid, direction, 3, 0.0)  # half a turn: nothing is where it was
        assert (ours[3] - true[3]).square().mean() < 0.4**2 * (ours[0] - true[3]).square().mean()


def test_two_axes_writes_a_row_for_each_walk_and_returns_its_errors(two_axes, tmp_path):
    out = tmp_path / "out" / "two_axes.png"
    ends = two_axes.main(["--out", str(out), "--steps", "2", "--turns", "2"])
    assert set(ends) == {f"{name}, eps {eps}" for name in two_axes.WALKS for eps in ("0", "0.15")}
    assert all(len(errors) == 2 and np.isfinite(errors).all() for errors in ends.values())
    assert Image.open(out).height == 8 * 18 + 2  # four walks and their true pictures, of 16 pixels with gaps of 2
