"""LPIPS by AlexNet and VGG16, held against numbers that lpips-jax 0.1.0 gave (recorded)."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from biflow.errors import UserError
from biflow.evaluation import weights
from biflow.evaluation.lpips import LPIPS, load_lpips

NETS = ["alex", "vgg16"]


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs of 64x80: a pattern and the same a pixel further, a pattern and another one."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    busy = torch.stack([y * x % 256, (3 * y + x) % 256, (2 * x - y) % 256])
    edges = torch.stack([(y // 16 + x // 16) % 2 * 255, y * 2, 255 - x])
    a, b = torch.stack([edges, busy]), torch.stack([edges.roll(1, -1), edges])
    return a / 127.5 - 1, b / 127.5 - 1


@functools.cache
def made_up(net) -> LPIPS:
    with torch.device("meta"):
        network = LPIPS(net)
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
VGG16 = [(3, 1, 1)] * 2 + ["out", "pool"] + [(3, 1, 1)] * 2 + ["out"] + (["pool"] + [(3, 1, 1)] * 3 + ["out"]) * 3


@pytest.mark.parametrize(("net", "layers", "window"), [("alex", ALEX, 3), ("vgg16", VGG16, 2)])
def test_the_distance_is_the_papers_sum_over_layers(net, layers, window):
    network = made_up(net)
    x, y = noise(2, 3, 32, 48), noise(2, 3, 32, 48, seed=1)
    convolutions = iter([m for m in network.modules() if isinstance(m, torch.nn.Conv2d)])
    heads = iter(network.heads)
    mean, deviation = torch.tensor([[-0.03, -0.088, -0.188], [0.458, 0.448, 0.45]])[..., None, None]
    both = (torch.cat([x, y]) - mean) / deviation
    expected = torch.zeros(2)
    for layer in layers:
        if layer == "pool":
            both = F.max_pool2d(both, window, 2)
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


@pytest.mark.parametrize(("net", "count"), [("alex", 2_469_696 + 1152), ("vgg16", 14_714_688 + 1472)])
def test_the_networks_have_the_published_sizes(net, count):
    # The convolutions of torchvision's networks, and a head of as many weights as channels for each of five layers.
    with torch.device("meta"):
        assert sum(p.numel() for p in LPIPS(net).parameters()) == count


@pytest.mark.parametrize("net", NETS)
def test_an_image_is_at_no_distance_from_itself_and_both_ways_are_equally_long(net):
    network = made_up(net)
    x, y = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    assert network(x, x).tolist() == [0, 0]
    torch.testing.assert_close(network(x, y), network(y, x))
    torch.testing.assert_close(network(x, y)[1:2], network(x[1:2], y[1:2]))


def test_frames_in_a_row_pass_the_network_once():
    network = made_up("alex")
    frames = noise(4, 3, 40, 40)
    seen = network.features(frames)
    steps = network.distance([part[1:] for part in seen], [part[:-1] for part in seen])
    torch.testing.assert_close(steps, network(frames[1:], frames[:-1]))


def test_black_images_give_no_nan():
    network = LPIPS("alex").eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()  # all features are 0, and so is their length
    assert network(noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)).tolist() == [0]


@pytest.mark.parametrize(("net", "least"), [("alex", 31), ("vgg16", 16)])
def test_images_too_small_or_of_two_sizes_are_refused(net, least):
    network = made_up(net)
    assert network(noise(1, 3, least, least), noise(1, 3, least, least)).shape == (1,)
    with pytest.raises(ValueError, match=f"{least}x{least} or more"):
        network(noise(1, 3, least - 1, 64), noise(1, 3, least - 1, 64))
    with pytest.raises(ValueError, match="one size"):
        network.distance(network.features(noise(1, 3, 32, 32)), network.features(noise(1, 3, 32, 64)))


@pytest.fixture(scope="module")
def path():
    try:
        return weights.find("lpips")
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch lpips")


@pytest.mark.slow
@pytest.mark.parametrize(("net", "recorded"), [("alex", [0.0598927, 0.6414779]), ("vgg16", [0.0770952, 0.8491194])])
def test_distances_are_those_recorded_of_the_jax_port(path, net, recorded):
    np.testing.assert_allclose(load_lpips(path, net)(*pairs()), recorded, atol=1e-5)


@pytest.mark.slow
def test_the_distance_of_noise_is_the_one_published_for_the_original(path):
    # The example of torchmetrics 0.x, which runs the authors' own PyTorch code: seed 123, then the network is built,
    # whose first weights (overwritten later) are drawn from the same stream as the images, and so are drawn here too.
    with torch.random.fork_rng():
        torch.manual_seed(123)
        LPIPS("vgg16")  # its convolutions; the heads here draw nothing
        for width, channels in ((4096, 512 * 7 * 7), (4096, 4096), (1000, 4096)):  # VGG16's classifier
            torch.nn.Linear(channels, width)
        for channels in (64, 128, 256, 512, 512):
            torch.nn.Conv2d(channels, 1, 1, bias=False)
        x, y = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
    assert float(load_lpips(path, "vgg16")(x, y).mean()) == pytest.approx(0.3493, abs=5e-5)
