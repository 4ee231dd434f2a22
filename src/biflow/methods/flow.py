"""FLOW: an ODE from each frame to the next. Eq. (3), (7)"""

import torch
from torch import Tensor

from biflow.config import TrainConfig
from biflow.methods.method import Loss, Method, Terms, squared_error
from biflow.paths import PATHS, Network, PerSample, Query, State
from biflow.solvers import Field


def flow_loss(network: Network, x: State, v: State, t: PerSample) -> Terms:
    """|| f(x_t, t) - v ||². Eq. (3). Returns the term v.

    `x` is x_t, and `v` its derivative: x1 - x0 on the paper's straight path.
    """
    return {"v": squared_error(network(Query(x, t)).v, v)}


class Flow(Method):
    """Frame to frame, without noise. It drifts apart within a few frames."""

    name, title = "flow", "FLOW"
    spans = True

    def loss(self, network: Network, clips: Tensor, generator: torch.Generator, config: TrainConfig) -> Loss:
        # The second row is not used: BI-FLOW draws its alpha there, so that both see the same t.
        t, _ = torch.rand((2, len(clips)), generator=generator, device=clips.device)
        return Loss(flow_loss(network, *PATHS[config.path](clips, t), t), {"t": t})

    def field(self, network: Network, eps: float, backward: bool) -> Field:
        return lambda x, t: network(Query(x, t)).v  # Eq. (7)


FLOW = Flow()
