"""An evaluation on a CUDA device as one graph to launch, rather than hundreds of kernels."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from biflow.paths import Fields


@torch.inference_mode()
def graphed(evaluate: Callable[..., Fields], example: dict[str, Tensor]) -> Callable[..., Fields]:
    """`evaluate(x, t, alpha, condition)` as CUDA graphs, one for each batch size, captured when it is first met.

    A call copies its inputs to where the graph reads them, launches it and copies the fields out, all without waiting
    for the device. So a frame of fixed steps has no host synchronisation before its end, and batches may shrink, as
    they do in adaptive solves.

    Args:
        evaluate: without host synchronisation.
        example: its inputs by name, (b, ...) for any b, on the device. A call may bring others: they are left out.
    """
    pool = torch.cuda.graph_pool_handle()  # shared: results are copied out before another graph runs

    @cache
    def captured(batch: int) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Fields]:
        given = {name: value[:1].expand(batch, *value.shape[1:]).clone() for name, value in example.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose and allocate in the first calls, which no graph may hold
            for _ in range(3):
                evaluate(**given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = evaluate(**given)
        return graph, given, result

    @torch.inference_mode()
    def launch(x: Tensor, t: Tensor, alpha: Tensor | None = None, condition: Tensor | None = None) -> Fields:
        graph, given, (v, n) = captured(len(x))
        for name, value in {"x": x, "t": t, "alpha": alpha, "condition": condition}.items():
            if name in given and value is not None:
                given[name].copy_(value)
        graph.replay()
        return Fields(v.clone(), None if n is None else n.clone())

    launch(**example)  # a device that cannot do it says so here
    return launch
