"""Fields with known solutions."""

import math

import torch
from torch import Tensor

from biflow.tableaus import TABLEAUS

METHODS = sorted(TABLEAUS)
ADAPTIVE = [name for name in METHODS if TABLEAUS[name].b_low is not None]


# dx/dk = cos(k) x² has the solution x(k) = 1 / (1/x(0) - sin k).
def nonlinear(x: Tensor, k: Tensor) -> Tensor:
    return torch.cos(k)[:, None] * x**2


def nonlinear_solution(x: Tensor, k: float) -> Tensor:
    return 1 / (1 / x - math.sin(k))


def decay(x: Tensor, k: Tensor, rate: Tensor) -> Tensor:
    return -rate[:, None] * x


class Counted:
    """A field that notes the k of every call."""

    def __init__(self, f):
        self.f = f
        self.ks: list[Tensor] = []

    def __call__(self, x, k, *args):
        self.ks.append(k)
        return self.f(x, k, *args)

    @property
    def batches(self) -> list[int]:
        return [len(k) for k in self.ks]
