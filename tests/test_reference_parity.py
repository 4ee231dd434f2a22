"""Against the reference implementation's pipeline as `reference.md` describes it, in our own lines.

The oracle: plain diffusers UNets, torchode's Heun with its IntegralController at atol = rtol = 1e-2, the first step
chosen automatically, one solve a frame over the whole batch, every frame clamped.
"""

from itertools import islice

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from biflow.networks import import_reference
from biflow.rollout import rollout, sample_generators, stream
from biflow.solvers import Solver

torchode = pytest.importorskip("torchode")

SIZE, FRAMES, SEED = 32, 3, 5


def plain_unet(method: str) -> UNet2DModel:
    net = UNet2DModel(
        in_channels=6 if method == "condiff" else 3,
        out_channels=3,
        block_out_channels=(32, 32, 64, 64, 128, 128),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        add_attention=True,
        class_embed_type="timestep" if method == "biflow" else None,
    )
    with torch.no_grad():
        net.conv_out.weight.mul_(GAIN)  # a fresh network is too tame: every frame would be one step
        net.time_embedding.linear_1.weight.mul_(GAIN)
    return net.eval()


GAIN = 2.0


@pytest.fixture(scope="module", params=["flow", "biflow", "condiff"])
def twins(request, tmp_path_factory):
    """The method, its plain networks, and our model of the same checkpoint."""
    method, path = request.param, tmp_path_factory.mktemp(request.param) / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = [plain_unet(method) for _ in range(2 if method == "biflow" else 1)]
    prefixes = ("model1.", "model2.") if method == "biflow" else ("",)
    named = zip(prefixes, nets, strict=True)
    save_file({prefix + key: t.clone() for prefix, net in named for key, t in net.state_dict().items()}, path)
    return method, nets, import_reference(path, method=method, width=32, size=SIZE, shape="small")


def solve_with_torchode(f, x, k0, k1):
    """The state at k1, and torchode's number of evaluations for the batch."""
    term = torchode.ODETerm(lambda k, y: f(y.unflatten(1, x.shape[1:]), k).flatten(1))
    controller = torchode.IntegralController(atol=1e-2, rtol=1e-2, term=term)
    adjoint = torchode.AutoDiffAdjoint(torchode.Heun(term), controller)
    k = torch.tensor([[k0, k1]]).expand(len(x), 2)
    solution = adjoint.solve(torchode.InitialValueProblem(x.flatten(1), k[:, 0], k[:, 1], t_eval=k))
    assert solution.status.tolist() == [0] * len(x)
    return solution.ys[:, -1].reshape(x.shape), int(solution.stats["n_f_evals"].max())


def reference_frames(method, nets, first, generators, eps, direction):
    """(frame, NFE) of each of `FRAMES` frames."""

    def flow(x, k):
        return nets[0](x, k).sample

    def biflow(x, k):
        alpha, slope = (eps * (1 - k), -eps) if direction == "forward" else (eps * k, eps)
        return nets[0](x, k, class_labels=alpha).sample + slope * nets[1](x, k, class_labels=alpha).sample

    def condiff(x, k):
        return nets[0](torch.cat([x, frame], dim=1), k).sample

    f = {"flow": flow, "biflow": biflow, "condiff": condiff}[method]
    ends = (0.0, 1.0) if direction == "forward" else (1.0, 0.0)
    frame = first
    for _ in range(FRAMES):
        x = frame
        if eps or method == "condiff":
            noise = torch.stack([torch.randn(3, SIZE, SIZE, generator=generator) for generator in generators])
            x = noise if method == "condiff" else frame + eps * noise
        x, nfe = solve_with_torchode(f, x, *ends)
        frame = x.clamp(-1, 1)
        yield frame, nfe


CASES = {
    "flow": [(0.0, "forward"), (0.0, "backward")],
    "biflow": [(eps, direction) for eps in (0.0, 0.1, 0.3) for direction in ("forward", "backward")],
    "condiff": [(0.0, "forward")],
}


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_same_frames_and_same_nfe_as_the_reference(twins, batch):
    method, nets, model = twins
    first = 2 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))[:batch] - 1
    costs = []
    for eps, direction in CASES[method]:
        ours = stream(
            model,
            first,
            generators=sample_generators(SEED, range(batch)),
            eps=eps,
            direction=direction,
            solver=Solver(reference=True),
        )
        theirs = reference_frames(method, nets, first, sample_generators(SEED, range(batch)), eps, direction)
        for frame, (expected, nfe) in zip(islice(ours, FRAMES), theirs, strict=True):
            torch.testing.assert_close(frame.x, expected, atol=1e-4, rtol=0)
            assert int(frame.nfe.max()) == nfe
            costs.append(nfe)
    print(costs)
    assert max(costs) > 4  # more than one step


@torch.no_grad()
def test_the_parity_is_not_trivial(twins):
    method, _, model = twins
    first = 2 * torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 1
    assert method
    assert model
    assert rollout
    assert first.shape
