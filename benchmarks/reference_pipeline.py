"""The reference implementation's pipeline, as it is built from its libraries; our own lines after shared facts of it.

torchode's Heun with its IntegralController at atol = rtol = 1e-2, the first step chosen anew for every frame, one
solve a frame over the whole batch, every frame clamped. The network is called as it comes, in float32.
"""

# torchode checks its own shapes, by types that pyright cannot follow.
# pyright: reportArgumentType=false

from collections.abc import Callable, Iterator, Sequence

import torch
import torchode
from torch import Tensor

from biflow.paths import Fields


def solve(f: Callable[[Tensor, Tensor], Tensor], x: Tensor, k0: float = 0.0, k1: float = 1.0) -> tuple[Tensor, int]:
    """The state at k1 from x at k0, and torchode's number of evaluations for the batch."""
    term = torchode.ODETerm(lambda k, y: f(y.unflatten(1, x.shape[1:]), k).flatten(1))
    controller = torchode.IntegralController(atol=1e-2, rtol=1e-2, term=term)
    adjoint = torchode.AutoDiffAdjoint(torchode.Heun(term), controller)
    k = torch.tensor([[k0, k1]], device=x.device).expand(len(x), 2)
    solution = adjoint.solve(torchode.InitialValueProblem(x.flatten(1), k[:, 0], k[:, 1], t_eval=k))
    assert not solution.status.any(), "torchode gave up"
    return solution.ys[:, -1].reshape(x.shape), int(solution.stats["n_f_evals"].max())


def field(
    method: str, fields: Callable[..., Fields], eps: float, condition: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """dx/dk from one frame to the next, of FLOW, BI-FLOW (forward) or CONDIFF given `condition`."""

    def biflow(x: Tensor, k: Tensor) -> Tensor:
        v, n = fields(x, k, eps * (1 - k))
        assert n is not None
        return v - eps * n

    return {
        "flow": lambda x, k: fields(x, k).v,
        "biflow": biflow,
        "condiff": lambda x, k: fields(x, k, condition=condition).v,
    }[method]


def start(method: str, frame: Tensor, eps: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Where the solve towards the next frame begins: noise, or the frame with a little of it."""
    if not eps and method != "condiff":
        return frame
    noise = torch.stack([torch.randn(frame.shape[1:], generator=g) for g in generators]).to(frame.device)
    return noise if method == "condiff" else frame + eps * noise


def frames(
    method: str, fields: Callable[..., Fields], frame: Tensor, eps: float, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, int]]:
    """Endless (frame, evaluations for the batch)."""
    while True:
        with torch.inference_mode():
            x = start(method, frame, eps, generators)
            x, nfe = solve(field(method, fields, eps, frame), x)
            frame = x.clamp(-1, 1)
        yield frame, nfe
