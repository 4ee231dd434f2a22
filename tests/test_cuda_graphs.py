from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from biflow import engines
from biflow.config import NetworkConfig
from biflow.cuda_graphs import graphed
from biflow.networks import VideoUNet
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.solvers import Solver


class Recorded:
    """A CUDA graph as one works: the calls that were recorded, made again on the memory that they were made on."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for f, given, (v, n) in self.calls:
            again = f(**given)
            v.copy_(again.v)
            n.copy_(again.n)


@pytest.fixture
def recording(monkeypatch):
    """Graphs without a device; the list is of the one that is being captured, if any."""
    current = []

    @contextmanager
    def graph(made, **_):
        current.append(made)
        yield
        current.pop()

    for name, stand_in in {"graph": graph, "CUDAGraph": Recorded, "stream": lambda _: nullcontext()}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("graph_pool_handle", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    return current


@torch.inference_mode()
def test_a_graph_gives_the_fields_of_its_inputs_for_every_batch(recording):
    def f(x, t, alpha):
        return Fields(2 * x + t[:, None], x - alpha[:, None])

    calls = 0

    def evaluate(**given):
        nonlocal calls
        calls += 1
        result = f(**given)
        for graph in recording:
            graph.calls.append((f, given, result))
        return result

    launch = graphed(evaluate, {"x": torch.zeros(2, 3), "t": torch.zeros(2), "alpha": torch.zeros(2)})
    kept = []
    for batch in (2, 3, 1, 3, 2):
        x, t, alpha = torch.randn(batch, 3), torch.rand(batch), torch.rand(batch)
        kept.append((launch(x, t, alpha), f(x, t, alpha)))
    for got, expected in kept:  # later calls leave earlier results alone
        assert torch.equal(got.v, expected.v)
        assert torch.equal(got.n, expected.n)
    assert calls == 3 * 4  # three batch sizes, each three times aside and once recorded


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("pair", [False, True])
def test_graphs_on_a_card_give_the_fields_of_torch_without_waiting_for_it(pair):
    torch.manual_seed(0)
    network = NetworkConfig(channels=(32, 32), attention=(1,), patch=2, pair=pair)
    model = VideoUNet("biflow", network, (16, 16), v_scale=0.5).eval().cuda()
    evaluate, used = engines.fields(model)
    assert used.endswith("CUDA graphs")
    for batch in (2, 3, 1):
        x, t, alpha = torch.randn(batch, 3, 16, 16).cuda(), torch.rand(batch).cuda(), torch.rand(batch).cuda()
        got, expected = evaluate(x, t, alpha), model(x, t, alpha)
        torch.testing.assert_close(got.v, expected.v, atol=0.01, rtol=0.02)
        torch.testing.assert_close(got.n, expected.n, atol=0.01, rtol=0.02)
    x, half = torch.rand(2, 3, 16, 16).cuda(), torch.full((2,), 0.5).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            x = x + evaluate(x, half, half).v / 4
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_stream_on_a_card_is_the_stream_on_the_cpu():
    torch.manual_seed(0)
    network = NetworkConfig(channels=(32, 32), attention=(1,), patch=2)
    model, first = VideoUNet("biflow", network, (16, 16), v_scale=0.5).eval(), torch.rand(2, 3, 16, 16) * 2 - 1
    frames = []
    for device in ("cpu", "cuda"):
        model.to(device=device)  # pyright: ignore[reportCallIssue] (diffusers wraps `to`)
        fields = engines.fields(model, "torch" if device == "cpu" else "auto")[0]
        made = stream(
            model, first.to(device), generators=sample_generators(0, [0, 1]), solver=Solver(steps=4), fields=fields
        )
        frames.append(next(made).x.cpu())
    assert (frames[0] - frames[1]).square().mean().sqrt() < engines.HALF_LEVEL
