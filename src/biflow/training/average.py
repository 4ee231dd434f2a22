"""The average of the weights over the steps of training, which streaming uses."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters.

    Its decay after n steps is (1 + n) / (10 + n), at most `decay`, so that the first weights are soon forgotten. It is
    diffusers' EMAModel to the bit. That one imports all pipelines, and what else is installed that they may use.

    Attributes:
        shadow: the averages, in the order of the parameters.
        steps: how many steps they are of.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.shadow: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        self.steps, self._decay = 0, decay

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take in the parameters after a step of the optimiser."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        torch._foreach_sub_(self.shadow, torch._foreach_sub(self.shadow, list(parameters)), alpha=1 - decay)
        self.steps += 1

    @contextmanager
    def applied(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Give the parameters their averages, for the length of the block."""
        values = [parameter.detach() for parameter in parameters]
        kept = [value.clone() for value in values]
        torch._foreach_copy_(values, self.shadow)
        try:
            yield
        finally:
            torch._foreach_copy_(values, kept)
