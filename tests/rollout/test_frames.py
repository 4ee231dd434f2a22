"""Where frames land: known answers for each method, in both directions, and in between."""

from itertools import islice

import pytest
import torch

from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.rollout import denoise, generate, stream
from biflow.solvers import Solver
from tests.rollout.known import EULER, EXACT, SIZE, constant, first_frame, generators, images, known, noise, over

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
    clean, nfe = denoise(model, x + level * n.requires_grad_(), t, level, solver=Solver("euler", steps=4))
    assert not clean.requires_grad
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


# Several frames per solve


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_solve_that_spans_frames_gives_each_of_them_at_its_time(direction):
    # dx/dt = 3 d in the first third, -3 d in the second, 3 d in the last: up, down, up.
    x0, d = images(), 0.1 + 0.01 * images(seed=1)
    turns = lambda q: over(torch.where((q.t - 0.5).abs() < 1 / 6, -3.0, 3.0)) * d  # noqa: E731
    shown = list(
        islice(stream(known(FLOW, turns, span=3), x0, solver=Solver("midpoint", steps=3), direction=direction), 6)
    )
    sign = 1 if direction == "forward" else -1
    assert [frame.time for frame in shown] == [sign * time for time in (1, 2, 3, 4, 5, 6)]
    assert [frame.nfe.tolist() for frame in shown] == [[2, 2]] * 6  # the three steps are shared among the frames
    for frame, moved in zip(shown, (1, 0, 1, 2, 1, 2), strict=True):
        assert torch.allclose(frame.x, x0 + sign * moved * d, atol=1e-6)


def test_times_of_any_span_are_whole_numbers():
    for span in range(1, 17):
        model = known(FLOW, constant(0.0), span=span)
        times = [frame.time for frame in islice(stream(model, images(), solver=EULER), 5 * span)]
        assert times == list(range(1, 5 * span + 1))


def test_frames_on_the_way_of_biflow_are_shown_without_noise_and_can_have_more_in_between():
    x0, d = images(), 0.2 * images(seed=1)
    model = known(BIFLOW, constant(d), constant(noise()), span=2)
    shown = list(islice(stream(model, x0, generators=generators(), eps=0.3, in_between=2), 4))
    assert [frame.time for frame in shown] == [0.5, 1, 1.5, 2]
    for frame in shown:
        assert torch.allclose(frame.x, x0 + frame.time / 2 * d, atol=1e-5)
