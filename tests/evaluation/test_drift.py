"""Drift in a world of one picture, grey, so that all that is not grey in a frame is an error."""

import pytest
import torch

from biflow.drift import drift
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.methods import BIFLOW, FLOW, FLOWMAP
from biflow.model import Model
from biflow.paths import Fields
from biflow.solvers import Solver
from biflow.video import to_float
from tests.rollout import known
from tests.rollout.known import grey_world

GREY = known.GREY.repeat(20, 1, 1, 1)


@pytest.mark.parametrize("method", [BIFLOW, FLOWMAP])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_drift_is_the_rms_of_what_is_wrong_with_a_frame(method, eps):
    model, frames = Model(grey_world(), method, (3, 8, 8), eps=eps), GREY.clone()
    noise = torch.randint(-20, 21, frames.shape, generator=torch.Generator().manual_seed(0))
    frames[5:10] += 26
    frames[10:] = (frames[10:].short() + noise[10:]).to(torch.uint8)
    found = drift(model, frames, eps)
    assert found.shape == (20,)
    assert found[:5].max() < 1e-5
    exact = (to_float(frames) - to_float(GREY)).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(found[5:], exact[5:], rtol=0.03, atol=0)  # but for its chance likeness to the noise


def test_a_frames_drift_does_not_depend_on_the_other_frames():
    model = Model(grey_world(), BIFLOW, (3, 8, 8), eps=0.1)
    frames = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drift(model, frames, 0.1)[:3], drift(model, frames[:3], 0.1))


def test_an_evaluation_has_the_drift_over_that_of_real_frames(prepared, tmp_path):
    def worse_and_worse(query):
        level = query.alpha.clamp(min=1e-3)[:, None, None, None]
        return Fields(torch.full_like(query.x, 0.05), (query.x + 0.7) / level)

    settings = {"samples": 2, "frames": 8, "window": 6, "stride": 6, "frame_stride": 3, "networks": (), "nearest": 0}
    protocol = Protocol(**settings, eps=0.0, short_videos=0, solver=Solver("euler", steps=1))
    model = Model(worse_and_worse, BIFLOW, (3, 16, 16))
    found = evaluate(model, prepared, tmp_path / "biflow", protocol, progress=False)["over_time"]["drift"]
    assert (found["frames"], found["real"]) == ([0, 3, 6], 1.0)
    assert 1 < found["generated"][0] < found["generated"][1] < found["generated"][2] < 3
    assert drift(Model(worse_and_worse, BIFLOW, (3, 8, 8)), GREY, 0.1) is not None
    flow = Model(lambda query: Fields(torch.zeros_like(query.x)), FLOW, (3, 16, 16))
    assert "drift" not in evaluate(flow, prepared, tmp_path / "flow", protocol, progress=False)["over_time"]
