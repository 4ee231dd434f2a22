"""FLOW MAP: BI-FLOW that jumps along its curve, so that a frame takes one evaluation or two. It is not in the paper.

The map from k = s to k = r along the curve of Eq. (9) is X_{s→r}(x) = x + (r - s) u(x, s, r - s), which is a step of
Euler's method with u in place of the field. u = u^v - eps u^n comes from a network like that of BI-FLOW, which is also
told the length of the jump; for a jump of length 0, u is the field itself. (Boffi, Albergo & Vanden-Eijnden 2024, *Flow
map matching*; Frans et al. 2024, *One step diffusion via shortcut models*.)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from biflow import paths
from biflow.config import Solver, TrainConfig
from biflow.methods.biflow import BiFlow
from biflow.methods.method import Loss, squared_error
from biflow.methods.noise import draw_noise
from biflow.paths import Curve, Fields, Level, Network, PerSample, Query, State, bilinear
from biflow.solvers import Solution, solve
from biflow.solvers.solution import columns

FIELD = 0.25  # share of the samples that go on learning the field
EPS = (0.05, 0.35)  # noise levels that jumps are learned for, as far as alpha_max reaches
LEGS = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.5], [0.5, 1.0]])  # from where to where jumps lead, equally often
TEACHER = Solver("adams", steps=3)  # for a half of the curve
FIELD_SOLVER = Solver("adams", steps=4)  # where no jumps were learned


class JumpQuery(NamedTuple):
    """A Query that also says how far the network is to jump."""

    x: Tensor
    t: Tensor | None = None
    alpha: Tensor | None = None
    past: Tensor | None = None
    past_noise: Tensor | None = None
    action: Tensor | None = None
    jump: Tensor | None = None  # (b, 1), in k


class FlowMap(BiFlow):
    """BI-FLOW in jumps: "euler" with n steps makes n of them. Other solvers solve the field, as those of BI-FLOW do.

    It is trained beside a BI-FLOW model, its teacher, whose weights it begins with. Jumps lead forward in time; where
    "euler" would go backward, or denoise a frame in between, the field is solved in four Adams steps instead.
    """

    name, title = "flowmap", "FLOW MAP"
    spans = False
    teacher = "biflow"
    solver = Solver("euler", steps=1)

    def loss(
        self,
        network: Network,
        clips: Tensor,
        generator: torch.Generator,
        config: TrainConfig,
        teacher: Network | None = None,
    ) -> Loss:
        """Eq. (5) on some of the samples, and on the others || u(x_s, s, r - s) - (x_r - x_s) / (r - s) ||².

        x_s and x_r are where the teacher's solution from x0 + eps n is at s and r.
        """
        assert teacher is not None, "a flow map is learned from a BI-FLOW model"
        (x0, x1), device = clips.unbind(1), clips.device
        chance, t, alpha, eps, leg = torch.rand((5, len(x0)), generator=generator, device=device)
        n, white = draw_noise(x0.shape, generator, coarse=config.coarse_noise), draw_noise(x0.shape, generator)
        low, high = (min(level, config.alpha_max) for level in EPS)  # above alpha_max the teacher has learned nothing
        eps, is_field = low + (high - low) * eps, chance < FIELD
        s, r = LEGS.to(device)[(leg * len(LEGS)).long()].unbind(1)
        x_s, x_r = _ends(teacher, x0 + columns(eps, x0) * white, eps, s, r)

        x = torch.where(columns(is_field, x0), bilinear(x0, x1, n, t, alpha * config.alpha_max), x_s)
        t, level = torch.where(is_field, t, s), torch.where(is_field, alpha * config.alpha_max, eps * (1 - s))
        jump = torch.where(is_field, 0.0, r - s)
        v_hat, n_hat = network(JumpQuery(x, t, level, jump=jump[:, None]))
        assert n_hat is not None, "a flow map needs a network with two heads"
        u_hat, u = v_hat - columns(eps, x0) * n_hat, (x_r - x_s) / columns(r - s, x0)
        v, n_, u = squared_error(v_hat, x1 - x0), squared_error(n_hat, n), squared_error(u_hat, u)
        return Loss({"v": v * is_field / FIELD, "n": n_ * is_field / FIELD, "u": u * ~is_field / (1 - FIELD)}, {})

    def solved_by(self, solver: Solver, *, backward: bool) -> Solver:
        return _of_field(solver) if backward else solver

    def advance(self, network: Network, x: State, k0: float, k1: float, *, solver: Solver, **how: Any) -> Solution:
        solver = self.solved_by(solver, backward=k1 < k0)
        jump = (k1 - k0) / (solver.steps or 1) if solver.method == "euler" else 0.0
        return super().advance(jumping(network, jump), x, k0, k1, solver=solver, **how)

    def denoise(self, network: Network, x: State, t: float, alpha: Level, *, solver: Solver, **how: Any) -> Solution:
        return super().denoise(jumping(network, 0.0), x, t, alpha, solver=_of_field(solver), **how)

    def noise(self, network: Network, x: State, alpha: float, **how: Any) -> State | None:
        return super().noise(jumping(network, 0.0), x, alpha, **how)


def jumping(network: Network, jump: float) -> Network:
    """A network of JumpQueries as one of Queries, for jumps of that length."""

    def ask(query: Query) -> Fields:
        x, t, alpha, _, past, past_noise, action = query
        return network(JumpQuery(x, t, alpha, past, past_noise, action, x.new_full((len(x), 1), jump)))

    return ask


def _of_field(solver: Solver) -> Solver:
    return FIELD_SOLVER if solver.method == "euler" else solver


@torch.no_grad()
def _ends(teacher: Network, x: State, eps: PerSample, s: PerSample, r: PerSample) -> tuple[State, State]:
    """Where the teacher's solution from x, a frame with noise of level eps, is at k = s and at k = r."""

    def field(x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        curve = Curve(lambda k: k, lambda k: eps * (1 - k), torch.ones_like, lambda k: -eps)
        return paths.field_along(teacher, curve)(x, k)

    middle = solve(field, x, 0.0, 0.5, args=(eps,), solver=TEACHER).x
    end = solve(field, middle, 0.5, 1.0, args=(eps,), solver=TEACHER).x
    return torch.where(columns(s > 0, x), middle, x), torch.where(columns(r < 1, x), middle, end)


FLOWMAP = FlowMap()
