"""EfficientNet-lite0, compared with recorded features of efficientnet-lite-pytorch 0.1.0."""

import numpy as np
import pytest
import torch

from biflow.errors import UserError
from biflow.evaluation.networks import weights
from biflow.evaluation.networks.efficientnet import EfficientNet, preprocess


def test_the_structure_is_the_published_one(images, made_up):
    # Features of the package for the busy image, with the same random weights and with norms that do nothing.
    features = made_up(EfficientNet)(preprocess(images[:1]))[0]
    recorded = [1.48952, 5.40342, 0.16137, 0.0, 0.26131, 2.2527, 2.06089, 1.14826]
    recorded += [1.2064, 0.19228, 2.25968, 5.42294, 0.01789, 0.38637, 1.16403, 2.60045]
    np.testing.assert_allclose(features[::80], recorded, atol=2e-4)
    assert float(features.norm()) == pytest.approx(77.7567, abs=1e-3)


def test_preprocessing_squeezes_and_scales():
    x = preprocess(torch.full((2, 3, 30, 70), 255, dtype=torch.uint8))
    assert x.shape == (2, 3, 224, 224)
    assert x.unique().tolist() == [1]
    assert preprocess(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).unique().tolist() == [-127 / 128]


@pytest.mark.slow
def test_features_are_those_recorded_of_the_package(images):
    try:
        network = weights.load("efficientnet", EfficientNet)
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch efficientnet")
    features = network(preprocess(images))
    np.testing.assert_allclose(features[0, ::160], [0.70994, 0.0039, 0, 0.82057, 0, 0.0125, 0, 0], atol=1e-4)
    np.testing.assert_allclose(features.norm(dim=1), [18.0092, 14.5496], atol=1e-3)
