import importlib.machinery
import json
import sys
import types

import pytest
import torch
from torch import nn

from biflow import files
from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW, METHODS, Loss
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.paths import Fields, Query
from biflow.training.log import TrainingLog, training_flops
from tests.command_line import refused

SMALL = NetworkConfig(channels=(32,), attention=(), patch=2)


def test_flops_are_three_times_two_for_every_product_of_the_layers():
    network = VideoUNet(BIFLOW, SMALL)
    products = []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            products.append(output[0].numel() * layer.weight[0].numel())
        if isinstance(layer, nn.Linear):
            products.append(output[0].numel() * layer.in_features * (output.numel() // output[0].numel()))

    for layer in network.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        network(Query(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1)))
    convolutions_and_linear = 3 * 2 * sum(products)
    # Attention in the middle block multiplies, too: the count may be a little above, never below.
    assert 1 <= training_flops(Model(network, BIFLOW, (3, 16, 16))) / convolutions_and_linear < 1.05


@pytest.mark.parametrize("method", METHODS.values())
def test_flops_are_counted_for_what_a_method_asks(method):
    one, four = (training_flops(Model(VideoUNet(method, SMALL), method, (3, side, side))) for side in (16, 32))
    assert 3.5 < four / one <= 4


def test_counting_leaves_what_a_network_keeps_of_its_batches():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, query):
            return Fields(self.norm(query.x))

    network = Own().train()
    training_flops(Model(network, FLOW, (3, 16, 16)))
    assert network.training
    assert network.norm.num_batches_tracked == 0


def test_the_log_says_which_share_of_the_peak_is_reached(tmp_path):
    log = TrainingLog(tmp_path, 0, 4, flops=10**9, peak=1e12, active=True)
    log.add(Loss({"v": torch.ones(4)}, {"t": torch.rand(4)}))
    log.write(10, 1e-3, 1.0, 40)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["tflops"] == pytest.approx(line["samples_per_s"] * 1e-3)
    assert line["mfu"] == pytest.approx(line["tflops"])


def test_the_log_shows_each_term_against_each_variable(tmp_path):
    log = TrainingLog(tmp_path, 0, 4, active=True)
    t, alpha = torch.tensor([0.05, 0.15, 0.15, 1.0]), torch.tensor([0.0, 0.0, 0.5, 0.5])
    log.add(Loss({"v": torch.tensor([1.0, 2.0, 4.0, 8.0]), "n": torch.ones(4)}, {"t": t, "alpha": alpha}))
    assert log.write(10, 1e-3, 1.0, 40)["v"] == "3.7500"
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["v"], line["n"]) == (3.75, 1)
    assert line["v_against_t"] == [1, 3, *[None] * 7, 8]
    assert line["v_against_alpha"] == [1.5, *[None] * 4, 6, *[None] * 4]
    assert line["n_against_t"] == [1, 1, *[None] * 7, 1]
    assert line["n_against_alpha"][5] == 1


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 2, "v"', b"\0" * 99, b"[" * 100_000, b'{"step": %s}' % (b"9" * 5000), b'{"step": "1"}', b"\xff\n7"],
)
def test_whatever_a_log_ends_with_is_repaired_in_one_piece(damage, tmp_path, monkeypatch):
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"step": 1}\n' + damage)
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            TrainingLog(tmp_path, 1, 4, active=True)
    assert file.read_bytes() == before
    TrainingLog(tmp_path, 1, 4, active=True)
    assert file.read_bytes() == b'{"step": 1}\n'


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = TrainingLog(tmp_path, 0, 4, active=True)
    log.add(Loss({"v": torch.ones(4)}, {"t": torch.rand(4)}))
    (tmp_path / "log.jsonl").symlink_to("/dev/full")  # the error of a disk that is really full
    with pytest.raises(UserError, match=rf"^No space left to write {tmp_path}/log\.jsonl\."):
        log.write(10, 1e-3, 1.0, 40)


def test_the_log_takes_in_a_batch_in_parts(tmp_path):
    log = TrainingLog(tmp_path, 0, 4, active=True)
    for value in (1.0, 3.0):
        log.add(Loss({"v": torch.full((2,), value)}, {"t": torch.full((2,), value / 4)}))
    log.write(1, 1e-3, 1.0, 4)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["v"] == 2
    assert (line["v_against_t"][2], line["v_against_t"][7]) == (1, 3)


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which keeps what it is given."""
    module = types.ModuleType("wandb")
    module.begun, module.logged = [], []
    run = types.SimpleNamespace(log=lambda scalars, step: module.logged.append((step, scalars)))
    module.init = lambda **settings: module.begun.append(settings) or run
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_the_log_goes_to_weights_and_biases_and_a_resumed_run_to_the_same_one(tmp_path, wandb):
    for step in (0, 10):
        log = TrainingLog(tmp_path / "mine", step, 4, active=True, logger="wandb") if step else _first(tmp_path)
        log.add(Loss({"v": torch.ones(4)}, {"t": torch.tensor([0.05, 0.15, 0.15, 1.0])}))
        log.write(step + 10, 1e-3, 1.0, 40)
    first, second = wandb.begun
    assert (first["project"], first["name"], first["resume"]) == ("biflow", "mine", "allow")
    assert first["id"] == second["id"]
    assert [step for step, _ in wandb.logged] == [10, 20]
    scalars = wandb.logged[0][1]
    assert (scalars["v"], scalars["lr"], scalars["v_against_t/0.0"]) == (1.0, 1e-3, 1.0)
    assert not {"step", "v_against_t/0.5"} & scalars.keys()  # no sample had such a t


def _first(tmp_path):
    (tmp_path / "mine").mkdir()
    return TrainingLog(tmp_path / "mine", 0, 4, active=True, logger="wandb")


def test_a_run_that_asks_for_it_without_the_package_is_refused_before_anything_is_written(prepared, tmp_path, capsys):
    words = ("train", "--data", prepared, "--out", tmp_path / "run", "--logger", "wandb", "--processes", 1)
    sentence = "--logger: Weights & Biases is not installed: pip install wandb"
    assert refused(*words, "--network.channels", "[32]", "--network.attention", "[]", capsys=capsys) == sentence
    assert not (tmp_path / "run").exists()
