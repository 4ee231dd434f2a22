"""What a stream is: lazy, endless, reproducible, and what each frame costs."""

import weakref
from itertools import islice

import torch
from torch import nn

from biflow.config import NetworkConfig
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.rollout import generate, sample_generators, stream
from biflow.solvers import Solver
from tests.rollout.known import EULER, SIZE, STREAMING, constant, first_frame, generators, images, known, over


def test_a_stream_is_lazy_and_endless_and_forgets():
    model = known(BIFLOW, constant(0.01), constant(0.0))
    frames = stream(model, images(), generators=generators(), solver=EULER)
    assert model.network.queries == []
    old = weakref.ref(next(frames).x)
    assert len(model.network.queries) == 1
    next(frames)
    assert len(model.network.queries) == 2
    model.network.queries.clear()
    last = list(islice(frames, 200))[-1]
    assert last.time == 202
    assert len(model.network.queries) == 200
    model.network.queries.clear()
    assert old() is None


def test_the_caller_is_never_left_in_inference_mode():
    w = torch.ones(1, requires_grad=True)
    frames = stream(known(BIFLOW, constant(0.1), constant(0.1)), images(), generators=generators(), in_between=2)
    for _ in range(3):
        next(frames)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        (w * 2).backward()
    frames.close()
    assert not torch.is_inference_mode_enabled()
    with torch.no_grad():
        first_frame(known(FLOW, constant(0.1)), images())
        assert not torch.is_grad_enabled()


def test_a_frame_carries_no_graph():
    model = known(FLOW, constant(nn.Parameter(torch.ones(()))))
    assert not first_frame(model, images()).x.requires_grad


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    first_frame(known(BIFLOW, constant(0.1), constant(0.1)), images())
    first_frame(known(CONDIFF, constant(0.1)), images())
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_depend_on_seed_and_sample_only():
    def draw(seed, samples):
        return [torch.randn(4, generator=g).tolist() for g in sample_generators(seed, samples)]

    assert draw(3, [2, 5]) == [draw(3, range(8))[2], draw(3, range(8))[5]]
    seen = [tuple(values) for seed in range(5) for values in draw(seed, range(5))]
    assert len(set(seen)) == 25


def test_nfe_is_each_samples_own():
    stiff = known(FLOW, lambda q: -30 * q.x.clamp(min=0))
    x0 = torch.tensor([-0.5, 0.9, 0.02])[:, None, None, None].expand(3, 3, *SIZE)
    together = list(islice(stream(stiff, x0, generators=generators(3)), 2))
    for i in range(3):
        alone = islice(stream(stiff, x0[i : i + 1], generators=generators(3)[i : i + 1]), 2)
        assert [frame.nfe[i].item() for frame in together] == [frame.nfe.item() for frame in alone]
    assert together[0].nfe[0] == 2  # a constant field asks for no third evaluation
    assert together[0].nfe[1] > together[0].nfe[2] > 2


def test_a_frame_starts_from_the_step_that_the_last_one_ended_on():
    swinging = known(FLOW, lambda q: torch.cos(40 * over(q.t)) + 0 * q.x)
    frames = stream(swinging, torch.zeros(1, 3, *SIZE), generators=generators(1), solver=Solver("heun"))
    list(islice(frames, 2))
    times = [query.t.item() for query in swinging.network.queries]
    first, second = (i for i, t in enumerate(times) if t == 0)
    assert times[first + 1] == 1  # the whole interval is tried, and found too long
    assert times[second + 1] < 0.2


def test_the_reference_looks_for_the_first_step_of_every_frame():
    model = known(FLOW, constant(0.1))
    solver = Solver("heun", reference=True)
    list(islice(stream(model, images(1), generators=generators(1), solver=solver), 3))
    # Twice at t = 0 in each frame: once to choose the step, once to take it.
    assert [query.t.item() for query in model.network.queries].count(0) == 6


@STREAMING
def test_same_seed_same_video_for_any_batch_size(method):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VideoUNet(method, NetworkConfig((32, 64), layers=1, head_dim=16, time_scale=100.0)).eval()
    model = Model(network, method, (3, 16, 16))
    x0 = 2 * torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    settings = {"eps": 0.3 if method.takes_eps else None}
    together = generate(model, x0, frames=3, generators=sample_generators(1, range(3)), **settings)
    assert together.std() > 0.1
    for i in range(3):
        alone = generate(model, x0[i : i + 1], frames=3, generators=sample_generators(1, [i]), **settings)
        assert torch.allclose(together[i], alone[0], atol=1e-5)
    if method is not FLOW:
        other = generate(model, x0[:1], frames=1, generators=sample_generators(2, [0]), **settings)
        assert not torch.allclose(together[0, 0], other[0, 0], atol=1e-2)
