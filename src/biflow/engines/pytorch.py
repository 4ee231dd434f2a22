"""By PyTorch in bf16, and whether a frame stays what it is in it."""

import torch
import torch.nn.functional as F
from torch import nn

from biflow.config import Solver
from biflow.model import Model
from biflow.networks import VideoUNet, halved, of_halves
from biflow.paths import Fields, Network

HALF_LEVEL = 1 / 255  # half a grey level of frames in [-1, 1]
FINE = 1e-3  # tolerances below it take up to twice the evaluations in bf16


def bf16_network(model: Model) -> Network:
    """By PyTorch in bf16, convolutions in channels-last; what autocast keeps in float32, and the fields, in float32."""
    network = model.network
    if not isinstance(network, VideoUNet):
        return network
    twin = of_halves(network)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype=torch.bfloat16, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def evaluate(query) -> Fields:
        query = halved(query)
        # Without its cache, which a CUDA graph must not depend on; the weights need none.
        with torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False):
            outputs = [twin.evaluate(net, query) for net in twin.nets]
        return twin.fields([output.float() for output in outputs])

    return evaluate


@torch.no_grad()
def frame_error(model: Model, network: Network, eps: float = 0.2) -> float:
    """How far, rms, the first Euler step of a frame by `network` is from that by the model's own network."""
    assert model.shape is not None
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1, model.shape[1:]).to(model.device)
    method, level = model.method, eps if model.method.takes_eps else 0.0
    x, given = method.start(smooth, level, [generator])
    step = {"given": given, "eps": level, "solver": Solver("euler", steps=1), "conditions": model.conditions(1)}
    ours, exact = (method.advance(one, x, 0.0, 1.0, **step).x for one in (network, model.network))
    return (ours - exact).square().mean().sqrt().item()
