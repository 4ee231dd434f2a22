"""By torch.compile."""

import torch

from biflow.engines.queries import example
from biflow.machine import keep_compiled
from biflow.model import Model
from biflow.paths import Network


def compiled(model: Model) -> Network:
    """By torch.compile; the first call takes minutes, or seconds where an earlier run has left its work."""
    keep_compiled()
    network = torch.compile(model.network)
    with torch.inference_mode():
        network(example(model))  # a compiler that fails does so here
    return network
