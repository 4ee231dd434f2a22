import json
from dataclasses import replace

import pytest
import torch

from biflow.config import NetworkConfig, TrainConfig
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP
from biflow.model import Model, empty_conditions
from biflow.networks import VideoUNet
from biflow.paths import conditioned
from biflow.training import graphs, loop
from biflow.training.graphs import for_gradients
from biflow.training.loop import train

CONFIG = TrainConfig(optimizer="muon", lr=3e-3, batch=8, own_frames=0.5, context=2, ema=0.9, preview_every=0)
CONFIG = replace(CONFIG, network=NetworkConfig(channels=(32, 32), attention=(1,), patch=2))


@pytest.mark.parametrize("method", [FLOW, BIFLOW, CONDIFF, FLOWMAP])
def test_a_loss_asks_with_the_shapes_that_graphs_are_made_for(method, monkeypatch):
    launched = []

    def capture(module, tensors, **_):
        launched.append([tuple(tensor.shape) for tensor in tensors])

        def launch(*tensors):
            launched.append([tuple(tensor.shape) for tensor in tensors])
            return module(*tensors)

        return launch

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    one, seen = empty_conditions(1, (3, 1, 1), 2, None), empty_conditions(4, (3, 16, 16), 2, None)
    network = VideoUNet(method, CONFIG.network, conditions=one)
    model = Model(network, method, (3, 16, 16), context=2)
    answers, lesson = for_gradients(model, 4, bf16=False), {}
    if method.teacher:
        teacher = VideoUNet(BIFLOW, CONFIG.network, conditions=one)
        lesson = {"teacher": conditioned(teacher, seen)}
    losses = []
    for evaluate in (answers, network):
        generator = torch.Generator().manual_seed(0)
        clips = torch.rand(4, 2, 3, 16, 16, generator=generator)
        losses.append(method.loss(conditioned(evaluate, seen), clips, generator, CONFIG, **lesson).terms)
    assert len(launched) == 2  # captured, and launched for the loss
    assert launched[0] == launched[1]
    for name, term in losses[1].items():
        assert torch.equal(losses[0][name], term)


def test_other_shapes_are_answered_without_a_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, tensors, **_: None)
    network = VideoUNet(BIFLOW, CONFIG.network)
    model = Model(network, BIFLOW, (3, 16, 16))
    query = BIFLOW.example(torch.rand(3, 3, 16, 16))
    assert torch.equal(for_gradients(model, 4, bf16=False)(query).v, network(query).v)


def test_a_device_without_graphs_trains_without(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    network = VideoUNet(BIFLOW, CONFIG.network)
    model = Model(network, BIFLOW, (3, 16, 16), device=torch.device("cuda"))
    monkeypatch.setattr(graphs, "example", lambda *_: BIFLOW.example(torch.rand(8, 3, 16, 16)))
    assert graphs.launched(model, network, CONFIG, False, alone=True) == (network, model)
    assert "CUDA graphs cannot be used (operation not permitted" in caplog.text


@pytest.mark.parametrize(("config", "alone"), [(CONFIG, False), (replace(CONFIG, compile=True), True)])
def test_gradients_that_are_added_up_and_compiled_networks_have_no_graph(config, alone, caplog):
    network = VideoUNet(BIFLOW, CONFIG.network)
    model = Model(network, BIFLOW, (3, 16, 16), device=torch.device("cuda"))
    assert graphs.launched(model, network, config, False, alone=alone) == (network, model)
    assert not caplog.text


@pytest.mark.gpu
def test_a_run_by_graphs_has_the_losses_of_one_without(prepared, tmp_path, monkeypatch):
    config, losses = replace(CONFIG, steps=30, save_every=30, log_every=30), []
    for out in ("graphs", "plain"):
        train(config, prepared, tmp_path / out)
        losses.append(json.loads((tmp_path / out / "log.jsonl").read_text().splitlines()[-1]))
        monkeypatch.setattr(loop, "launched", lambda model, network, *_, **__: (network, model))
    assert losses[0]["v"] == pytest.approx(losses[1]["v"], rel=0.05)
    assert losses[0]["n"] == pytest.approx(losses[1]["n"], rel=0.05)
