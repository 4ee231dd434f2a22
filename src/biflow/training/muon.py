"""Muon: momentum whose update is made orthogonal, for the matrices of a network; AdamW for everything else.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the size of the step follows Liu et al. 2025 (arXiv:2502.16982),
so that AdamW's learning rate and weight decay carry over. `torch.optim.Muon` does the same for 2-D parameters only,
and a UNet is made of convolutions.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

MOMENTUM = 0.95
BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SMALLEST_SIDE = 32  # below it a matrix has too few directions to be worth balancing


class Muon(torch.optim.Optimizer):
    """Convolutions count as matrices of (out, in x kernel).

    With several processes each orthogonalises its share of the matrices and hands it to the others.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One update from the gradients in `.grad`; parameters without one stay as they are."""
        assert closure is None, "Muon evaluates nothing again"
        for group in self.param_groups:
            lr = group["lr"]
            moved = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for p, grad in moved:
                p.mul_(1 - lr * group["weight_decay"])
                if not is_matrix(p):
                    p.sub_(lr * self._adam(p, grad))
            matrices = [(p, self._nesterov(p, grad)) for p, grad in moved if is_matrix(p)]
            updates = _orthogonal([momentum for _, momentum in matrices])
            for (p, _), update in zip(matrices, updates, strict=True):
                p.sub_(update, alpha=lr * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)

    def _nesterov(self, p: Tensor, grad: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(grad, 1 - MOMENTUM)
        return grad.lerp(state["momentum"], MOMENTUM)

    def _adam(self, p: Tensor, grad: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - BETAS[0])
        state["exp_avg_sq"].lerp_(grad.square(), 1 - BETAS[1])
        step = state["step"].item()
        mean = state["exp_avg"] / (1 - BETAS[0] ** step)
        square = state["exp_avg_sq"] / (1 - BETAS[1] ** step)
        return mean / (square.sqrt() + EPS)


def is_matrix(p: Tensor) -> bool:
    """Whether Muon, and not AdamW, moves this parameter."""
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= SMALLEST_SIDE


def orthogonalise(g: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix to g (out, …) with singular values near 1 (0.7 to 1.2), by Newton-Schulz.

    Iterates on the Gram matrix of the shorter side, which is several times smaller than g for a convolution.
    """
    x = g.flatten(1)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    size = gram.diagonal().sum().clamp(min=1e-30)
    gram = gram / size
    product = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    for _ in range(iterations):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product, gram = product @ factor, factor @ gram @ factor
    x = (product / size.sqrt()) @ x
    return (x.mT if tall else x).reshape(g.shape)


def _orthogonal(updates: list[Tensor]) -> list[Tensor]:
    if not (dist.is_available() and dist.is_initialized()) or not updates:
        return [orthogonalise(u) for u in updates]
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = torch.zeros(sum(u.numel() for u in updates), device=updates[0].device)
    parts = [part.view_as(u) for part, u in zip(whole.split([u.numel() for u in updates]), updates, strict=True)]
    for i, (part, update) in enumerate(zip(parts, updates, strict=True)):
        if i % world == rank:
            part.copy_(orthogonalise(update))
    dist.all_reduce(whole)  # every other process holds zeros there
    return parts
