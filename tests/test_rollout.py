import weakref
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.networks import VideoUNet
from biflow.paths import Fields
from biflow.rollout import denoise, rollout, sample_generators, stream
from biflow.solvers import Solver, SolverError

EXACT = Solver("rk4", steps=16)
SIZE = (4, 4)


class Stub(VideoUNet):
    """A model whose fields are known: `v(x, t, alpha, condition)`, and `n` likewise for BI-FLOW. Notes every call."""

    def __init__(self, method: str, v, n=None, *, eps: float = 0.1):
        nn.Module.__init__(self)
        self.register_to_config(size=list(SIZE), eps=eps)
        self.method, self.v, self.n = method, v, n
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def forward(self, x, t, alpha=None, condition=None):
        assert t.shape == (len(x),)
        self.calls.append((x, t, alpha, condition))
        arguments = x, _over(t), None if alpha is None else _over(alpha), condition
        return Fields(self.v(*arguments), None if self.n is None else self.n(*arguments))


def _over(scale: Tensor) -> Tensor:
    return scale[:, None, None, None]


def constant(value):
    return lambda x, t, alpha, condition: torch.zeros_like(x) + value


def images(b: int = 2, scale: float = 0.4, seed: int = 0) -> Tensor:
    return scale * (2 * torch.rand(b, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) - 1)


def generators(b: int = 2, seed: int = 7):
    return sample_generators(seed, range(b))


def noise(b: int = 2, seed: int = 7) -> Tensor:
    """What a stream with `generators(b, seed)` draws for its first frame."""
    return torch.stack([torch.randn(3, *SIZE, generator=generator) for generator in generators(b, seed)])


def first_frame(model, x, **settings):
    return next(stream(model, x, generators=generators(len(x)), **settings))


# Where a frame lands


def test_flow_steps_to_the_known_next_frame_and_back():
    x0, d = images(), images(seed=1)
    assert torch.allclose(first_frame(Stub("flow", constant(d)), x0).x, x0 + d, atol=1e-6)
    assert torch.allclose(first_frame(Stub("flow", constant(d)), x0, direction="backward").x, x0 - d, atol=1e-6)


def test_time_runs_from_0_to_1_forward_and_from_1_to_0_backward():
    # dx/dt = t x from 0 to 1 multiplies by exp(1/2); the first half alone would by exp(1/8).
    model, x0 = Stub("flow", lambda x, t, *_: t * x), images()
    forward = first_frame(model, x0, solver=EXACT).x
    assert torch.allclose(forward, x0 * torch.e**0.5, atol=1e-5)
    assert model.calls[0][1].tolist() == [0, 0]
    assert model.calls[-1][1].tolist() == [1, 1]
    model.calls.clear()
    assert torch.allclose(first_frame(model, forward, solver=EXACT, direction="backward").x, x0, atol=1e-5)
    assert model.calls[0][1].tolist() == [1, 1]
    assert model.calls[-1][1].tolist() == [0, 0]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_biflow_adds_noise_of_eps_and_removes_it_again(eps, direction):
    x0, d = images(), images(seed=1)
    model = Stub("biflow", constant(d), constant(noise()))
    frame = first_frame(model, x0, eps=eps, direction=direction)
    sign = 1 if direction == "forward" else -1
    assert torch.allclose(frame.x, x0 + sign * d, atol=1e-6)
    assert torch.allclose(model.calls[0][0], x0 + eps * noise())
    for _, t, alpha, _ in model.calls:  # Eq. 9 and its mirror image
        assert torch.allclose(alpha, eps * (1 - t) if direction == "forward" else eps * t)


def test_biflow_solves_the_joint_field():
    # dx/dk = r x - eps c forward, r x + eps c from 1 to 0 backward, both with a solution in closed form.
    r, c, eps, x0 = 0.5, 0.8, 0.3, images()
    model = Stub("biflow", lambda x, *_: r * x, constant(c))
    start, grow = x0 + eps * noise(), torch.e**r
    settings = {"eps": eps, "solver": EXACT}
    forward = start * grow - eps * c * (grow - 1) / r
    assert torch.allclose(first_frame(model, x0, **settings).x, forward.clamp(-1, 1), atol=1e-5)
    backward = start / grow - eps * c * (1 - 1 / grow) / r
    assert torch.allclose(first_frame(model, x0, direction="backward", **settings).x, backward.clamp(-1, 1), atol=1e-5)


def test_backward_inverts_forward():
    model = Stub("biflow", lambda x, t, *_: 0.2 * torch.sin(3 * x) * (1 + t) + 0.1, constant(0.0))
    x0 = images(scale=0.1)
    ahead = rollout(model, x0, frames=2, generators=generators(), eps=0.0, solver=EXACT)
    assert ahead.abs().max() < 1
    assert (ahead[:, 1] - x0).abs().min() > 0.05
    settings = {"generators": generators(), "eps": 0.0, "solver": EXACT, "direction": "backward"}
    back = rollout(model, ahead[:, 1], frames=2, **settings)
    assert torch.allclose(back[:, 0], ahead[:, 0], atol=1e-4)
    assert torch.allclose(back[:, 1], x0, atol=1e-4)


def test_eps_is_the_models_own_unless_given():
    x0, model = images(), Stub("biflow", constant(0.0), constant(0.0), eps=0.25)
    first_frame(model, x0)
    assert torch.allclose(model.calls[0][0], x0 + 0.25 * noise())
    model.calls.clear()
    first_frame(model, x0, eps=0.0)
    assert torch.equal(model.calls[0][0], x0)


def test_every_frame_has_noise_of_its_own():
    model = Stub("biflow", constant(0.0), constant(0.0))
    frames = rollout(model, torch.zeros(1, 3, *SIZE), frames=2, generators=generators(1), eps=0.01)
    first, second = frames[:, 0], frames[:, 1] - frames[:, 0]
    assert torch.allclose(first, 0.01 * noise(1), atol=1e-6)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.5


def test_frames_are_clamped_and_the_next_one_starts_from_the_clamped():
    model = Stub("flow", constant(0.75))
    x0 = torch.full((1, 3, *SIZE), 0.5)
    frames = list(islice(stream(model, x0, generators=generators(1), solver=Solver("euler", steps=1)), 2))
    assert frames[0].x.unique().tolist() == [1.0]
    assert [x.unique().item() for x, *_ in model.calls] == [0.5, 1.0]
    model = Stub("flow", constant(-9.0))
    assert first_frame(model, x0).x.unique().tolist() == [-1.0]


def test_rollout_is_the_stream_stacked():
    model, x0 = Stub("biflow", lambda x, *_: -x, constant(0.3)), images()
    stacked = rollout(model, x0, frames=3, generators=generators(), eps=0.2)
    streamed = [frame.x for frame in islice(stream(model, x0, generators=generators(), eps=0.2), 3)]
    assert stacked.shape == (2, 3, 3, *SIZE)
    assert torch.equal(stacked, torch.stack(streamed, dim=1))


# In between


@pytest.mark.parametrize("eps", [0.0, 0.2])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_frames_in_between_are_denoised_and_on_the_way(direction, eps):
    x0, d = images(), images(scale=0.2, seed=1)
    model = Stub("biflow", constant(d), constant(noise()))
    settings = {"generators": generators(), "eps": eps, "direction": direction}
    frames = list(islice(stream(model, x0, in_between=4, **settings), 4))
    sign = 1 if direction == "forward" else -1
    for i, frame in enumerate(frames, start=1):
        assert torch.allclose(frame.x, x0 + sign * i / 4 * d, atol=1e-5)
        assert frame.time == sign * i / 4
    assert sum(frame.nfe for frame in frames).tolist() == [len(model.calls)] * 2  # the denoising counts, too
    whole = next(stream(model, x0, **(settings | {"generators": generators()})))
    assert torch.allclose(frames[-1].x, whole.x, atol=1e-5)
    assert whole.time == sign


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_showing_frames_in_between_does_not_change_the_solution(eps):
    model = Stub("biflow", lambda x, t, *_: torch.sin(3 * x) + t, lambda x, t, alpha, _: x - alpha)
    x0 = images()
    whole = rollout(model, x0, frames=2, generators=generators(), eps=eps, solver=EXACT)
    quarters = rollout(model, x0, frames=8, generators=generators(), eps=eps, solver=EXACT, in_between=4)
    assert torch.allclose(quarters[:, 3::4], whole, atol=1e-4)


def test_time_counts_on_over_the_frames():
    model, x0 = Stub("flow", constant(0.0)), images()
    times = [frame.time for frame in islice(stream(model, x0, generators=generators(), in_between=2), 5)]
    assert times == [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize(("steps", "each"), [(4, 1), (5, 2), (20, 5)])
def test_a_number_of_fixed_steps_is_shared_among_the_legs(steps, each):
    model = Stub("flow", constant(0.0))
    frames = islice(stream(model, images(), generators=generators(), in_between=4, solver=Solver("euler", steps)), 4)
    assert [frame.nfe.tolist() for frame in frames] == [[each, each]] * 4


# Eq. 6


@pytest.mark.parametrize("t", [0.0, 0.3])
def test_denoising_removes_noise_and_leaves_the_time_alone(t):
    x, n, level = images(), noise(), 0.4
    model = Stub("biflow", constant(100.0), constant(n))  # f^v plays no part
    clean, nfe = denoise(model, x + level * n, t, level, solver=Solver("euler", steps=4))
    assert torch.allclose(clean, x, atol=1e-6)
    assert nfe.tolist() == [4, 4]
    assert torch.allclose(torch.stack([times for _, times, _, _ in model.calls]), torch.tensor(t))
    alphas = torch.stack([alpha[0] for _, _, alpha, _ in model.calls])
    assert torch.allclose(alphas, torch.tensor([0.4, 0.3, 0.2, 0.1]))


@pytest.mark.parametrize("method", ["flow", "condiff"])
def test_only_biflow_denoises(method):
    with pytest.raises(UserError, match=f"BI-FLOW.*{method}"):
        denoise(Stub(method, constant(0.0)), images(), 0.0, 0.1)


# CONDIFF


def test_condiff_solves_from_noise_given_the_last_frame():
    # The straight path from the noise to half the last frame: n-step Euler lands on its end exactly.
    model = Stub("condiff", lambda x, t, alpha, condition: (condition / 2 - x) / (1 - t))
    x0 = images()
    frames = rollout(model, x0, frames=3, generators=generators(), solver=Solver("euler", steps=4))
    for i in range(3):
        assert torch.allclose(frames[:, i], x0 / 2 ** (i + 1), atol=1e-6)
    assert torch.equal(model.calls[0][0], noise())
    assert torch.equal(model.calls[0][3], x0)
    assert torch.equal(model.calls[4][3], frames[:, 0])
    assert [t[0].item() for _, t, _, _ in model.calls[:4]] == [0, 0.25, 0.5, 0.75]


def test_condiff_keeps_each_condition_with_its_sample_when_samples_finish_apart():
    def towards_condition(x, t, alpha, condition):
        return 12 * (condition - x) * (condition > 0.5)

    x0 = torch.tensor([0.1, 0.9, 0.2])[:, None, None, None].expand(3, 3, *SIZE)
    frame = first_frame(Stub("condiff", towards_condition), x0)
    assert torch.allclose(frame.x[1], x0[1], atol=0.1)
    assert torch.allclose(frame.x[[0, 2]], noise(3)[[0, 2]].clamp(-1, 1))
    assert frame.nfe[1] > frame.nfe[0] == frame.nfe[2]


# A stream


def test_a_stream_is_lazy_and_endless_and_forgets():
    model = Stub("biflow", constant(0.01), constant(0.0))
    frames = stream(model, images(), generators=generators(), solver=Solver("euler", steps=1))
    assert model.calls == []
    old = weakref.ref(next(frames).x)
    assert len(model.calls) == 1
    next(frames)
    assert len(model.calls) == 2
    model.calls.clear()
    last = list(islice(frames, 200))[-1]
    assert last.time == 202
    assert len(model.calls) == 200
    model.calls.clear()
    assert old() is None


def test_the_caller_is_never_left_in_inference_mode():
    w = torch.ones(1, requires_grad=True)
    frames = stream(Stub("biflow", constant(0.1), constant(0.1)), images(), generators=generators(), in_between=2)
    for _ in range(3):
        next(frames)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        (w * 2).backward()
    frames.close()
    assert not torch.is_inference_mode_enabled()
    with torch.no_grad():
        first_frame(Stub("flow", constant(0.1)), images())
        assert not torch.is_grad_enabled()


def test_a_frame_carries_no_graph():
    model = Stub("flow", constant(nn.Parameter(torch.ones(()))))
    assert not first_frame(model, images()).x.requires_grad


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    first_frame(Stub("biflow", constant(0.1), constant(0.1)), images())
    first_frame(Stub("condiff", constant(0.1)), images())
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_depend_on_seed_and_sample_only():
    def draw(seed, samples):
        return [torch.randn(4, generator=g).tolist() for g in sample_generators(seed, samples)]

    assert draw(3, [2, 5]) == [draw(3, range(8))[2], draw(3, range(8))[5]]
    seen = [tuple(values) for seed in range(5) for values in draw(seed, range(5))]
    assert len(set(seen)) == 25


def test_nfe_is_each_samples_own():
    stiff = Stub("flow", lambda x, *_: -30 * x.clamp(min=0))
    x0 = torch.tensor([-0.5, 0.9, 0.02])[:, None, None, None].expand(3, 3, *SIZE)
    together = list(islice(stream(stiff, x0, generators=generators(3)), 2))
    for i in range(3):
        alone = islice(stream(stiff, x0[i : i + 1], generators=generators(3)[i : i + 1]), 2)
        assert [frame.nfe[i].item() for frame in together] == [frame.nfe.item() for frame in alone]
    assert together[0].nfe[0] == 2  # a constant field asks for no third evaluation
    assert together[0].nfe[1] > together[0].nfe[2] > 2


def test_a_frame_starts_from_the_step_that_the_last_one_ended_on():
    swinging = Stub("flow", lambda x, t, *_: torch.cos(40 * t) + 0 * x)
    frames = stream(swinging, torch.zeros(1, 3, *SIZE), generators=generators(1), solver=Solver("heun"))
    list(islice(frames, 2))
    times = [t.item() for _, t, *_ in swinging.calls]
    first, second = (i for i, t in enumerate(times) if t == 0)
    assert times[first + 1] == 1  # the whole interval is tried, and found too long
    assert times[second + 1] < 0.2


def test_the_reference_looks_for_the_first_step_of_every_frame():
    model = Stub("flow", constant(0.1))
    solver = Solver("heun", reference=True)
    list(islice(stream(model, images(1), generators=generators(1), solver=solver), 3))
    # Twice at t = 0 in each frame: once to choose the step, once to take it.
    assert [t.item() for _, t, *_ in model.calls].count(0) == 6


@pytest.mark.parametrize("method", ["flow", "biflow", "condiff"])
def test_same_seed_same_video_for_any_batch_size(method):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VideoUNet(method, NetworkConfig((32, 64), layers=1, head_dim=16, time_scale=100.0), (16, 16)).eval()
    x0 = 2 * torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    settings = {"eps": 0.3 if method == "biflow" else None}
    together = rollout(model, x0, frames=3, generators=sample_generators(1, range(3)), **settings)
    assert together.std() > 0.1
    for i in range(3):
        alone = rollout(model, x0[i : i + 1], frames=3, generators=sample_generators(1, [i]), **settings)
        assert torch.allclose(together[i], alone[0], atol=1e-5)
    if method != "flow":
        other = rollout(model, x0[:1], frames=1, generators=sample_generators(2, [0]), **settings)
        assert not torch.allclose(together[0, 0], other[0, 0], atol=1e-2)


# What cannot be streamed


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("flow", {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*flow"),
        ("condiff", {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*condiff"),
        ("biflow", {"eps": -0.1}, "eps is -0.1, but must be 0 or more"),
        ("biflow", {"eps": float("nan")}, "eps is nan"),
        ("biflow", {"eps": float("inf")}, "eps is inf"),
        ("condiff", {"direction": "backward"}, "CONDIFF.*no backward"),
        ("condiff", {"in_between": 4}, "CONDIFF.*nothing between"),
        ("biflow", {"in_between": 0}, "fps-factor is 0"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, settings, sentence):
    model = Stub(method, constant(0.0), constant(0.0) if method == "biflow" else None)
    with pytest.raises(UserError, match=sentence):
        first_frame(model, images(), **settings)
    assert model.calls == []


def test_eps_0_is_fine_for_every_method():
    for method in ("flow", "condiff"):
        first_frame(Stub(method, constant(0.0)), images(), eps=0.0)


def test_a_frame_of_the_wrong_size_names_both_sizes():
    with pytest.raises(UserError, match="4x8, but the model was trained on 4x4"):
        first_frame(Stub("flow", constant(0.0)), torch.zeros(1, 3, 4, 8))


def test_every_sample_needs_a_generator():
    with pytest.raises(ValueError, match="2 samples need as many generators, not 3"):
        next(stream(Stub("flow", constant(0.0)), images(), generators=generators(3)))


def test_a_field_that_is_not_finite_names_the_sample():
    x0 = images()
    x0[1, 0, 0, 0] = float("nan")
    with pytest.raises(SolverError, match="sample 1"):
        first_frame(Stub("flow", lambda x, *_: x), x0)
