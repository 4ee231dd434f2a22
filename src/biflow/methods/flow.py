"""FLOW: an ODE from each frame to the next. Eq. (3), (7)"""

import torch
from torch import Tensor

from biflow.config import TrainConfig
from biflow.methods.method import Loss, Method, Terms, squared_error
from biflow.paths import Network, PerSample, Query, State, linear
from biflow.solvers import Field


def flow_loss(network: Network, x0: State, x1: State, t: PerSample) -> Terms:
    """|| f(x_t, t) - (x1 - x0) ||², x_t = x0 + t (x1 - x0). Eq. (3). Returns the term v."""
    return {"v": squared_error(network(Query(linear(x0, x1, t), t)).v, x1 - x0)}


class Flow(Method):
    """Frame to frame, without noise. It drifts apart within a few frames."""

    name, title = "flow", "FLOW"

    def loss(self, network: Network, clips: Tensor, generator: torch.Generator, config: TrainConfig) -> Loss:
        x0, x1 = clips.unbind(1)
        # The second row is not used: BI-FLOW draws its alpha there, so that both see the same t.
        t, _ = torch.rand((2, len(x0)), generator=generator, device=x0.device)
        return Loss(flow_loss(network, x0, x1, t), {"t": t})

    def field(self, network: Network, eps: float, backward: bool) -> Field:
        return lambda x, t: network(Query(x, t)).v  # Eq. (7)


FLOW = Flow()
