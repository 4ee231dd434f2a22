"""An evaluation on a CUDA device as one graph to launch, rather than hundreds of kernels."""

from functools import cache
from threading import Lock
from typing import Any

import torch

from biflow.engines.queries import each, example, fill
from biflow.model import Model
from biflow.paths import Fields, Network

MOST = 256  # samples: more keep the device busy without graphs


@torch.inference_mode()
def graphed(model: Model) -> Network:
    """The model's network as CUDA graphs, one for each batch size up to MOST, captured when first met.

    Every later call copies its query to where the graph reads it, launches the graph and copies the fields out, all
    without waiting for the device. So a frame of fixed steps has no host synchronisation before its end, and batches
    may shrink, as they do in adaptive solves. The network must not synchronise with the host.

    Raises:
        RuntimeError: the device or the network does not allow it.
    """
    evaluate, query = model.network, example(model)
    pool = torch.cuda.graph_pool_handle()  # shared: results are copied out before another graph runs
    capturing = Lock()  # two captures at a time are not allowed

    @cache
    def captured(batch: int) -> tuple[torch.cuda.CUDAGraph, Any, Fields]:
        slots = each(query, lambda value: value[:1].expand(batch, *value.shape[1:]).clone())
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(model.device)
        aside.wait_stream(torch.cuda.current_stream(model.device))
        # The end of `stream` restores the stream even if a capture fails. Another device may be the current one.
        with capturing, torch.cuda.device(model.device), torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose and allocate in the first calls, which no graph may hold
                evaluate(slots)
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                result = evaluate(slots)
        torch.cuda.current_stream(model.device).wait_stream(aside)
        return graph, slots, result

    @torch.inference_mode()
    def launch(query: Any) -> Fields:
        if len(query[0]) > MOST:
            return evaluate(query)
        graph, slots, result = captured(len(query[0]))
        fill(slots, query)
        graph.replay()
        return each(result, torch.clone)

    launch(query)  # a device that cannot do it says so here
    return launch
