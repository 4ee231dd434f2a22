import pytest
import torch

from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.methods.noise import CELLS, draw_noise, noise_like


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_coarse_parts_the_noise_is_that_of_torch():
    assert torch.equal(draw_noise((2, 3, 16, 16), generator()), torch.randn(2, 3, 16, 16, generator=generator()))


def test_coarse_parts_shift_whole_frames():
    white = draw_noise((2000, 1, 32, 32), generator()).mean(dim=(1, 2, 3))
    coarse = draw_noise((2000, 1, 32, 32), generator(), coarse=0.5).mean(dim=(1, 2, 3))
    assert white.std() == pytest.approx(1 / 32, rel=0.1)
    # The mean of c enlarged cells has a variance near 1 / c², each part half as strong.
    assert coarse.var() == pytest.approx(0.25 * sum(1 / c**2 for c in CELLS) + white.var().item(), rel=0.15)


def test_noise_follows_from_its_generator_alone():
    alone = draw_noise((1, 3, 16, 16), generator(5), coarse=0.5)
    assert torch.equal(alone, draw_noise((1, 3, 16, 16), generator(5), coarse=0.5))
    assert not torch.equal(alone, draw_noise((1, 3, 16, 16), generator(6), coarse=0.5))


def test_each_samples_noise_is_from_its_own_generator():
    x = torch.zeros(3, 2, 4, dtype=torch.float64)
    noise = noise_like(x, [generator(1), generator(2), generator(1)])
    assert (noise.shape, noise.dtype) == (x.shape, x.dtype)
    assert torch.equal(noise[0], torch.randn(2, 4, generator=generator(1)).double())
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


def test_a_negative_share_is_refused():
    with pytest.raises(UserError, match="coarse_noise is -1"):
        TrainConfig(coarse_noise=-1.0)
