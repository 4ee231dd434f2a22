"""A method, a network and an engine from outside the package: they train, resume, stream and are measured.

The method is a flow map. Its network is asked with one more tensor, the time to jump to, and a frame takes one
evaluation. Nothing in the package knows any of the three.
"""

import copy
import json
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from biflow import methods
from biflow.config import NetworkConfig, Sample, Solver, TrainConfig
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.methods import METHODS, Loss, Method
from biflow.methods.method import squared_error
from biflow.model import Model, load_model
from biflow.networks import VideoUNet
from biflow.outputs import sample
from biflow.paths import NO_CONDITIONS, Fields, linear
from biflow.rollout import drain, generate, stream
from biflow.solvers import Solution
from biflow.training.checkpoint import latest
from biflow.training.loop import train

# A method


class Jump(NamedTuple):
    """What its network is asked: where the state x of time t is at the time `to`."""

    x: Tensor  # (b, *shape)
    t: Tensor  # (b,)
    to: Tensor  # (b,)


class FlowMap(Method):
    """The network answers with the mean velocity from t to `to`, so that one evaluation solves a frame."""

    name, title = "toy", "TOY"

    def loss(self, network, clips, generator, config):
        x0, x1 = clips.unbind(1)
        t, to = torch.rand((2, len(x0)), generator=generator, device=x0.device)
        v = network(Jump(linear(x0, x1, t), t, to)).v
        return Loss({"v": squared_error(v, x1 - x0)}, {"t": t, "to": to})

    def advance(self, network, x, k0, k1, *, given=(), conditions=NO_CONDITIONS, eps=0.0, solver, first_step=None):
        t, one = torch.full((len(x),), k0, device=x.device), torch.ones(len(x), dtype=torch.int64, device=x.device)
        v = network(Jump(x, t, t - k0 + k1)).v
        return Solution(x + (k1 - k0) * v, nfe=one, accepted=one, rejected=0 * one, next_step=one.float())


# A network


class Pixelwise(nn.Module):
    """A network that is no VideoUNet, and that has a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("unit", torch.ones(()))
        self.layers = nn.Sequential(nn.Conv2d(5, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, query: Jump) -> Fields:
        numbers = torch.stack([query.t, query.to], dim=1)[:, :, None, None].expand(-1, -1, *query.x.shape[2:])
        return Fields(self.unit * self.layers(torch.cat([query.x, numbers], dim=1)))


# An engine


def in_float64(model: Model) -> Model:
    """The same model, its network evaluated in float64."""
    exact = copy.deepcopy(model.weights).double()

    def evaluate(query):
        v, n = exact(type(query)(*(None if tensor is None else tensor.double() for tensor in query)))
        return Fields(v.to(query[0].dtype), None if n is None else n.to(query[0].dtype))

    return replace(model, network=evaluate, engine="float64")


CONFIG = TrainConfig(method="toy", steps=6, batch=4, lr=1e-2, ema=0.9, save_every=3, log_every=3, preview_every=6)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The method under its name, for the length of a test."""
    method = FlowMap()
    monkeypatch.setitem(METHODS, method.name, method)
    return method


def network(seed: int = 0) -> Pixelwise:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pixelwise()


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A trained run."""
    out = tmp_path_factory.mktemp("toy") / "run"
    METHODS["toy"] = FlowMap()
    try:
        history = train(replace(CONFIG, steps=60, save_every=60, log_every=20), prepared, out, network=network())
    finally:
        del METHODS["toy"]
    assert history["step"] == 60
    return out


@pytest.fixture
def first():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_learns(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["v"] < 0.9 * lines[0]["v"]
    assert len(lines[0]["v_against_to"]) == 10
    assert lines[0]["tflops"] > 0


def test_it_previews(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path, network=network())
    assert (tmp_path / "previews" / "step_00000006.png").stat().st_size > 1000


def test_it_resumes_to_bit_equal_parameters(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "whole", network=network())
    train(replace(CONFIG, steps=3), prepared, tmp_path / "cut", network=network())
    assert train(CONFIG, prepared, tmp_path / "cut", network=network(seed=1))["step"] == 6  # its weights are replaced
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        whole, resumed = (load_file(latest(tmp_path / out) / name) for out in ("whole", "cut"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


def test_its_model_loads_into_a_network_like_it(run, toy):
    model = load_model(run, network=network(seed=1))
    assert (model.method, model.shape, model.eps) == (toy, (3, 16, 16), 0)
    averaged = load_file(run / "diffusion_pytorch_model.ema.safetensors")
    assert all(torch.equal(value, averaged[name]) for name, value in model.weights.state_dict().items())
    with pytest.raises(UserError, match="a Pixelwise, not a VideoUNet"):
        load_model(run)


@pytest.mark.parametrize(("direction", "sign"), [("forward", 1), ("backward", -1)])
def test_it_streams_with_one_evaluation_per_frame(run, first, direction, sign):
    model = load_model(run, network=network())
    shown = list(islice(drain(stream(model, first, direction=direction)), 3))
    assert [frame.nfe for frame in shown] == [[1, 1]] * 3
    assert [frame.time for frame in shown] == [sign * i for i in (1, 2, 3)]
    t, to = (torch.full((2,), float(time)) for time in ((0, 1) if sign == 1 else (1, 0)))
    with torch.no_grad():
        expected = (first + sign * model.network(Jump(first, t, to)).v).clamp(-1, 1)
    assert torch.allclose(shown[0].x, expected, atol=1e-6)
    halves = list(islice(stream(model, first, direction=direction, in_between=2), 2))
    assert [frame.time for frame in halves] == [sign * 0.5, sign]


def test_an_engine_answers_for_it(run, first):
    model = load_model(run, network=network())
    fast = in_float64(model)
    assert fast.engine == "float64"
    torch.testing.assert_close(generate(fast, first, frames=4), generate(model, first, frames=4), atol=1e-5, rtol=0)


def test_the_engines_of_the_package_answer_for_it_too(run, first, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load_model(run, network=network())
    fast = with_engine(model, "openvino", rtol=1e-4)
    assert fast.engine == "openvino f32"
    torch.testing.assert_close(generate(fast, first, frames=4), generate(model, first, frames=4), atol=1e-4, rtol=1e-4)


def test_a_video_unet_of_the_usual_shape_serves_it_as_well(prepared, tmp_path):
    config = replace(CONFIG, steps=3, preview_every=0, network=NetworkConfig((32, 32), attention=(), patch=2))
    train(config, prepared, tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert isinstance(model.network, VideoUNet)
    (net,) = model.network.nets
    assert net.class_embedding is not None  # of the time to jump to
    settings = Sample(tmp_path / "run", first=prepared, frames=3, samples=2, engine="torch", out=tmp_path / "out")
    stats = sample(settings)
    assert stats["nfe"] == [[1] * 3] * 2
    assert stats["settings"]["method"] == "toy"


def test_it_is_measured(run, prepared, tmp_path, monkeypatch):
    from biflow.evaluation.evaluate import evaluate
    from biflow.evaluation.networks.features import Features
    from biflow.evaluation.protocol import Protocol

    def mean_colours(frames):
        return frames.float().div(255).mean((1, 3, 4))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    protocol = Protocol(samples=2, frames=6, window=4, stride=2, real_windows=3, frame_stride=2, resamples=2, nearest=1)
    model = in_float64(load_model(run, network=network()))
    networks = {"i3d": Features("mean colours", "none", "none", 3, 2, mean_colours)}
    result = evaluate(model, prepared, tmp_path / "out", protocol, networks=networks, progress=False)
    assert result["nfe"]["mean"] == 1
    assert result["fvd"]["mean"] >= 0
    assert result["protocol"]["model"]["method"] == "toy"
    assert result["protocol"]["engine"] == "float64"


def test_a_solver_setting_that_it_does_not_use_changes_nothing(run, first):
    model = load_model(run, network=network())
    videos = [generate(model, first, frames=2, solver=solver) for solver in (None, Solver("euler", steps=7))]
    assert torch.equal(*videos)


def test_a_method_of_that_name_is_known_only_here(toy, monkeypatch):
    assert methods.get("toy") is toy
    monkeypatch.undo()
    with pytest.raises(UserError, match="the methods are flow, biflow, condiff, flowmap, sequence"):
        methods.get("toy")
    assert list(METHODS) == ["flow", "biflow", "condiff", "flowmap", "sequence"]
