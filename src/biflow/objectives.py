"""The training losses: one value per sample and named term, and no randomness of their own.

Every loss is the mean squared error over a sample's elements: the paper's squared norm, divided by their number, so
that its size does not depend on the resolution. The caller draws t, alpha and the noise, and reduces.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from biflow.paths import Fields, bilinear, linear

Terms = dict[str, Float[Tensor, " b"]]


def _mse(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.float() - target).square().flatten(1).mean(1)


def flow_loss(
    fields: Callable[..., Fields],
    x0: Float[Tensor, "b *shape"],
    x1: Float[Tensor, "b *shape"],
    t: Float[Tensor, " b"],
) -> Terms:
    """FLOW: || f(x_t, t) - (x1 - x0) ||², x_t = x0 + t (x1 - x0). Eq. (3). Returns the term v."""
    return {"v": _mse(fields(linear(x0, x1, t), t).v, x1 - x0)}


def biflow_loss(
    fields: Callable[..., Fields],
    x0: Float[Tensor, "b *shape"],
    x1: Float[Tensor, "b *shape"],
    n: Float[Tensor, "b *shape"],
    t: Float[Tensor, " b"],
    alpha: Float[Tensor, " b"],
) -> Terms:
    """BI-FLOW: || f^v(x_{t,alpha}, t, alpha) - (x1 - x0) ||² + || f^n(x_{t,alpha}, t, alpha) - n ||². Eq. (5)

    Returns the two terms as v and n; the objective is their sum.
    """
    v_hat, n_hat = fields(bilinear(x0, x1, n, t, alpha), t, alpha)
    assert n_hat is not None, "BI-FLOW needs a network with two heads"
    return {"v": _mse(v_hat, x1 - x0), "n": _mse(n_hat, n)}


def condiff_loss(
    fields: Callable[..., Fields],
    x0: Float[Tensor, "b *shape"],
    x1: Float[Tensor, "b *shape"],
    n: Float[Tensor, "b *shape"],
    alpha: Float[Tensor, " b"],
) -> Terms:
    """CONDIFF: || f(x_alpha, alpha | x0) - (x1 - n) ||², x_alpha = n + alpha (x1 - n). Eq. (1), conditional on x0.

    Here alpha runs from noise (0) to the next frame (1), as in the paper's Eq. (1). Returns the term v.
    """
    return {"v": _mse(fields(linear(n, x1, alpha), alpha, condition=x0).v, x1 - n)}
