"""The reference implementation's pipeline, as it is built from its libraries: the oracle of tests and of benchmarks.

torchode's Heun with its IntegralController at atol = rtol = 1e-2, the first step chosen anew for every frame, one
solve per frame for the whole batch, every frame clamped. The network is called as it is, in float32.

The formulas are written here again, from the paper, and not taken from `biflow.methods`: one checks the other. As in
`biflow.paths`, t = 0 is the current frame and t = 1 the next; backward in time is solved from k = 1 to k = 0.
"""

# torchode checks its own shapes, by types that pyright cannot follow.
# pyright: reportArgumentType=false

from collections.abc import Callable, Iterator, Sequence

import torch
import torchode
from torch import Tensor

from biflow.config import Direction
from biflow.methods import BIFLOW, CONDIFF, FLOW, Method
from biflow.model import Model
from biflow.paths import Fields, Network, Query, present

Field = Callable[[Tensor, Tensor], Tensor]
"""f(x, k) -> dx/dk for x (b, ...) and k (b,)."""


def solve(f: Field, x: Tensor, k0: float = 0.0, k1: float = 1.0) -> tuple[Tensor, int]:
    """The state at k1 from x at k0, and torchode's number of evaluations for the batch."""
    term = torchode.ODETerm(lambda k, y: f(y.unflatten(1, x.shape[1:]), k).flatten(1))
    controller = torchode.IntegralController(atol=1e-2, rtol=1e-2, term=term)
    adjoint = torchode.AutoDiffAdjoint(torchode.Heun(term), controller)
    k = torch.tensor([[k0, k1]], device=x.device).expand(len(x), 2)
    solution = adjoint.solve(torchode.InitialValueProblem(x.flatten(1), k[:, 0], k[:, 1], t_eval=k))
    assert not solution.status.any(), "torchode gave up"
    return solution.ys[:, -1].reshape(x.shape), int(solution.stats["n_f_evals"].max())


def flow(network: Network, eps: float, condition: Tensor, direction: Direction) -> Field:
    """dx/dk = f(x, t = k) in either direction. Eq. (7)"""
    return lambda x, k: network(Query(x, t=k)).v


def biflow(network: Network, eps: float, condition: Tensor, direction: Direction) -> Field:
    """dx/dk = f^v + f^n dalpha/dk at t = k. Eq. (8)

    Along alpha = eps (1 - k) forward in time, Eq. (9), and along alpha = eps k backward, Sec. 5.
    """

    def joint(x: Tensor, k: Tensor) -> Tensor:
        alpha, dalpha_dk = (eps * (1 - k), -eps) if direction == "forward" else (eps * k, eps)
        v, n = network(Query(x, t=k, alpha=alpha))
        assert n is not None
        return v + dalpha_dk * n

    return joint


def condiff(network: Network, eps: float, condition: Tensor, direction: Direction) -> Field:
    """dx/dk = f(x, alpha = k | last frame), from noise (0) to the next frame (1). Eq. (1)"""
    assert direction == "forward", "CONDIFF has no backward direction"
    return lambda x, k: network(Query(x, alpha=k, condition=condition)).v


FIELDS = {FLOW: flow, BIFLOW: biflow, CONDIFF: condiff}


def field(method: Method, network: Network, eps: float, condition: Tensor, direction: Direction = "forward") -> Field:
    """dx/dk from the last frame, `condition`, to the next one (or to the one before)."""
    return FIELDS[method](network, eps, condition, direction)


def alone(model: Model) -> Network:
    """The model's network, asked without past frames and without an action, which the paper's code does not know."""
    nothing = present(model.conditions(1))

    def ask(query: Query) -> Fields:
        b = len(query.x)
        return model.network(query._replace(**{name: one.expand(b, *one.shape[1:]) for name, one in nothing.items()}))

    return ask if nothing else model.network


def start(method: Method, frame: Tensor, eps: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The state to solve the next frame from: x + eps n, Eq. (9), which for eps = 0 is Eq. (7); for CONDIFF n alone."""
    if not eps and method is not CONDIFF:
        return frame
    n = torch.stack([torch.randn(frame.shape[1:], generator=generator) for generator in generators]).to(frame.device)
    return n if method is CONDIFF else frame + eps * n


def frames(
    method: Method,
    network: Network,
    frame: Tensor,
    eps: float,
    generators: Sequence[torch.Generator],
    direction: Direction = "forward",
) -> Iterator[tuple[Tensor, int]]:
    """Endless (frame, evaluations for the batch)."""
    k0, k1 = (0.0, 1.0) if direction == "forward" else (1.0, 0.0)
    while True:
        with torch.inference_mode():
            x = start(method, frame, eps, generators)
            x, nfe = solve(field(method, network, eps, frame, direction), x, k0, k1)
            frame = x.clamp(-1, 1)
        yield frame, nfe
