import pytest
import torch

from biflow.evaluation.images import psnr, ssim


def flat(*values):
    return torch.stack([torch.full((3, 16, 20), value, dtype=torch.uint8) for value in values])


def test_psnr_of_known_errors():
    # A difference of 255 is 0 dB, a tenth of it 20 dB; equal images count as those that differ by rounding.
    found = psnr(flat(0, 0, 7), flat(255, 51, 7))
    assert found[0] == pytest.approx(0)
    assert found[1] == pytest.approx(20 * torch.log10(torch.tensor(5.0)).item())
    assert found[2] == pytest.approx(58.92, abs=0.01)


def test_ssim_of_flat_images_is_that_of_their_means():
    c1 = 2.55**2
    expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert ssim(flat(100), flat(50))[0] == pytest.approx(expected)


def test_ssim_is_one_for_equal_images_and_minus_for_opposite_ones():
    noise = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, noise).tolist() == pytest.approx([1, 1])
    assert ssim(noise, 255 - noise).max() < -0.8
    assert ssim(noise[:1], noise[1:])[0].abs() < 0.1


def test_ssim_takes_images_that_are_smaller_than_its_window():
    small = flat(10, 20)[..., :5, :5]
    assert ssim(small, small).tolist() == pytest.approx([1, 1])
