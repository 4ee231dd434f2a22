import json

import pytest
import torch
from torch import nn

from biflow.config import NetworkConfig
from biflow.networks import VideoUNet
from biflow.training.flops import training_flops
from biflow.training.log import TrainingLog


def test_flops_are_three_times_two_for_every_product_of_the_layers():
    model = VideoUNet("biflow", NetworkConfig(channels=(32,), attention=(), patch=2), (16, 16))
    products = []

    def count(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            products.append(output[0].numel() * layer.weight[0].numel())
        if isinstance(layer, nn.Linear):
            products.append(output[0].numel() * layer.in_features * (output.numel() // output[0].numel()))

    for layer in model.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1))
    convolutions_and_linear = 3 * 2 * sum(products)
    # Attention in the middle block multiplies, too: the count may be a little above, never below.
    assert 1 <= training_flops(model) / convolutions_and_linear < 1.05


def test_the_log_says_which_share_of_the_peak_is_reached(tmp_path):
    log = TrainingLog(tmp_path, 0, 4, flops=10**9, peak=1e12, active=True)
    log.add({"v": torch.ones(4)}, torch.rand(4), torch.zeros(4))
    log.write(10, 1e-3, 1.0, 40)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["tflops"] == pytest.approx(line["samples_per_s"] * 1e-3)
    assert line["mfu"] == pytest.approx(line["tflops"])
