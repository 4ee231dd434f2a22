"""The flow map: jumps that are exact where the field is known, and what it learns them from."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from biflow.config import NetworkConfig, Solver, TrainConfig
from biflow.errors import UserError
from biflow.methods import FLOWMAP
from biflow.model import load_model
from biflow.paths import Fields
from biflow.rollout import denoise, generate, stream
from biflow.training.loop import train
from tests.methods.asked import Asked, clips, generator
from tests.rollout.known import constant, generators, images, known

GROWTH = -0.5  # of the field dx/dk = GROWTH x, along which x_r = x_s exp(GROWTH (r - s))


def growing(query) -> Fields:
    """The field, whatever is asked: a teacher."""
    return Fields(GROWTH * query.x, torch.zeros_like(query.x))


def jumping(query) -> Fields:
    """The exact map of that field."""
    jump = query.jump.reshape(-1, *(1,) * (query.x.ndim - 1))
    factor = torch.where(jump > 0, torch.expm1(GROWTH * jump) / jump.clamp(min=1e-9), GROWTH)
    return Fields(factor * query.x, torch.zeros_like(query.x))


# Streaming


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_exact_map_is_exact_in_any_number_of_jumps(steps):
    model, x = known(FLOWMAP, lambda q: jumping(q).v, constant(0.0), eps=0.0), images()
    frame = next(stream(model, x, solver=Solver("euler", steps=steps)))
    assert torch.allclose(frame.x, x * torch.tensor(GROWTH).exp(), atol=1e-6)
    assert frame.nfe.tolist() == [steps] * 2
    assert [query.jump.unique().item() for query in model.network.queries] == [1 / steps] * steps


def test_a_frame_is_one_jump_unless_asked_for_more():
    model = known(FLOWMAP, constant(0.1), constant(0.0), eps=0.0)
    assert torch.allclose(generate(model, images(), frames=3)[:, -1], images() + 0.3, atol=1e-6)
    assert len(model.network.queries) == 3


def test_the_noise_of_a_jump_is_removed_with_its_level():
    # u = u^v - eps u^n: a network that finds the noise in full leads to the frame without it.
    model = known(FLOWMAP, constant(0.0), lambda q: (q.x - 0.2) / q.alpha[:, None, None, None], eps=0.25)
    frame = next(stream(model, torch.full((2, 3, 4, 4), 0.2), generators=generators()))
    assert torch.allclose(frame.x, torch.full((2, 3, 4, 4), 0.2), atol=1e-6)


def test_frames_in_between_are_shorter_jumps_and_denoised_by_the_field():
    model = known(FLOWMAP, constant(0.1), constant(0.0), eps=0.2)
    list(islice(stream(model, images(), in_between=2), 2))
    asked = [(query.jump.unique().item(), query.alpha.unique().item()) for query in model.network.queries]
    assert asked[0] == pytest.approx((0.5, 0.2))
    assert asked[-1] == pytest.approx((0.5, 0.1))
    assert {jump for jump, _ in asked[1:-1]} == {0.0}
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("settings", "nfe"), [({"direction": "backward"}, 4), ({"solver": Solver("rk4", steps=2)}, 8)], ids=["back", "rk4"]
)
def test_backward_in_time_and_by_other_solvers_the_field_is_solved(settings, nfe):
    model = known(FLOWMAP, constant(0.1), constant(0.0), eps=0.0)
    frame = next(stream(model, images(), **settings))
    sign = -1 if "direction" in settings else 1
    assert torch.allclose(frame.x, images() + sign * 0.1, atol=1e-6)
    assert frame.nfe.tolist() == [nfe] * 2
    assert {query.jump.unique().item() for query in model.network.queries} == {0.0}


def test_denoising_asks_for_the_field():
    model = known(FLOWMAP, constant(0.0), constant(0.0))
    denoise(model, images(), 0.5, 0.1, solver=Solver("euler", steps=3))
    assert [query.jump.unique().item() for query in model.network.queries] == [0.0] * 4


# The loss


def lesson(network, **settings):
    x = torch.randn(512, 2, 3, 4, 4, generator=generator(9))
    return FLOWMAP.loss(network, x, generator(), TrainConfig(**settings), growing).terms


def test_the_exact_map_has_no_loss_and_the_field_itself_has_one():
    assert lesson(jumping)["u"].max() < 1e-4
    assert lesson(growing)["u"].mean() > 100 * lesson(jumping)["u"].mean()


def test_a_network_learns_the_map_of_its_teachers_field():
    # u = x (a + b jump + c jump²) for a field of -x / 2: its jumps are of exp(-jump / 2) - 1.
    weights = torch.zeros(3, requires_grad=True)

    def network(query) -> Fields:
        jump = query.jump.reshape(-1, 1, 1, 1)
        return Fields(query.x * (weights[0] + weights[1] * jump + weights[2] * jump**2), torch.zeros_like(query.x))

    optimizer, g = torch.optim.Adam([weights], lr=0.05), generator(5)
    for _ in range(100):
        x = torch.randn(64, 2, 1, 4, 4, generator=g)
        loss = FLOWMAP.loss(network, x, g, TrainConfig(), growing)
        optimizer.zero_grad()
        loss.terms["u"].mean().backward()
        optimizer.step()
    for jump in (0.5, 1.0):
        learned = sum(weight * jump**power for power, weight in enumerate(weights.tolist())) * jump
        assert learned == pytest.approx(math.expm1(GROWTH * jump), abs=0.005)


def test_a_quarter_of_the_samples_learns_the_field_and_the_others_jumps_of_a_half_or_the_whole():
    network = Asked(2)
    terms = FLOWMAP.loss(network, clips(4096), generator(), TrainConfig(alpha_max=0.5), growing).terms
    (query,) = network.queries
    field = query.jump[:, 0] == 0
    assert field.float().mean() == pytest.approx(0.25, abs=0.03)
    assert query.alpha[field].max() == pytest.approx(0.5, abs=0.01)
    assert (terms["u"] > 0).tolist() == (~field).tolist()
    legs = torch.stack([query.t, query.jump[:, 0]], 1)[~field]
    share = {leg: (legs == torch.tensor(leg)).all(1).float().mean().item() for leg in [(0, 1), (0, 0.5), (0.5, 0.5)]}
    assert list(share.values()) == pytest.approx([0.5, 0.25, 0.25], abs=0.04)
    start = ~field & (query.t == 0)
    assert query.alpha[start].aminmax() == pytest.approx((0.05, 0.35), abs=0.01)
    assert query.alpha[~field & (query.t == 0.5)].aminmax() == pytest.approx((0.025, 0.175), abs=0.01)


@pytest.mark.parametrize(("alpha_max", "ends"), [(0.3, (0.05, 0.3)), (0.02, (0.02, 0.02))])
def test_jumps_begin_at_levels_that_the_teacher_has_learned(alpha_max, ends):
    network = Asked(2)
    FLOWMAP.loss(network, clips(4096), generator(), TrainConfig(alpha_max=alpha_max), growing)
    (query,) = network.queries
    assert query.alpha[(query.jump[:, 0] > 0) & (query.t == 0)].aminmax() == pytest.approx(ends, abs=0.01)


# Training

TINY = NetworkConfig(channels=(32,), attention=(), patch=2, layers=1)
CONFIG = TrainConfig(steps=1, batch=4, save_every=1, log_every=1, preview_every=0, network=TINY)


def test_before_it_has_learned_anything_it_is_its_teacher(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "teacher")
    config = replace(CONFIG, method="flowmap", init=str(tmp_path / "teacher"), lr=1e-12)
    train(config, prepared, tmp_path / "map")
    x, one = torch.rand(2, 3, 16, 16) * 2 - 1, Solver("euler", steps=1)
    frames = [next(stream(load_model(tmp_path / name), x, solver=one)).x for name in ("teacher", "map")]
    assert torch.allclose(*frames, atol=1e-5)


def test_a_run_keeps_its_teacher_for_itself_and_for_those_that_begin_with_it(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "teacher")
    config = replace(CONFIG, method="flowmap", init=str(tmp_path / "teacher"))
    train(config, prepared, tmp_path / "map")
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    train(replace(config, steps=2), prepared, tmp_path / "map")
    train(replace(config, init=str(tmp_path / "map")), prepared, tmp_path / "more")
    assert load_model(tmp_path / "more" / "teacher").method.name == "biflow"


def test_without_a_teacher_there_is_a_sentence(prepared, tmp_path):
    config = replace(CONFIG, method="flowmap")
    with pytest.raises(UserError, match="FLOW MAP begins with a BI-FLOW model, and learns from it: name one") as error:
        train(config, prepared, tmp_path / "map")
    assert error.value.setting == "init"
    train(replace(config, method="flow"), prepared, tmp_path / "flow")
    with pytest.raises(UserError, match="is a FLOW model; FLOW MAP cannot begin with it"):
        train(replace(config, init=str(tmp_path / "flow")), prepared, tmp_path / "map")


def test_the_teacher_sees_what_it_sees(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "teacher")
    config = replace(CONFIG, method="flowmap", init=str(tmp_path / "teacher"), context=2)
    with pytest.raises(UserError, match="has to see the same past frames and actions: set context to 0"):
        train(config, prepared, tmp_path / "map")
