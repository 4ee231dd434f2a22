"""What a network is asked, interpolation, and the curves along which a frame is solved.

Direction, stated once for the whole project: t = 0 is the current frame x0, t = 1 is the next frame x1, and alpha is
the amount of noise (0: clean). The curve parameter k runs from 0 to 1 forward in time; backward in time is the same
curve solved from k = 1 to k = 0. Equations are those of Liu & Ritschel, *Generative Video Bi-flow*, ICCV 2025.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

State = Float[Tensor, "b *shape"]  # of b samples: frames (b, 3, h, w), or tensors of any other shape
PerSample = Float[Tensor, " b"]  # a number for each


class Query(NamedTuple):
    """What a network is asked about b samples; a method leaves out what it does not use.

    A method may ask with another NamedTuple of tensors. Its first field is the state, and all begin with b.
    """

    x: Tensor  # (b, *shape), the state
    t: Tensor | None = None  # (b,), time from the current frame (0) to the next (1)
    alpha: Tensor | None = None  # (b,), noise level; for CONDIFF the way from noise (0) to the next frame (1)
    condition: Tensor | None = None  # (b, *shape), the current frame
    past: Tensor | None = None  # these three as in Conditions
    past_noise: Tensor | None = None
    action: Tensor | None = None


class Conditions(NamedTuple):
    """What a frame depends on beside the current one, whatever the method."""

    past: Tensor | None = None  # (b, m, *shape), the m frames before the current one, the newest first; 0 for none
    past_noise: Tensor | None = None  # (b, m), the level of the noise that each has; -1 where there is no frame
    action: Tensor | None = None  # (b, 1 + k), 1 and k numbers in about [-1, 1]; zeros where no action is known


NO_CONDITIONS = Conditions()


class Fields(NamedTuple):
    """What a network answers, each of the state's shape."""

    v: Tensor  # f^v, towards x1 - x0
    n: Tensor | None = None  # f^n, towards the noise n; only of networks with two heads


Network = Callable[[Any], Fields]
"""A network: from a Query (or another NamedTuple of tensors that its method asks with) to Fields."""

Field = Callable[..., Tensor]
"""f(x, k, *args) -> dx/dk; x and dx/dk are (b, ...), k is (b,), every one of args has the same leading b."""


def present(tensors: Any) -> dict[str, Tensor]:
    """The tensors of a query, or of fields, that are there, by name and in order."""
    return {name: tensor for name, tensor in tensors._asdict().items() if tensor is not None}


def join(queries: Sequence[Any]) -> Any:
    """Queries of one kind as one, batch after batch."""
    return type(queries[0])(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*queries, strict=True)))


def conditioned(network: Network, conditions: Conditions) -> Network:
    """The network, asked under these conditions."""
    known = present(conditions)
    return (lambda query: network(query._replace(**known))) if known else network


class Curve(NamedTuple):
    """A characteristic curve (t_k, alpha_k) with its derivative. Each part maps k (b,) to (b,)."""

    t: Callable[[Tensor], Tensor]
    alpha: Callable[[Tensor], Tensor]
    dt_dk: Callable[[Tensor], Tensor]
    dalpha_dk: Callable[[Tensor], Tensor]


def _over(scale: Tensor, x: Tensor) -> Tensor:
    """`scale` (b,) shaped to broadcast over x (b, ...)."""
    return scale.reshape(-1, *(1,) * (x.ndim - 1))


def linear(x0: State, x1: State, t: PerSample) -> State:
    """x_t = x0 + t (x1 - x0), the path of Eq. (1) and (3)."""
    return torch.lerp(x0, x1, _over(t, x0))


# s + 1 adjacent frames: t = 0 is the first, t = j / s the j-th, t = 1 the last.
Frames = Float[Tensor, "b window *shape"]


def straight(frames: Frames, t: PerSample) -> tuple[State, State]:
    """x_t and dx_t/dt on the straight line from the first frame to the last, whatever lies between. Eq. (3)"""
    x0, x1 = frames[:, 0], frames[:, -1]
    return linear(x0, x1, t), x1 - x0


def knots(frames: Frames, t: PerSample) -> tuple[State, State]:
    """x_t and dx_t/dt on the straight lines from each frame to the next, so that t = j / s is frame j."""
    (y0, y1), u, s = _around(frames, t, (0, 1))
    return linear(y0, y1, u), s * (y1 - y0)


def cubic(frames: Frames, t: PerSample) -> tuple[State, State]:
    """x_t and dx_t/dt on the cubic Hermite curve through all frames (Catmull-Rom; one-sided slopes at both ends)."""
    (before, y0, y1, after), u, s = _around(frames, t, (-1, 0, 1, 2))
    first, last = (_over(t * s < 1, y0), _over(t * s >= s - 1, y0))
    m0 = torch.where(first, y1 - y0, (y1 - before) / 2)
    m1 = torch.where(last, y1 - y0, (after - y0) / 2)
    u = _over(u, y0)
    a, b = 2 * (y0 - y1) + m0 + m1, 3 * (y1 - y0) - 2 * m0 - m1
    return ((a * u + b) * u + m0) * u + y0, s * ((3 * a * u + 2 * b) * u + m0)


PATHS = {"linear": straight, "knots": knots, "cubic": cubic}  # as settings name them; with two frames they are one


def _around(frames: Frames, t: PerSample, offsets: tuple[int, ...]) -> tuple[list[State], PerSample, int]:
    """The frames at these offsets from the one before t (the outermost for those beyond), t between frames, and s."""
    s, each = frames.shape[1] - 1, torch.arange(len(frames), device=frames.device)
    j = (t * s).long().clamp(0, s - 1)
    return [frames[each, (j + offset).clamp(0, s)] for offset in offsets], t * s - j, s


def noisy(x: State, n: State, alpha: PerSample) -> State:
    """x + alpha n."""
    return x + _over(alpha, n) * n


def bilinear(x0: State, x1: State, n: State, t: PerSample, alpha: PerSample) -> State:
    """x_{t,alpha} = x0 + t (x1 - x0) + alpha n: blend two frames by t, then add noise by alpha. Eq. (4)"""
    return noisy(linear(x0, x1, t), n, alpha)


Level = float | PerSample  # of noise: one for all samples, or one for each


def line(start: tuple[float, Level], end: tuple[float, Level]) -> Curve:
    """The straight curve from (t, alpha) = `start` at k = 0 to `end` at k = 1."""
    (t0, alpha0), (t1, alpha1) = start, end
    return Curve(
        t=lambda k: t0 + (t1 - t0) * k,
        alpha=lambda k: alpha0 + (alpha1 - alpha0) * k,
        dt_dk=lambda k: torch.full_like(k, t1 - t0),
        dalpha_dk=lambda k: torch.zeros_like(k) + (alpha1 - alpha0),
    )


def forward_line(eps: Level) -> Curve:
    """Solved k: 0 → 1, one frame ahead while removing the noise eps n added before. Eq. (9); eps = 0 is Eq. (7)."""
    return line((0.0, eps), (1.0, 0.0))


def backward_line(eps: Level) -> Curve:
    """Solved k: 1 → 0, one frame back while removing the noise eps n added before. Sec. 5"""
    return line((0.0, 0.0), (1.0, eps))


def denoising_line(t: float, eps: Level) -> Curve:
    """Solved k: 0 → 1 at a fixed time t, removes noise of level eps and leaves the time alone. Eq. (6)"""
    return line((t, eps), (t, 0.0))


def field_along(network: Network, curve: Curve) -> Field:
    """The joint field f^j(x, k) = f^v dt_k/dk + f^n dalpha_k/dk of a characteristic curve. Eq. (8)

    The result maps a state (b, ...) and k (b,) to dx/dk (b, ...).
    """
    return partial(_joint, network, curve)


def _joint(network: Network, curve: Curve, x: Tensor, k: Tensor) -> Tensor:
    v, n = network(Query(x, t=curve.t(k), alpha=curve.alpha(k)))
    dx = v * _over(curve.dt_dk(k), v)
    return dx if n is None else dx + n * _over(curve.dalpha_dk(k), n)
