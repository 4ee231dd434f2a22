"""Networks that keep what they were asked, or whose loss is known, and clips to ask about."""

import pytest
import torch

from biflow.methods import METHODS
from biflow.paths import Fields

ALL = pytest.mark.parametrize("method", METHODS.values())


def curved_fields(q):
    """Different for v and n, and not linear in anything."""
    t, alpha = (0 if s is None else s.reshape(-1, *(1,) * (q.x.ndim - 1)) for s in (q.t, q.alpha))
    condition = getattr(q, "condition", None)
    condition = 0 if condition is None else condition
    return Fields(v=torch.sin(q.x) + t + 3 * alpha + condition, n=torch.cos(q.x) - 2 * alpha)


class Asked:
    """A network that answers with `heads` times the state, and keeps what it was asked."""

    def __init__(self, heads: int = 1):
        self.heads, self.queries = heads, []

    def __call__(self, query):
        self.queries.append(query)
        return Fields(*[query.x] * self.heads)


def lesson(method) -> dict:
    """What the loss of a method takes beside a network: a teacher, if it learns from one."""
    return {"teacher": curved_fields} if method.teacher else {}


def clips(b: int = 512) -> torch.Tensor:
    """Clips of two frames, all zeros and all ones."""
    return torch.stack([torch.zeros(b, 3, 4, 4), torch.ones(b, 3, 4, 4)], dim=1)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
