"""How much of the hardware's arithmetic a training run reaches."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from biflow.model import Model

# Dense bf16 in FLOP/s, from the makers' data sheets; the SXM form where there are several.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}


def training_flops(model: Model) -> int:
    """Floating-point operations (a multiplication and an addition are two) to train on one sample.

    Counted for the forward pass; the backward pass takes twice as many (a product for the inputs, one for the weights).
    """
    assert model.shape is not None
    query = model.method.example(torch.zeros(1, *model.shape, device=model.device))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.network(query)
    return 3 * counter.get_total_flops()


def peak_flops() -> float | None:
    """Of the graphics card in use, in bf16; None without one, or for one that is not listed here."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)
