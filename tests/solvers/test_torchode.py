"""The reference implementation's solver: step by step that of torchode."""

import math

import pytest
import torch
from torch import Tensor, nn

from biflow.config import Solver
from biflow.solvers import solve


def torchode_heun(f, x: Tensor, k0: float, k1: float, tol: float, t_eval: bool, dt0: float | None = None):
    torchode = pytest.importorskip("torchode")
    term = torchode.ODETerm(lambda t, y: f(y.unflatten(1, x.shape[1:]), t).flatten(1))
    adjoint = torchode.AutoDiffAdjoint(torchode.Heun(term), torchode.IntegralController(tol, tol, term=term))
    t = torch.tensor([[k0, k1]], dtype=x.dtype).expand(len(x), 2)
    problem = torchode.InitialValueProblem(x.flatten(1), t[:, 0], t[:, 1], t if t_eval else None)
    return adjoint.solve(problem, dt0=None if dt0 is None else torch.full_like(t[:, 0], dt0))


def random_field(seed: int, strength: float):
    """Pulls (b, 3, 4, 4) towards a small random network's output, convolutional for even seeds, that swings with k."""
    torch.manual_seed(seed)
    if seed % 2 == 0:
        net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    else:
        hidden = nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 48)
        net = nn.Sequential(nn.Flatten(), *hidden, nn.Unflatten(1, (3, 4, 4)))

    def f(x: Tensor, k: Tensor) -> Tensor:
        swing = torch.tanh(8 * torch.cos(7 * k))[:, None, None, None].expand(-1, 1, 4, 4)
        return strength * (2 * net(torch.cat([x, swing], dim=1)) - x)

    return f


@pytest.mark.parametrize(("k0", "k1"), [(0.0, 1.0), (1.0, 0.0), (0.25, 1.75)])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
@pytest.mark.parametrize("batch", [1, 4])
@torch.no_grad()
def test_reference_takes_the_steps_of_torchode(batch, tol, k0, k1):
    rejected = 0
    for seed in range(4 if tol == 1e-2 else 2):
        f = random_field(seed, strength=math.copysign([0.5, 1.0, 2.0][seed % 3], k1 - k0))
        x = torch.randn(batch, 3, 4, 4) * torch.linspace(0.5, 1, batch).reshape(-1, 1, 1, 1)
        ours = solve(f, x, k0, k1, solver=Solver("heun", rtol=tol, atol=tol, reference=True))
        theirs = torchode_heun(f, x, k0, k1, tol, t_eval=seed in (1, 2))
        assert theirs.status.tolist() == [0] * batch
        assert int(ours.nfe.max()) == int(theirs.stats["n_f_evals"][0])
        assert torch.equal(ours.accepted, theirs.stats["n_accepted"])
        assert torch.equal(ours.accepted + ours.rejected, theirs.stats["n_steps"])
        assert torch.equal(ours.nfe, 2 + 2 * theirs.stats["n_steps"])
        assert torch.allclose(ours.x.flatten(1), theirs.ys[:, -1], rtol=1e-6, atol=1e-6)
        rejected += int(ours.rejected.sum())
    assert rejected > 0


@torch.no_grad()
def test_reference_takes_a_first_step_as_torchode_takes_dt0():
    f, x = random_field(1, 5.0), torch.randn(2, 3, 4, 4)
    ours = solve(f, x, 0.0, 1.0, solver=Solver("heun", reference=True), first_step=0.25)
    theirs = torchode_heun(f, x, 0.0, 1.0, 1e-2, t_eval=False, dt0=0.25)
    assert int(ours.nfe.max()) == int(theirs.stats["n_f_evals"][0])
    assert torch.allclose(ours.x.flatten(1), theirs.ys[:, -1], rtol=1e-6, atol=1e-6)
