"""An evaluation on a CUDA device as one graph to launch, rather than hundreds of kernels."""

from collections.abc import Callable
from functools import cache
from threading import Lock

import torch
from torch import Tensor

from biflow.paths import Fields

MOST = 16  # samples: more keep the device busy without


@torch.inference_mode()
def graphed(evaluate: Callable[..., Fields], example: dict[str, Tensor]) -> Callable[..., Fields]:
    """`evaluate(x, t, alpha, condition)` as CUDA graphs, one for each batch size up to MOST, captured when first met.

    Every later call copies its inputs to where the graph reads them, launches it and copies the fields out, all without
    waiting for the device. So a frame of fixed steps has no host synchronisation before its end, and batches may
    shrink, as they do in adaptive solves.

    Args:
        evaluate: without host synchronisation.
        example: its inputs by name, (b, ...) for any b, on the device. A call may bring others: they are left out.

    Raises:
        RuntimeError: the device or `evaluate` does not allow it.
    """
    pool = torch.cuda.graph_pool_handle()  # shared: results are copied out before another graph runs
    capturing = Lock()  # two captures at a time are not allowed

    @cache
    def captured(batch: int) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Fields]:
        given = {name: value[:1].expand(batch, *value.shape[1:]).clone() for name, value in example.items()}
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with capturing, torch.cuda.stream(aside):  # whose end restores the stream even if a capture fails
            for _ in range(3):  # libraries choose and allocate in the first calls, which no graph may hold
                evaluate(**given)
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                result = evaluate(**given)
        torch.cuda.current_stream().wait_stream(aside)
        return graph, given, result

    @torch.inference_mode()
    def launch(x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
        named = {"x": x, "t": t, "alpha": alpha, "condition": condition}
        if len(x) > MOST:
            return evaluate(**{name: named[name] for name in example})
        graph, given, (v, n) = captured(len(x))
        fill(given, named)
        graph.replay()
        return Fields(v.clone(), None if n is None else n.clone())

    launch(**example)  # a device that cannot do it says so here
    return launch


def fill(slots: dict[str, Tensor], named: dict[str, Tensor | None]) -> None:
    """Copy inputs to where the last call's still lie. Raises ValueError if one of them is missing or misshapen."""
    for name, slot in slots.items():
        value = named[name]
        if value is None or value.shape != slot.shape:
            given = "missing" if value is None else f"of shape {tuple(value.shape)}"
            raise ValueError(f"{name} has to be of shape {tuple(slot.shape)}, but is {given}.")
        slot.copy_(value)
