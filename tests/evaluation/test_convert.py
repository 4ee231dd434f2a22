import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from biflow.errors import UserError
from biflow.evaluation.networks import convert
from biflow.evaluation.networks.i3d import I3D
from biflow.evaluation.networks.inception import Inception
from biflow.evaluation.networks.lpips import LPIPS


def unit(shape):
    """All weights are 0 except one that marks its origin."""
    kernel, ones = np.zeros(shape), np.ones(shape[-1])
    kernel[..., 0, 0] = 3
    return kernel, ones, 2 * ones, ones


def _meta() -> I3D:
    with torch.device("meta"):
        return I3D()


class Malice:
    def __reduce__(self):
        return os.mkdir, ("reached",)


@pytest.mark.parametrize("payload", [Malice(), [np.zeros(2), Malice()], np.array([Malice()], dtype=object), print])
def test_a_pickle_that_names_anything_but_arrays_is_refused_and_runs_nothing(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="may run code"):
        convert.read_pickle(pickle.dumps(payload))
    assert not (tmp_path / "reached").exists()


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_arrays_are_read_as_either_numpy_wrote_them(core):
    written = pickle.dumps({"a": np.arange(6.0).reshape(2, 3)}, protocol=3).replace(b"numpy._core", core)
    assert convert.read_pickle(written)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_conversion_fills_the_whole_network_and_turns_the_axes(i3d_variables):
    tree = i3d_variables(unit)
    tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]["bias"] = np.full(400, 7, np.float32)
    state = convert.i3d(pickle.dumps(tree))
    _meta().load_state_dict(state, assign=True)  # all names, all shapes
    tree["params"]["Conv3d_1a_7x7"]["Conv_0"]["kernel"][1, 2, 3, 0, 5] = 4
    weight = convert.i3d(pickle.dumps(tree))["stem.conv.weight"]
    assert float(weight[5, 0, 1, 2, 3]) == pytest.approx(4 / 1.001**0.5)
    # shift - mean / sqrt(variance + eps)
    assert state["mixed.4c.branch_2.1.conv.bias"].tolist() == pytest.approx([1 - 2 / 1.001**0.5] * 64)
    assert state["logits.bias"].tolist() == [7] * 400


def test_fids_inception_is_converted_in_the_order_of_its_branches(monkeypatch):
    """The TorchScript has the published names and shapes, and values that mark their origin."""
    with torch.device("meta"):
        shapes = [tuple(module.weight.shape) for module in Inception().modules() if isinstance(module, nn.Conv2d)]

    class Layer(nn.Module):
        def __init__(self, shape, number):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1,) * len(shape), float(number)).expand(shape))
            for name, value in (("beta", 1.0), ("mean", 2.0), ("var", 3.0)):
                self.register_buffer(name, torch.full(shape[:1], value))

    layers = nn.ModuleList(Layer(shape, number) for number, shape in enumerate(shapes))
    monkeypatch.setattr(torch.jit, "load", lambda content, map_location: layers)
    state = convert.inception(b"")
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(state, assign=True)
    weights = [w for name, w in state.items() if name.endswith(".weight")]
    for number, weight in enumerate(weights):
        assert float(weight.flatten()[0]) == pytest.approx(number / 3.001**0.5)
    assert state["stem.0.bias"].tolist() == pytest.approx([1 - 2 / 3.001**0.5] * 32)


def test_lpips_is_converted_and_keeps_the_prefix_of_its_network():
    with torch.device("meta"):
        network = LPIPS()
    tree = {"AlexNet_0": {}}
    for i, module in enumerate(module for module in network.modules() if isinstance(module, nn.Conv2d)):
        out, *_ = shape = module.weight.shape
        kernel = np.zeros((*shape[2:], shape[1], shape[0]), np.float32)
        kernel[0, 1, 2, out - 1] = i + 1  # row 0, column 1, of channel 2
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": np.full(out, -i, np.float32)}
    for i, width in enumerate((64, 192, 384, 256, 256)):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": np.full((1, 1, width, 1), i, np.float32)}}
    state = convert.lpips(pickle.dumps(tree))
    network.load_state_dict({name.removeprefix("alex."): value for name, value in state.items()}, assign=True)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 5
    for i, module in enumerate(convolutions):
        assert module.weight[-1, 2, 0, 1].item() == i + 1
        assert module.weight.count_nonzero() == 1
        assert module.bias.tolist() == [-i] * len(module.bias)
    assert [head[0].item() for head in network.heads] == [0, 1, 2, 3, 4]
    assert all(name.startswith("alex.") for name in state)
