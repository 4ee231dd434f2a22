"""Losses: the fields that have none, values by hand, and what is drawn for them."""

import pytest
import torch

from biflow.config import TrainConfig
from biflow.methods import BIFLOW, CONDIFF, FLOW, METHODS
from biflow.methods.biflow import biflow_loss
from biflow.methods.condiff import condiff_loss
from biflow.methods.flow import flow_loss
from biflow.paths import Fields, linear
from tests.methods.asked import ALL, Asked, clips, curved_fields, generator, lesson


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


# Two samples of one pixel each, all of their numbers exact in binary.
X0, X1, N = column(1.0, 8.0), column(3.0, 4.0), column(16.0, -8.0)
T, ALPHA = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.125])


def random_inputs(b: int = 3):
    g = torch.Generator().manual_seed(0)
    x0, x1, n = torch.randn(3, b, 3, 4, 5, generator=g)
    t, alpha = torch.rand(2, b, generator=g)
    return x0, x1, n, t, alpha


def moved(x0, x1, t):
    """x_t on the straight path, and its derivative."""
    return linear(x0, x1, t), x1 - x0


# The fields that the losses look for


def test_the_exact_fields_have_no_loss():
    x0, x1, n, t, alpha = random_inputs()
    assert flow_loss(lambda q: Fields(x1 - x0), *moved(x0, x1, t), t)["v"].tolist() == [0, 0, 0]
    terms = biflow_loss(lambda q: Fields(x1 - x0, n), *moved(x0, x1, t), n, t, alpha)
    assert terms["v"].tolist() == terms["n"].tolist() == [0, 0, 0]
    assert condiff_loss(lambda q: Fields(x1 - n), x0, x1, n, alpha)["v"].tolist() == [0, 0, 0]


def test_wrong_fields_cost_in_their_own_term_only():
    x0, x1, n, t, alpha = random_inputs()
    terms = biflow_loss(lambda q: Fields(x1 - x0, n + 2), *moved(x0, x1, t), n, t, alpha)
    assert terms["v"].tolist() == [0, 0, 0]
    assert torch.allclose(terms["n"], torch.full((3,), 4.0))
    terms = biflow_loss(lambda q: Fields(x1 - x0 - 3, n), *moved(x0, x1, t), n, t, alpha)
    assert torch.allclose(terms["v"], torch.full((3,), 9.0))
    assert terms["n"].tolist() == [0, 0, 0]


# By hand


def test_flow_loss_by_hand():
    # x_t = 1.5 and 6; f = x + t = 1.75 and 6.5; x1 - x0 = 2 and -4.
    terms = flow_loss(lambda q: Fields(q.x + q.t[:, None]), *moved(X0, X1, T), T)
    assert terms.keys() == {"v"}
    assert terms["v"].tolist() == [0.25**2, 10.5**2]


def test_biflow_loss_by_hand():
    # x_{t,alpha} = 1.5 + 0.5 * 16 = 9.5 and 6 - 1 = 5; v = x + t = 9.75 and 5.5; n = x - alpha = 9 and 4.875.
    terms = biflow_loss(lambda q: Fields(q.x + q.t[:, None], q.x - q.alpha[:, None]), *moved(X0, X1, T), N, T, ALPHA)
    assert terms.keys() == {"v", "n"}
    assert terms["v"].tolist() == [7.75**2, 9.5**2]
    assert terms["n"].tolist() == [7.0**2, 12.875**2]


def test_condiff_loss_by_hand():
    # x_alpha = 16 - 0.5 * 13 = 9.5 and -8 + 0.125 * 12 = -6.5; f = x + alpha + 2 x0 = 12 and 9.625;
    # x1 - n = -13 and 12.
    terms = condiff_loss(lambda q: Fields(q.x + q.alpha[:, None] + 2 * q.condition), X0, X1, N, ALPHA)
    assert terms.keys() == {"v"}
    assert terms["v"].tolist() == [25.0**2, 2.375**2]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_condiff_runs_from_noise_to_the_next_frame_given_the_current_one(alpha):
    x0, x1, n, *_ = random_inputs()
    network = Asked()
    condiff_loss(network, x0, x1, n, torch.full((3,), alpha))
    (query,) = network.queries
    assert torch.equal(query.x, x1 if alpha else n)
    assert query.alpha.tolist() == [alpha] * 3
    assert query.t is None
    assert torch.equal(query.condition, x0)


# One value a sample


def losses(x0, x1, n, t, alpha):
    return {
        "flow": flow_loss(curved_fields, *moved(x0, x1, t), t),
        "biflow": biflow_loss(curved_fields, *moved(x0, x1, t), n, t, alpha),
        "condiff": condiff_loss(curved_fields, x0, x1, n, alpha),
    }


def test_a_sample_has_the_loss_it_has_alone():
    inputs = random_inputs(4)
    together = losses(*inputs)
    for i in range(4):
        alone = losses(*(part[i : i + 1] for part in inputs))
        for name, terms in together.items():
            for term, value in terms.items():
                assert value.shape == (4,)
                assert torch.allclose(value[i], alone[name][term][0])


def test_the_loss_does_not_depend_on_the_resolution():
    inputs = random_inputs(2)
    tiled = [part.repeat(1, 1, 3, 2) if part.ndim > 1 else part for part in inputs]
    for terms, larger in zip(losses(*inputs).values(), losses(*tiled).values(), strict=True):
        for term, value in terms.items():
            assert torch.allclose(value, larger[term])


def test_a_half_precision_prediction_is_compared_in_float32():
    x0, x1, n, t, alpha = random_inputs()
    terms = biflow_loss(
        lambda q: Fields((x1 - x0).bfloat16() + 100, n.bfloat16()), *moved(x0, x1, t), n, t, alpha
    ).values()
    assert {value.dtype for value in terms} == {torch.float32}


def test_the_losses_draw_no_random_numbers():
    before = torch.get_rng_state()
    losses(*random_inputs())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_without_noise_head_cannot_be_trained_as_biflow():
    with pytest.raises(AssertionError, match="two heads"):
        biflow_loss(lambda q: Fields(q.x), *moved(X0, X1, T), N, T, ALPHA)


# The loss of a clip


@ALL
def test_a_loss_follows_its_generator(method):
    how = lesson(method)
    first, again = (method.loss(curved_fields, clips(), generator(), TrainConfig(), **how) for _ in range(2))
    other = method.loss(curved_fields, clips(), generator(4), TrainConfig(), **how)
    for name, term in first.terms.items():
        assert term.shape == (512,)
        assert torch.equal(term, again.terms[name])
        assert not torch.equal(term, other.terms[name])


def test_biflow_draws_alpha_up_to_alpha_max():
    network = Asked(2)
    loss = BIFLOW.loss(network, clips(), generator(), TrainConfig(alpha_max=0.25))
    (query,) = network.queries
    assert 0.2 < query.alpha.max() <= 0.25
    assert 0.9 < query.t.max() <= 1.0
    assert torch.equal(loss.at["t"], query.t)
    assert torch.allclose(loss.at["alpha"] * 0.25, query.alpha)  # the log shows the terms against all of [0, 1]


def test_biflow_may_train_on_coarse_noise():
    # The state is x_t + alpha n, and x_t is flat: what is left of it is alpha n.
    network = Asked(2)
    BIFLOW.loss(network, clips(), generator(), TrainConfig(coarse_noise=3.0))
    BIFLOW.loss(network, clips(), generator(), TrainConfig())
    coarse, white = ((q.x - q.t[:, None, None, None]) / q.alpha[:, None, None, None] for q in network.queries)
    assert white.var() == pytest.approx(1, rel=0.1)
    assert coarse.mean((1, 2, 3)).var() > 10 * white.mean((1, 2, 3)).var()


@pytest.mark.parametrize(
    ("method", "terms", "at"), [(FLOW, "v", ["t"]), (BIFLOW, "vn", ["t", "alpha"]), (CONDIFF, "v", ["alpha"])]
)
def test_a_loss_says_where_it_looked(method, terms, at):
    loss = method.loss(curved_fields, clips(), generator(), TrainConfig())
    assert list(loss.terms) == list(terms)
    assert list(loss.at) == at
    for values in loss.at.values():
        assert 0 <= values.min() < 0.1 < 0.9 < values.max() <= 1


def test_every_method_sees_the_same_times_at_the_same_seed():
    learned = [method for method in METHODS.values() if not method.teacher]
    first, *others = (method.loss(curved_fields, clips(), generator(), TrainConfig()).at for method in learned)
    for at in others:
        assert torch.equal(next(iter(at.values())), first["t"])
