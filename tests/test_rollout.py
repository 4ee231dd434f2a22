import itertools
import weakref
from itertools import islice

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from biflow import rollout
from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, METHODS
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.paths import Fields
from biflow.rollout import Frame, denoise, drain, generate, sample_generators, stream
from biflow.solvers import Solver, SolverError
from biflow.video import to_uint8

EXACT = Solver("rk4", steps=16)
EULER = Solver("euler", steps=1)
SIZE = (4, 4)


class Known:
    """A network whose fields are known functions of the query: `v`, and `n` for BI-FLOW. It keeps every query."""

    def __init__(self, v, n=None):
        self.v, self.n = v, n
        self.queries = []

    def __call__(self, query) -> Fields:
        self.queries.append(query)
        return Fields(self.v(query), None if self.n is None else self.n(query))


def known(method, v, n=None, *, eps: float = 0.1, **settings) -> Model:
    eps = eps if method.takes_eps else 0.0
    return Model(**{"network": Known(v, n), "method": method, "shape": (3, *SIZE), "eps": eps, **settings})


def over(scale: Tensor) -> Tensor:
    """(b,) to (b, 1, 1, 1)."""
    return scale[:, None, None, None]


def constant(value):
    return lambda q: torch.zeros_like(q.x) + value


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
    assert torch.allclose(first_frame(known(FLOW, constant(d)), x0).x, x0 + d, atol=1e-6)
    assert torch.allclose(first_frame(known(FLOW, constant(d)), x0, direction="backward").x, x0 - d, atol=1e-6)


def test_time_runs_from_0_to_1_forward_and_from_1_to_0_backward():
    # dx/dt = t x from 0 to 1 multiplies by exp(1/2); the first half alone would by exp(1/8).
    model, x0 = known(FLOW, lambda q: over(q.t) * q.x), images()
    forward = first_frame(model, x0, solver=EXACT).x
    assert torch.allclose(forward, x0 * torch.e**0.5, atol=1e-5)
    assert model.network.queries[0].t.tolist() == [0, 0]
    assert model.network.queries[-1].t.tolist() == [1, 1]
    model.network.queries.clear()
    assert torch.allclose(first_frame(model, forward, solver=EXACT, direction="backward").x, x0, atol=1e-5)
    assert model.network.queries[0].t.tolist() == [1, 1]
    assert model.network.queries[-1].t.tolist() == [0, 0]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_biflow_adds_noise_of_eps_and_removes_it_again(eps, direction):
    x0, d = images(), images(seed=1)
    model = known(BIFLOW, constant(d), constant(noise()))
    frame = first_frame(model, x0, eps=eps, direction=direction)
    sign = 1 if direction == "forward" else -1
    assert torch.allclose(frame.x, x0 + sign * d, atol=1e-6)
    assert torch.allclose(model.network.queries[0].x, x0 + eps * noise())
    for query in model.network.queries:  # Eq. 9 and its mirror image
        assert torch.allclose(query.alpha, eps * (1 - query.t) if direction == "forward" else eps * query.t)


def test_biflow_solves_the_joint_field():
    # dx/dk = r x - eps c forward, r x + eps c from 1 to 0 backward, both with a solution in closed form.
    r, c, eps, x0 = 0.5, 0.8, 0.3, images()
    model = known(BIFLOW, lambda q: r * q.x, constant(c))
    start, grow = x0 + eps * noise(), torch.e**r
    settings = {"eps": eps, "solver": EXACT}
    forward = start * grow - eps * c * (grow - 1) / r
    assert torch.allclose(first_frame(model, x0, **settings).x, forward.clamp(-1, 1), atol=1e-5)
    backward = start / grow - eps * c * (1 - 1 / grow) / r
    assert torch.allclose(first_frame(model, x0, direction="backward", **settings).x, backward.clamp(-1, 1), atol=1e-5)


def test_backward_inverts_forward():
    model = known(BIFLOW, lambda q: 0.2 * torch.sin(3 * q.x) * (1 + over(q.t)) + 0.1, constant(0.0))
    x0 = images(scale=0.1)
    ahead = generate(model, x0, frames=2, generators=generators(), eps=0.0, solver=EXACT)
    assert ahead.abs().max() < 1
    assert (ahead[:, 1] - x0).abs().min() > 0.05
    settings = {"generators": generators(), "eps": 0.0, "solver": EXACT, "direction": "backward"}
    back = generate(model, ahead[:, 1], frames=2, **settings)
    assert torch.allclose(back[:, 0], ahead[:, 0], atol=1e-4)
    assert torch.allclose(back[:, 1], x0, atol=1e-4)


def test_eps_is_the_models_own_unless_given():
    x0, model = images(), known(BIFLOW, constant(0.0), constant(0.0), eps=0.25)
    first_frame(model, x0)
    assert torch.allclose(model.network.queries[0].x, x0 + 0.25 * noise())
    model.network.queries.clear()
    first_frame(model, x0, eps=0.0)
    assert torch.equal(model.network.queries[0].x, x0)


def test_every_frame_has_noise_of_its_own():
    model = known(BIFLOW, constant(0.0), constant(0.0))
    frames = generate(model, torch.zeros(1, 3, *SIZE), frames=2, generators=generators(1), eps=0.01)
    first, second = frames[:, 0], frames[:, 1] - frames[:, 0]
    assert torch.allclose(first, 0.01 * noise(1), atol=1e-6)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.5


def test_frames_are_clamped_and_the_next_one_starts_from_the_clamped():
    model = known(FLOW, constant(0.75))
    x0 = torch.full((1, 3, *SIZE), 0.5)
    frames = list(islice(stream(model, x0, generators=generators(1), solver=EULER), 2))
    assert frames[0].x.unique().tolist() == [1.0]
    assert [query.x.unique().item() for query in model.network.queries] == [0.5, 1.0]
    model = known(FLOW, constant(-9.0))
    assert first_frame(model, x0).x.unique().tolist() == [-1.0]


def test_generate_is_the_stream_stacked():
    model, x0 = known(BIFLOW, lambda q: -q.x, constant(0.3)), images()
    stacked = generate(model, x0, frames=3, generators=generators(), eps=0.2)
    streamed = [frame.x for frame in islice(stream(model, x0, generators=generators(), eps=0.2), 3)]
    assert stacked.shape == (2, 3, 3, *SIZE)
    assert torch.equal(stacked, torch.stack(streamed, dim=1))


# In between


@pytest.mark.parametrize("eps", [0.0, 0.2])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_frames_in_between_are_denoised_and_on_the_way(direction, eps):
    x0, d = images(), images(scale=0.2, seed=1)
    model = known(BIFLOW, constant(d), constant(noise()))
    settings = {"generators": generators(), "eps": eps, "direction": direction}
    frames = list(islice(stream(model, x0, in_between=4, **settings), 4))
    sign = 1 if direction == "forward" else -1
    for i, frame in enumerate(frames, start=1):
        assert torch.allclose(frame.x, x0 + sign * i / 4 * d, atol=1e-5)
        assert frame.time == sign * i / 4
    assert sum(frame.nfe for frame in frames).tolist() == [len(model.network.queries)] * 2  # the denoising counts, too
    whole = next(stream(model, x0, **(settings | {"generators": generators()})))
    assert torch.allclose(frames[-1].x, whole.x, atol=1e-5)
    assert whole.time == sign


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_showing_frames_in_between_does_not_change_the_solution(eps):
    model = known(BIFLOW, lambda q: torch.sin(3 * q.x) + over(q.t), lambda q: q.x - over(q.alpha))
    x0 = images()
    whole = generate(model, x0, frames=2, generators=generators(), eps=eps, solver=EXACT)
    quarters = generate(model, x0, frames=8, generators=generators(), eps=eps, solver=EXACT, in_between=4)
    assert torch.allclose(quarters[:, 3::4], whole, atol=1e-4)


def test_time_counts_on_over_the_frames():
    model, x0 = known(FLOW, constant(0.0)), images()
    times = [frame.time for frame in islice(stream(model, x0, generators=generators(), in_between=2), 5)]
    assert times == [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize(("steps", "each"), [(4, 1), (5, 2), (20, 5)])
def test_a_number_of_fixed_steps_is_shared_among_the_legs(steps, each):
    model = known(FLOW, constant(0.0))
    frames = islice(stream(model, images(), generators=generators(), in_between=4, solver=Solver("euler", steps)), 4)
    assert [frame.nfe.tolist() for frame in frames] == [[each, each]] * 4


# Eq. 6


@pytest.mark.parametrize("t", [0.0, 0.3])
def test_denoising_removes_noise_and_leaves_the_time_alone(t):
    x, n, level = images(), noise(), 0.4
    model = known(BIFLOW, constant(100.0), constant(n))  # f^v plays no part
    clean, nfe = denoise(model, x + level * n, t, level, solver=Solver("euler", steps=4))
    assert torch.allclose(clean, x, atol=1e-6)
    assert nfe.tolist() == [4, 4]
    assert torch.allclose(torch.stack([query.t for query in model.network.queries]), torch.tensor(t))
    alphas = torch.stack([query.alpha[0] for query in model.network.queries])
    assert torch.allclose(alphas, torch.tensor([0.4, 0.3, 0.2, 0.1]))


@pytest.mark.parametrize("method", [FLOW, CONDIFF])
def test_only_biflow_denoises(method):
    with pytest.raises(UserError, match=f"BI-FLOW.*{method.title}"):
        denoise(known(method, constant(0.0)), images(), 0.0, 0.1)


# CONDIFF


def test_condiff_solves_from_noise_given_the_last_frame():
    # The straight path from the noise to half the last frame: n-step Euler lands on its end exactly.
    model = known(CONDIFF, lambda q: (q.condition / 2 - q.x) / (1 - over(q.alpha)))
    x0 = images()
    frames = generate(model, x0, frames=3, generators=generators(), solver=Solver("euler", steps=4))
    for i in range(3):
        assert torch.allclose(frames[:, i], x0 / 2 ** (i + 1), atol=1e-6)
    assert torch.equal(model.network.queries[0].x, noise())
    assert torch.equal(model.network.queries[0].condition, x0)
    assert torch.equal(model.network.queries[4].condition, frames[:, 0])
    assert [query.alpha[0].item() for query in model.network.queries[:4]] == [0, 0.25, 0.5, 0.75]


def test_condiff_keeps_each_condition_with_its_sample_when_samples_finish_apart():
    def towards_condition(q):
        return 12 * (q.condition - q.x) * (q.condition > 0.5)

    x0 = torch.tensor([0.1, 0.9, 0.2])[:, None, None, None].expand(3, 3, *SIZE)
    frame = first_frame(known(CONDIFF, towards_condition), x0)
    assert torch.allclose(frame.x[1], x0[1], atol=0.1)
    assert torch.allclose(frame.x[[0, 2]], noise(3)[[0, 2]].clamp(-1, 1))
    assert frame.nfe[1] > frame.nfe[0] == frame.nfe[2]


# A stream


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


@pytest.mark.parametrize("method", METHODS.values())
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


# What cannot be streamed


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (FLOW, {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*FLOW"),
        (CONDIFF, {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*CONDIFF"),
        (BIFLOW, {"eps": -0.1}, "eps is -0.1, but must be 0 or more"),
        (BIFLOW, {"eps": float("nan")}, "eps is nan"),
        (BIFLOW, {"eps": float("inf")}, "eps is inf"),
        (CONDIFF, {"direction": "backward"}, "CONDIFF.*no backward"),
        (CONDIFF, {"in_between": 4}, "CONDIFF.*nothing in between"),
        (BIFLOW, {"in_between": 0}, "in_between is 0"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, settings, sentence):
    model = known(method, constant(0.0), constant(0.0) if method is BIFLOW else None)
    with pytest.raises(UserError, match=sentence):
        stream(model, images(), generators=generators(), **settings)  # at once, not with the first frame
    assert model.network.queries == []


def test_eps_0_is_fine_for_every_method():
    for method in (FLOW, CONDIFF):
        first_frame(known(method, constant(0.0)), images(), eps=0.0)


@pytest.fixture
def unchecked():
    """Without the checks of annotations at run time, which only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_a_direction_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="no direction 'sideways'; the directions are forward and backward"):
        stream(known(FLOW, constant(0.0)), images(), direction="sideways")


def test_a_frame_of_the_wrong_size_names_both_sizes():
    with pytest.raises(UserError, match=r"are \(1, 3, 4, 8\), but the model starts from \(b, 3, 4, 4\); resize"):
        stream(known(FLOW, constant(0.0)), torch.zeros(1, 3, 4, 8))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (
            torch.zeros(3, 4, 4),
            r"are \(3, 4, 4\), but the model starts from \(b, 3, 4, 4\); add the batch dimension, as first\[None\]",
        ),
        (
            torch.zeros(2, 4, 4, 3),
            r"are \(2, 4, 4, 3\), but the model starts from \(b, 3, 4, 4\)",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            r"are \(2, 1, 4, 4\), but the model starts from \(b, 3, 4, 4\)",
        ),
        (torch.zeros(2, 3, 3, 4, 4), r"are \(2, 3, 3, 4, 4\), but the model starts from \(b, 3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"are torch\.uint8; convert pixels with biflow\.video\.to_float"),
        (
            torch.tensor([0.0, 255.0])[:, None, None, None].expand(2, 3, 4, 4),
            r"go from 0 to 255, .* \[-1, 1\]; convert",
        ),
        (torch.full((2, 3, 4, 4), -1.5), r"go from -1.5 to -1.5, but must lie in \[-1, 1\]"),
    ],
    ids=["unbatched", "channels last", "grey", "clips", "uint8", "pixels", "too dark"],
)
def test_first_frames_that_do_not_fit_are_refused_in_a_sentence(first, sentence):
    model = known(FLOW, constant(0.0))
    with pytest.raises(UserError, match=sentence):
        stream(model, first)
    assert model.network.queries == []


def test_first_frames_may_overshoot_the_limits_by_a_rounding():
    x0 = torch.full((1, 3, *SIZE), 1 + 1e-4)
    assert first_frame(known(FLOW, constant(0.0)), x0).x.unique().tolist() == [1.0]


def test_every_sample_needs_a_generator():
    with pytest.raises(ValueError, match="2 samples need as many generators, not 3"):
        stream(known(FLOW, constant(0.0)), images(), generators=generators(3))


def test_without_generators_a_stream_is_that_of_seed_0():
    model, x0 = known(BIFLOW, lambda q: -q.x, constant(0.3)), images()
    ours = generate(model, x0, frames=2, eps=0.2)
    assert torch.equal(ours, generate(model, x0, frames=2, eps=0.2, generators=sample_generators(0, range(2))))
    assert not torch.equal(ours, generate(model, x0, frames=2, eps=0.2, generators=sample_generators(1, range(2))))


def test_a_field_that_is_not_finite_names_the_sample():
    x0 = images()
    x0[1, 0, 0, 0] = float("nan")
    with pytest.raises(SolverError, match="sample 1"):
        first_frame(known(FLOW, lambda q: q.x), x0)


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"dx/dk of shape \(2, 1, 4, 4\) for x of shape \(2, 3, 4, 4\)"):
        first_frame(known(FLOW, lambda q: q.x[:, :1]), images())


# Samples of any shape


START, VELOCITY = torch.tensor([[-3.0, 5.0], [10.0, 2.0]]), torch.tensor([0.5, -1.0])


def walk(q) -> Tensor:
    """Where the points of a world of constant velocity are at the time of a query, whatever noise is on them."""
    t = q.t[:, None]
    frames = ((q.x - START - t * VELOCITY) / VELOCITY).mean(1, keepdim=True).round()
    return START + (frames + t) * VELOCITY


def points(method, n=None) -> Model:
    """Points (b, 2) that walk for ever."""
    return known(method, lambda q: VELOCITY.expand_as(q.x), n, eps=0.05, shape=None, limits=None)


BOTH_WAYS = pytest.mark.parametrize(("direction", "sign"), [("forward", 1), ("backward", -1)])


@BOTH_WAYS
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_in_a_world_of_constant_velocity_biflow_walks_on_and_loses_an_error(error, direction, sign):
    model = points(BIFLOW, lambda q: (q.x - walk(q)) / q.alpha[:, None])
    path = generate(model, START + error, frames=40, direction=direction, solver=Solver("euler", steps=4))
    expected = START[:, None] + sign * torch.arange(1, 41)[:, None] * VELOCITY
    torch.testing.assert_close(path, expected, atol=1e-4, rtol=0)
    assert path.abs().max() > 10  # no limits: nothing is clamped


@BOTH_WAYS
def test_in_a_world_of_constant_velocity_flow_walks_on_and_keeps_an_error(direction, sign):
    path = generate(points(FLOW), START + 0.1, frames=40, direction=direction)
    expected = START[:, None] + 0.1 + sign * torch.arange(1, 41)[:, None] * VELOCITY
    torch.testing.assert_close(path, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("method", METHODS.values())
def test_samples_may_have_any_shape(method, shape):
    model = known(method, lambda q: -q.x, constant(0.0) if method.heads == 2 else None, shape=shape)
    frames = list(islice(stream(model, torch.zeros(2, *shape)), 2))
    for frame in frames:
        assert frame.x.shape == (2, *shape)
        assert frame.nfe.shape == (2,)


def test_a_model_of_points_says_what_it_starts_from():
    model = known(FLOW, constant(0.0), shape=(2,), limits=None)
    with pytest.raises(UserError, match=r"are \(4, 3\), but the model starts from \(b, 2\)"):
        stream(model, torch.zeros(4, 3))
    with pytest.raises(UserError, match=r"add the batch dimension"):
        stream(model, torch.zeros(2))


def test_limits_are_the_models_own():
    model = known(FLOW, constant(1.0), limits=(0.0, 2.5))
    x0 = torch.ones(1, 3, *SIZE)
    assert [frame.x.max().item() for frame in islice(stream(model, x0), 3)] == [2, 2.5, 2.5]
    with pytest.raises(UserError, match=r"go from -1 to 1, but must lie in \[0, 2.5\]"):
        stream(model, torch.cat([x0, -x0]))


# The one drain


def test_drained_frames_are_pixels_and_what_they_cost():
    model = known(BIFLOW, lambda q: -q.x, constant(0.3))
    settings = {"eps": 0.2, "direction": "backward", "in_between": 2}
    frames = list(islice(stream(model, images(), generators=generators(), **settings), 4))
    drained = list(islice(drain(stream(model, images(), generators=generators(), **settings)), 4))
    for frame, shown in zip(frames, drained, strict=True):
        assert torch.equal(shown.x, frame.x)
        assert (shown.pixels.dtype, shown.pixels.shape) == (torch.uint8, (2, 3, *SIZE))
        assert torch.equal(shown.pixels, to_uint8(frame.x))
        assert shown.nfe == frame.nfe.tolist()
        assert shown.time == frame.time
    assert [shown.time for shown in drained] == [-0.5, -1.0, -1.5, -2.0]


def test_seconds_are_those_of_solving_alone(monkeypatch):
    now = itertools.count().__next__  # every look at the clock, and every evaluation, takes a second
    monkeypatch.setattr(rollout.time, "perf_counter", lambda: float(now()))
    model = known(FLOW, lambda q: 0 * q.x + 0 * now())
    for shown in islice(drain(stream(model, images(), solver=Solver("euler", steps=5))), 3):
        assert shown.seconds == 6
        for _ in range(100):  # what the caller does with a frame is not counted
            now()


@pytest.mark.parametrize(("start", "number"), [({}, 3), ({"start": 10}, 12)])
def test_a_frame_that_cannot_be_solved_is_named_by_its_number(start, number):
    # The state grows by 0.3 a frame, from 0.1; the field has no value above 0.6.
    model = known(FLOW, lambda q: 0.3 * torch.where(q.x > 0.6, torch.nan, 1.0))
    x0 = torch.stack([torch.full((3, *SIZE), value) for value in (-1.0, 0.1)])
    shown = drain(stream(model, x0, solver=EULER), **start)
    assert [next(shown).nfe for _ in range(2)] == [[1, 1]] * 2
    with pytest.raises(UserError, match=rf"Frame {number} could not be solved: Sample 1 is NaN or inf") as error:
        next(shown)
    assert isinstance(error.value.__cause__, SolverError)


def test_other_errors_pass_through_a_drain_as_they_are():
    def interrupted(q):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(drain(stream(known(FLOW, interrupted), images())))


def test_a_drain_ends_with_its_frames_and_asks_for_none_too_early():
    model = known(FLOW, constant(0.1))
    shown = drain(islice(stream(model, images(), solver=EULER), 3))
    assert model.network.queries == []
    next(shown)
    assert len(model.network.queries) == 1
    assert len(list(shown)) == 2
    assert len(model.network.queries) == 3


def test_a_drain_takes_frames_from_anywhere():
    x = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, *SIZE)
    (shown,) = drain(iter([Frame(x, torch.tensor([1, 2]), 1.0)]))
    assert shown.pixels.unique().tolist() == [0, 255]
    assert shown.nfe == [1, 2]
