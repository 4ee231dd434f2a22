import pytest
import torch

from biflow.objectives import biflow_loss, condiff_loss, flow_loss
from biflow.paths import Fields


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


def curved_fields(x, t, alpha=None, condition=None):
    """Different for v and n, and not linear in anything."""
    alpha = torch.zeros_like(t) if alpha is None else alpha
    t, alpha = (s.reshape(-1, *(1,) * (x.ndim - 1)) for s in (t, alpha))
    condition = 0 if condition is None else condition
    return Fields(v=torch.sin(x) + t + condition, n=torch.cos(x) - 2 * alpha)


# The fields that the losses look for


def test_the_exact_fields_have_no_loss():
    x0, x1, n, t, alpha = random_inputs()
    assert flow_loss(lambda x, t: Fields(x1 - x0), x0, x1, t)["v"].tolist() == [0, 0, 0]
    terms = biflow_loss(lambda x, t, alpha: Fields(x1 - x0, n), x0, x1, n, t, alpha)
    assert terms["v"].tolist() == terms["n"].tolist() == [0, 0, 0]
    assert condiff_loss(lambda x, t, condition: Fields(x1 - n), x0, x1, n, alpha)["v"].tolist() == [0, 0, 0]


def test_wrong_fields_cost_in_their_own_term_only():
    x0, x1, n, t, alpha = random_inputs()
    terms = biflow_loss(lambda x, t, alpha: Fields(x1 - x0, n + 2), x0, x1, n, t, alpha)
    assert terms["v"].tolist() == [0, 0, 0]
    assert torch.allclose(terms["n"], torch.full((3,), 4.0))
    terms = biflow_loss(lambda x, t, alpha: Fields(x1 - x0 - 3, n), x0, x1, n, t, alpha)
    assert torch.allclose(terms["v"], torch.full((3,), 9.0))
    assert terms["n"].tolist() == [0, 0, 0]


# By hand


def test_flow_loss_by_hand():
    # x_t = 1.5 and 6; f = x + t = 1.75 and 6.5; x1 - x0 = 2 and -4.
    terms = flow_loss(lambda x, t: Fields(x + t[:, None]), X0, X1, T)
    assert terms.keys() == {"v"}
    assert terms["v"].tolist() == [0.25**2, 10.5**2]


def test_biflow_loss_by_hand():
    # x_{t,alpha} = 1.5 + 0.5 * 16 = 9.5 and 6 - 1 = 5; v = x + t = 9.75 and 5.5; n = x - alpha = 9 and 4.875.
    terms = biflow_loss(lambda x, t, alpha: Fields(x + t[:, None], x - alpha[:, None]), X0, X1, N, T, ALPHA)
    assert terms.keys() == {"v", "n"}
    assert terms["v"].tolist() == [7.75**2, 9.5**2]
    assert terms["n"].tolist() == [7.0**2, 12.875**2]


def test_condiff_loss_by_hand():
    # x_alpha = 16 - 0.5 * 13 = 9.5 and -8 + 0.125 * 12 = -6.5; f = x + alpha + 2 x0 = 12 and 9.625;
    # x1 - n = -13 and 12.
    terms = condiff_loss(lambda x, t, condition: Fields(x + t[:, None] + 2 * condition), X0, X1, N, ALPHA)
    assert terms.keys() == {"v"}
    assert terms["v"].tolist() == [25.0**2, 2.375**2]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_condiff_runs_from_noise_to_the_next_frame_given_the_current_one(alpha):
    x0, x1, n, *_ = random_inputs()
    seen = {}

    def fields(x, t, condition):
        seen.update(x=x, t=t, condition=condition)
        return Fields(x)

    condiff_loss(fields, x0, x1, n, torch.full((3,), alpha))
    assert torch.equal(seen["x"], x1 if alpha else n)
    assert seen["t"].tolist() == [alpha] * 3
    assert torch.equal(seen["condition"], x0)


# One value a sample


def losses(x0, x1, n, t, alpha):
    return {
        "flow": flow_loss(curved_fields, x0, x1, t),
        "biflow": biflow_loss(curved_fields, x0, x1, n, t, alpha),
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
        lambda x, t, alpha: Fields((x1 - x0).bfloat16() + 100, n.bfloat16()), x0, x1, n, t, alpha
    ).values()
    assert {value.dtype for value in terms} == {torch.float32}


def test_the_losses_draw_no_random_numbers():
    before = torch.get_rng_state()
    losses(*random_inputs())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_without_noise_head_cannot_be_trained_as_biflow():
    with pytest.raises(AssertionError, match="two heads"):
        biflow_loss(lambda x, t, alpha: Fields(x), X0, X1, N, T, ALPHA)
