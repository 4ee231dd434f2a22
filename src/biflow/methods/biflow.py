"""BI-FLOW: an ODE from each frame to the next that also removes noise. Eq. (4) to (9)"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from biflow import paths
from biflow.config import Solver, TrainConfig
from biflow.methods.method import Given, Loss, Method, Terms, squared_error, under
from biflow.methods.noise import Noise, draw_noise, noise_like
from biflow.paths import PATHS, Conditions, Level, Network, PerSample, Query, State, conditioned, noisy
from biflow.solvers import Field, Solution, solve


def biflow_loss(network: Network, x: State, v: State, n: State, t: PerSample, alpha: PerSample) -> Terms:
    """|| f^v(x_{t,alpha}, t, alpha) - v ||² + || f^n(x_{t,alpha}, t, alpha) - n ||². Eq. (5)

    `x` is x_t, to which alpha n is added, and `v` its derivative: x1 - x0 on the paper's straight path. Returns the two
    terms as v and n; the objective is their sum.
    """
    v_hat, n_hat = network(Query(noisy(x, n, alpha), t, alpha))
    assert n_hat is not None, "BI-FLOW needs a network with two heads"
    return {"v": squared_error(v_hat, v), "n": squared_error(n_hat, n)}


class BiFlow(Method):
    """Frame to frame, with a little noise eps that is removed on the way, and errors with it."""

    name, title = "biflow", "BI-FLOW"
    heads = 2
    takes_eps = True
    spans = True

    def loss(self, network: Network, clips: Tensor, generator: torch.Generator, config: TrainConfig) -> Loss:
        t, share = torch.rand((2, len(clips)), generator=generator, device=clips.device)
        n = draw_noise(clips[:, 0].shape, generator, coarse=config.coarse_noise)
        x, v = PATHS[config.path](clips, t)
        return Loss(biflow_loss(network, x, v, n, t, share * config.alpha_max), {"t": t, "alpha": share})

    def start(self, frame: State, eps: Level, generators: Noise) -> tuple[State, Given]:
        if isinstance(eps, Tensor):
            return noisy(frame, noise_like(frame, generators), eps), (eps,)
        return frame + eps * noise_like(frame, generators) if eps else frame, ()

    def field(self, network: Network, eps: Level, backward: bool) -> Field:
        return _along(network, lambda eps: _curve(eps, backward), eps)

    def clean(
        self,
        network: Network,
        x: State,
        k: float,
        *,
        conditions: Conditions,
        eps: Level,
        backward: bool,
        solver: Solver,
    ) -> Solution | None:
        if not isinstance(eps, Tensor) and not eps:
            return None
        alpha = _curve(eps, backward).alpha(x.new_full((len(x),), k))
        return self.denoise(network, x, k, alpha, conditions=conditions, solver=solver)  # t is k on both lines

    def denoise(
        self, network: Network, x: State, t: float, alpha: Level, *, conditions: Conditions, solver: Solver
    ) -> Solution:
        """Remove noise of level `alpha` from states at time `t`. Eq. (6)"""
        given = (alpha,) if isinstance(alpha, Tensor) else ()
        curve = partial(paths.denoising_line, t)
        field, args = under(lambda network: _along(network, curve, alpha), network, conditions, given)
        return solve(field, x, 0.0, 1.0, args=args, solver=solver)

    def noise(self, network: Network, x: State, alpha: float, *, conditions: Conditions) -> State | None:
        level = x.new_full((len(x),), alpha)
        return conditioned(network, conditions)(Query(x, torch.zeros_like(level), level)).n


def _along(network: Network, curve: Callable[[Level], paths.Curve], level: Level) -> Field:
    """The field along the curve of a level, or of each sample's own, which then are among the field's `given`."""
    if isinstance(level, Tensor):  # a solver may ask for some of the samples only
        return lambda x, k, level: paths.field_along(network, curve(level))(x, k)
    return paths.field_along(network, curve(level))


def _curve(eps: Level, backward: bool) -> paths.Curve:
    return paths.backward_line(eps) if backward else paths.forward_line(eps)


BIFLOW = BiFlow()
