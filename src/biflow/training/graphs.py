"""Evaluations in training as CUDA graphs, one launch each: a small network keeps a card waiting for its kernels.

A step of the preset `maze` at a batch of 256 took an H100 over 200 ms, hardly any of which it computed
(docs/lab-notes.md).
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from biflow.config import TrainConfig
from biflow.engines.cuda_graphs import graphed
from biflow.engines.queries import Positional, example
from biflow.model import Model
from biflow.paths import Fields, Network, present

log = logging.getLogger("biflow")


def launched(
    model: Model, network: nn.Module, config: TrainConfig, bf16: bool, *, alone: bool
) -> tuple[Network, Model]:
    """What answers the queries of a loss, and the model that makes own frames: by graphs, where these work.

    `network` is that of the model, as several processes train it. Only `alone`, without other processes or parts of a
    batch, are gradients not added up, which a graph always puts in the same place.
    """
    if model.device.type == "cuda" and alone and not config.compile:
        try:
            answers = for_gradients(model, config.batch, bf16)
            return answers, for_own_frames(model, bf16) if config.own_frames else model
        except RuntimeError as error:
            log.warning("CUDA graphs cannot be used (%s); training without, which is slower.", error)
    return network, model


def for_own_frames(model: Model, bf16: bool) -> Model:
    """The model with a network that answers without gradients, by graphs."""
    return replace(model, network=graphed(replace(model, network=partial(_in_precision, model.weights, bf16))))


def for_gradients(model: Model, batch: int, bf16: bool) -> Network:
    """The model's network for queries of `batch` samples, whose forward and backward pass are a graph each.

    A graph has one place for its result: the gradients of a call must be taken before the next one, and become invalid
    with the gradients of that. Queries of any other shape are answered without a graph.
    """
    network, query = model.weights, example(model, batch)
    slots = present(query)
    evaluate = Positional(query, lambda query: tuple(present(_in_precision(network, bf16, query)).values()), network)
    capture: Any = torch.cuda.make_graphed_callables
    launch = capture(evaluate, tuple(slots.values()), allow_unused_input=True)

    def answer(asked: Any) -> Fields:
        tensors = present(asked)
        if _shapes(tensors) != _shapes(slots):
            return _in_precision(network, bf16, asked)
        return Fields(*launch(*tensors.values()))

    return answer


def _shapes(tensors: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in tensors.items()]


def _in_precision(network: nn.Module, bf16: bool, query: Any) -> Fields:
    """The network's answer. Weights are converted anew in each call: a graph must not keep those of its capture."""
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16, cache_enabled=False):
        return network(query)
