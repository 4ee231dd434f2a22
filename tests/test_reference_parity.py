"""Against the reference implementation's pipeline as `reference.md` describes it, in our own lines.

The oracle: plain diffusers UNets, torchode's Heun with its IntegralController at atol = rtol = 1e-2, the first step
chosen automatically, one solve a frame over the whole batch, every frame clamped.
"""

from functools import lru_cache
from itertools import islice

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from benchmarks.reference_pipeline import solve
from biflow.networks import import_reference
from biflow.rollout import sample_generators, stream
from biflow.solvers import Solver

SIZE, SEED = 32, 5


def plain_unet(method: str, gain: float) -> UNet2DModel:
    """A fresh network of the reference's "small" shape; the larger the gain, the more steps its field takes."""
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
        net.conv_out.weight.mul_(gain)
        net.time_embedding.linear_1.weight.mul_(max(gain, 1.0))
    return net.eval()


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """method, gain → its plain networks, and our model of the same checkpoint."""

    @lru_cache
    def make(method: str, gain: float):
        path = tmp_path_factory.mktemp(method) / "model.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nets = [plain_unet(method, gain) for _ in range(2 if method == "biflow" else 1)]
        prefixes = ("model1.", "model2.") if method == "biflow" else ("",)
        named = zip(prefixes, nets, strict=True)
        save_file({prefix + key: t.clone() for prefix, net in named for key, t in net.state_dict().items()}, path)
        return nets, import_reference(path, method=method, width=32, size=SIZE, shape="small")

    return make


def reference_frames(method, nets, first, generators, eps, direction):
    """Endless (frame, NFE)."""

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
    while True:
        x = frame
        if eps or method == "condiff":
            noise = torch.stack([torch.randn(3, SIZE, SIZE, generator=generator) for generator in generators])
            x = noise if method == "condiff" else frame + eps * noise
        x, nfe = solve(f, x, *ends)
        frame = x.clamp(-1, 1)
        yield frame, nfe


def assert_parity(nets, model, batch, eps, direction, frames) -> list[int]:
    """The NFE of the frames, which are the same here and there."""
    first = 2 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))[:batch] - 1
    theirs = reference_frames(model.method, nets, first, sample_generators(SEED, range(batch)), eps, direction)
    settings = {"eps": eps, "direction": direction, "solver": Solver("heun", reference=True)}
    ours = stream(model, first, generators=sample_generators(SEED, range(batch)), **settings)
    costs = []
    for frame, (expected, nfe) in islice(zip(ours, theirs, strict=True), frames):
        torch.testing.assert_close(frame.x, expected, atol=1e-4, rtol=0)
        assert int(frame.nfe.max()) == nfe
        assert (expected.abs() < 1).float().mean() > 0.25  # the clamp does not hide what the field does
        costs.append(nfe)
    return costs


CASES = [
    ("flow", 1, 0.0, "forward"),
    ("flow", 2, 0.0, "backward"),
    ("biflow", 1, 0.0, "forward"),
    ("biflow", 2, 0.0, "backward"),
    ("biflow", 2, 0.1, "forward"),
    ("biflow", 1, 0.1, "backward"),
    ("biflow", 1, 0.3, "forward"),
    ("biflow", 2, 0.3, "backward"),
    ("condiff", 1, 0.0, "forward"),
    ("condiff", 2, 0.0, "forward"),
]


@torch.no_grad()
@pytest.mark.parametrize(("method", "batch", "eps", "direction"), CASES)
def test_same_frames_and_same_nfe_as_the_reference(twins, method, batch, eps, direction):
    nets, model = twins(method, 0.25)
    costs = assert_parity(nets, model, batch, eps, direction, frames=2)
    assert max(costs) > 4  # more than one step


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("method", "eps", "direction"), sorted({(m, eps, direction) for m, _, eps, direction in CASES})
)
def test_same_frames_and_same_nfe_as_the_reference_over_a_restless_field(twins, method, batch, eps, direction):
    nets, model = twins(method, 2.0)
    costs = assert_parity(nets, model, batch, eps, direction, frames=3)
    assert max(costs) > 12
