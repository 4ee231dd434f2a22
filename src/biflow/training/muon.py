"""Muon: momentum whose update is made orthogonal, for the matrices of a network; AdamW for everything else.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the size of the step follows Liu et al. 2025 (arXiv:2502.16982),
so that AdamW's learning rate and weight decay carry over. `torch.optim.Muon` does the same for 2-D parameters only,
and a UNet is made of convolutions.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
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
            lr, moved = group["lr"], [p for p in group["params"] if p.grad is not None]
            if moved:
                torch._foreach_mul_(moved, 1 - lr * group["weight_decay"])
            self._adam([p for p in moved if not is_matrix(p)], lr)
            self._muon([p for p in moved if is_matrix(p)], lr)

    def _muon(self, matrices: list[Tensor], lr: float) -> None:
        if not matrices:
            return
        grads = _gradients(matrices)
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
        updates = _orthogonal(list(torch._foreach_lerp(grads, momenta, MOMENTUM)))  # Nesterov
        sizes = [-lr * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5 for p in matrices]
        torch._foreach_add_(matrices, torch._foreach_mul(updates, sizes))

    def _adam(self, vectors: list[Tensor], lr: float) -> None:
        if not vectors:
            return
        grads = _gradients(vectors)
        for p in vectors:
            if not self.state[p]:
                kept = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p].update(step=torch.zeros(()), **kept)
            self.state[p]["step"] += 1
        means, squares = ([self.state[p][name] for p in vectors] for name in ("exp_avg", "exp_avg_sq"))
        steps = [self.state[p]["step"].item() for p in vectors]
        torch._foreach_lerp_(means, grads, 1 - BETAS[0])
        torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - BETAS[1])
        below = torch._foreach_sqrt(torch._foreach_div(squares, [1 - BETAS[1] ** step for step in steps]))
        torch._foreach_add_(below, EPS)
        torch._foreach_mul_(below, [1 - BETAS[0] ** step for step in steps])
        torch._foreach_addcdiv_(vectors, means, below, value=-lr)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def is_matrix(p: Tensor) -> bool:
    """Whether Muon, and not AdamW, moves this parameter."""
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= SMALLEST_SIDE


def orthogonalise(g: Float[Tensor, "*n rows columns"], iterations: int = 5) -> Float[Tensor, "*n rows columns"]:
    """The nearest matrices to g with singular values near 1 (0.7 to 1.2), by Newton-Schulz.

    Iterates on the Gram matrix of the shorter side, which is several times smaller than g for a convolution.
    """
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp(min=1e-30)
    gram = gram / size
    eye = torch.eye(gram.shape[-1], device=g.device, dtype=g.dtype)
    product = eye
    for _ in range(iterations):
        factor = a * eye + b * gram + c * (gram @ gram)
        product, gram = product @ factor, factor @ gram @ factor
    x = (product / size.sqrt()) @ x
    return x.mT if tall else x


def _orthogonal(updates: list[Tensor]) -> list[Tensor]:
    """Each update, a matrix of (out, in x kernel), made orthogonal; those of one shape at once."""
    shared = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if shared else (0, 1)
    whole = torch.zeros(sum(u.numel() for u in updates), device=updates[0].device)
    parts = [part.view_as(u) for part, u in zip(whole.split([u.numel() for u in updates]), updates, strict=True)]
    alike: dict[tuple[int, int], list[int]] = {}
    for i in range(rank, len(updates), world):
        alike.setdefault((len(updates[i]), updates[i][0].numel()), []).append(i)
    for places in alike.values():
        made = orthogonalise(torch.stack([updates[i].flatten(1) for i in places]))
        for i, update in zip(places, made, strict=True):
            parts[i].copy_(update.view_as(parts[i]))
    if shared:
        dist.all_reduce(whole)  # every other process holds zeros there
    return parts
