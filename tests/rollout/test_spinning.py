"""Cycle spinning: what it does to a still world, to a grid of patches, and to what the network sees."""

from itertools import islice

import pytest
import torch

from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.rollout import generate, sample_generators, stream
from biflow.solvers import Solver
from biflow.spinning import moved, offsets
from tests.rollout.known import EULER, constant, generators, images, known


def test_pictures_are_moved_and_what_comes_in_is_repeated_or_given():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    down_left = torch.tensor([[1, -1]])
    assert moved(x, down_left)[0, 0].tolist() == [[1, 2, 2], [1, 2, 2], [4, 5, 5]]
    assert moved(x, down_left, border=-torch.ones_like(x))[0, 0].tolist() == [[-1, -1, -1], [1, 2, -1], [4, 5, -1]]
    assert moved(x, torch.tensor([[-9, 0]]))[0, 0].tolist() == [[6, 7, 8]] * 3


def test_each_picture_of_a_batch_is_moved_by_its_own_pixels():
    x, by = torch.rand(3, 4, 3, 5, 6), torch.tensor([[0, 0], [2, 1], [-1, -2]])
    found = moved(x, by)
    assert torch.equal(found[0], x[0])
    assert torch.equal(found[1, ..., 2:, 1:], x[1, ..., :-2, :-1])
    assert torch.equal(found[2, ..., :-1, :-2], x[2, ..., 1:, 2:])


def test_offsets_put_patches_everywhere_equally_often_whatever_the_batch():
    many = offsets(2, sample_generators(0, range(8000)))
    assert many.unique().tolist() == [-2, -1, 0, 1, 2]
    _, counts = many.remainder(4).unique(dim=0, return_counts=True)
    assert len(counts) == 16
    assert counts.sub(500).abs().max() < 100
    assert many.double().mean(0).abs().max() < 0.05
    assert torch.equal(offsets(2, sample_generators(0, [5])), many[5:6])


@pytest.mark.parametrize(("direction", "in_between"), [("forward", 1), ("forward", 2), ("backward", 1)])
def test_a_still_world_stays_as_it_is(direction, in_between):
    model = known(FLOW, constant(0.0), spin=2)
    x = images()
    frames = generate(model, x, frames=8, generators=generators(), direction=direction, in_between=in_between)
    assert torch.equal(frames, x[:, None].expand_as(frames))


def test_a_grid_of_patches_does_not_add_up():
    grid = torch.ones(16, 16)
    grid[::2, ::2] = -3  # its mean is 0, and its period a patch of 2x2 pixels

    def left(spin):
        model = known(FLOW, lambda query: 0.001 * grid.expand_as(query.x), spin=spin, shape=(3, 16, 16))
        x = torch.zeros(8, 3, 16, 16)
        return generate(model, x, frames=64, generators=generators(8), solver=EULER)[:, -1, :, 2:-2, 2:-2].abs().mean()

    assert left(0).item() == pytest.approx(64 * 0.001 * grid.abs().mean().item(), rel=1e-4)
    assert left(1) < left(0) / 5


@pytest.mark.parametrize("method", [BIFLOW, CONDIFF])
def test_the_frame_and_the_past_are_seen_at_the_same_place(method):
    model = known(method, constant(0.0), constant(0.0) if method.heads == 2 else None, spin=1, context=2, eps=0.0)
    x, solver = images(4), Solver("euler", steps=1)
    list(islice(stream(model, x[:, None].repeat(1, 3, 1, 1, 1), solver=solver, generators=generators(4)), 1))
    query = model.network.queries[0]
    here = query.x if method is BIFLOW else query.condition
    assert torch.equal(query.past, here[:, None].expand_as(query.past))
    assert not torch.equal(here, x)


def test_a_spinning_stream_does_not_depend_on_its_batch():
    model = known(BIFLOW, lambda query: 0.1 * query.x.roll(1, -1), constant(0.2), spin=1)
    both = generate(model, images(2), frames=5, generators=generators(2), solver=EULER)
    one = generate(model, images(2)[1:], frames=5, generators=generators(2)[1:], solver=EULER)
    assert torch.equal(both[1:], one)
