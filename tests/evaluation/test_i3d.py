import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from biflow.errors import UserError
from biflow.evaluation import weights
from biflow.evaluation.i3d import I3D, fold_batch_norm, load_i3d, max_pool, pad_same, preprocess
from biflow.video import decode

CRICKET = Path(os.environ.get("BIFLOW_I3D_CHECK", "i3d_check"))


def line(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def test_same_padding_puts_the_odd_zero_at_the_end():
    # 4 values, kernel 3, stride 2: 2 windows span 5, so there is one zero, behind.
    assert pad_same(line(1, 2, 3, 4), (1, 1, 3), (1, 1, 2)).flatten().tolist() == [1, 2, 3, 4, 0]
    # Stride 1: one on each side. Kernel 7 and stride 2 on 6: 3 windows span 11, two before and three behind.
    assert pad_same(line(1, 2, 3, 4), (1, 1, 3), (1, 1, 1)).flatten().tolist() == [0, 1, 2, 3, 4, 0]
    assert pad_same(line(1, 2, 3, 4, 5, 6), (1, 1, 7), (1, 1, 2)).flatten().tolist() == [0, 0, *range(1, 7), 0, 0, 0]
    assert pad_same(line(1, 2, 3, 4), (1, 1, 2), (1, 1, 2)).flatten().tolist() == [1, 2, 3, 4]


def test_same_padding_of_each_axis_goes_to_that_axis():
    assert pad_same(torch.zeros(2, 3, 16, 10, 5), (7, 2, 3), (2, 2, 1)).shape == (2, 3, 21, 10, 7)


def test_a_same_max_pool_by_hand():
    # Windows (1, 5, 2), (2, 4, 0 outside).
    assert max_pool(line(1, 5, 2, 4), (1, 1, 3), (1, 1, 2)).flatten().tolist() == [5, 4]


@pytest.mark.parametrize("scale", [None, torch.tensor([0.5, 1, 2, -1])])
def test_a_folded_batch_norm_is_the_batch_norm(scale):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 2, 2, 2, generator=generator)
    mean, shift = torch.randn(2, 4, generator=generator)
    variance = torch.rand(4, generator=generator)
    x = torch.randn(2, 3, 4, 4, 4, generator=generator)
    expected = F.batch_norm(F.conv3d(x, weight), mean, variance, scale, shift, eps=1e-3)
    torch.testing.assert_close(F.conv3d(x, *fold_batch_norm(weight, mean, variance, shift, scale)), expected)


def test_the_network_has_the_published_size_and_400_logits():
    with torch.device("meta"):
        network = I3D()
        # "12M", Table 1 of the paper; 57 units of a convolution and a norm's shift, and the logits.
        assert sum(p.numel() for p in network.parameters()) == 12_689_984
        assert sum(p.dim() == 5 for p in network.parameters()) == 58
        assert network(torch.zeros(2, 3, 10, 224, 224)).shape == (2, 400)


def test_preprocessing_scales_the_shorter_side_and_cuts_the_middle():
    # Columns of one brightness each: twice as large, bilinear, and the middle 224 of 336 remain.
    ramp = torch.arange(168, dtype=torch.uint8).expand(1, 10, 3, 112, 168)
    x = preprocess(ramp)
    assert x.shape == (1, 3, 10, 224, 224)
    # Output column i of the wide frame is at (i + 0.5) / 2 - 0.5 of the small one; the cut begins at i = 56.
    columns = ((torch.arange(56, 280) + 0.5) / 2 - 0.5) / 127.5 - 1
    torch.testing.assert_close(x[0, 0, 0, 7], columns, rtol=0, atol=1e-5)
    torch.testing.assert_close(preprocess(ramp.mT)[0, 0, 0, :, 7], columns, rtol=0, atol=1e-5)


def test_preprocessing_leaves_frames_of_224_as_they_are():
    frames = torch.arange(256, dtype=torch.uint8).repeat(196).expand(1, 2, 3, -1).reshape(1, 2, 3, 224, 224)
    torch.testing.assert_close(preprocess(frames)[0].transpose(0, 1), frames[0] / 127.5 - 1)


@pytest.mark.slow
def test_the_cricket_clip_is_named_rightly():
    try:
        network = load_i3d(weights.find("i3d"))
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch i3d")
    if not CRICKET.is_dir():
        pytest.skip("needs google-deepmind/kinetics-i3d's data/ in $BIFLOW_I3D_CHECK")
    labels = (CRICKET / "kinetics400_labels.txt").read_text().splitlines()
    frames = torch.stack(list(decode(CRICKET / "v_CricketShot_g04_c01_rgb.gif").frames))
    with torch.inference_mode():
        logits = network(preprocess(frames[None]))[0]
    best = logits.topk(3)
    assert [labels[i] for i in best.indices] == ["playing cricket", "robot dancing", "pumping fist"]
    np.testing.assert_allclose(best.values, [17.64, 12.16, 11.78], atol=0.02)
    assert float(logits.softmax(0).max()) == pytest.approx(0.989, abs=1e-3)
