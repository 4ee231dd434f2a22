"""Against the reference implementation's pipeline (benchmarks/reference_pipeline.py) on plain diffusers UNets.

The oracle and the stream share no line but the query: not the network, not the field, not the solver, not the loop.
"""

from functools import lru_cache
from itertools import islice

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from benchmarks import reference_pipeline
from biflow.config import Solver
from biflow.methods import BIFLOW, CONDIFF, FLOW, Method
from biflow.paths import Fields, Network
from biflow.reference import import_reference
from biflow.rollout import sample_generators, stream

SIZE, SEED = 32, 5


def plain_unet(method: Method, gain: float) -> UNet2DModel:
    """A fresh network of the reference's "small" shape; the larger the gain, the more steps its field takes."""
    net = UNet2DModel(
        in_channels=6 if method is CONDIFF else 3,
        out_channels=3,
        block_out_channels=(32, 32, 64, 64, 128, 128),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        add_attention=True,
        class_embed_type="timestep" if method is BIFLOW else None,
    )
    with torch.no_grad():
        net.conv_out.weight.mul_(gain)
        net.time_embedding.linear_1.weight.mul_(max(gain, 1.0))
    return net.eval()


def plain_network(method: Method, nets: list[UNet2DModel]) -> Network:
    """Queries answered as the reference's code calls its networks, from its source."""

    def flow(query):
        return Fields(nets[0](query.x, query.t).sample)

    def biflow(query):
        v, n = (net(query.x, query.t, class_labels=query.alpha).sample for net in nets)
        return Fields(v, n)

    def condiff(query):
        return Fields(nets[0](torch.cat([query.x, query.condition], dim=1), query.alpha).sample)

    return {FLOW: flow, BIFLOW: biflow, CONDIFF: condiff}[method]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """method, gain → its plain network, and our model of the same checkpoint."""

    @lru_cache
    def build(method: Method, gain: float):
        path = tmp_path_factory.mktemp(method.name) / "model.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nets = [plain_unet(method, gain) for _ in range(2 if method is BIFLOW else 1)]
        prefixes = ("model1.", "model2.") if method is BIFLOW else ("",)
        named = zip(prefixes, nets, strict=True)
        save_file({prefix + key: t.clone() for prefix, net in named for key, t in net.state_dict().items()}, path)
        model = import_reference(path, method=method.name, width=32, size=SIZE, shape="small")
        return plain_network(method, nets), model

    return build


def assert_parity(network, model, batch, eps, direction, frames) -> list[int]:
    """The NFE of the frames, which are the same here and there."""
    first = 2 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))[:batch] - 1
    generators = sample_generators(SEED, range(batch))
    theirs = reference_pipeline.frames(model.method, network, first, eps, generators, direction)
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
    (FLOW, 1, 0.0, "forward"),
    (FLOW, 2, 0.0, "backward"),
    (BIFLOW, 1, 0.0, "forward"),
    (BIFLOW, 2, 0.0, "backward"),
    (BIFLOW, 2, 0.1, "forward"),
    (BIFLOW, 1, 0.1, "backward"),
    (BIFLOW, 1, 0.3, "forward"),
    (BIFLOW, 2, 0.3, "backward"),
    (CONDIFF, 1, 0.0, "forward"),
    (CONDIFF, 2, 0.0, "forward"),
]


@torch.no_grad()
@pytest.mark.parametrize(("method", "batch", "eps", "direction"), CASES)
def test_same_frames_and_same_nfe_as_the_reference(twins, method, batch, eps, direction):
    network, model = twins(method, 0.25)
    costs = assert_parity(network, model, batch, eps, direction, frames=2)
    assert max(costs) > 4  # more than one step


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("method", "eps", "direction"), list(dict.fromkeys((m, eps, direction) for m, _, eps, direction in CASES))
)
def test_same_frames_and_same_nfe_as_the_reference_over_a_restless_field(twins, method, batch, eps, direction):
    network, model = twins(method, 2.0)
    costs = assert_parity(network, model, batch, eps, direction, frames=3)
    assert max(costs) > 12
