import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn

from biflow.training import muon
from biflow.training.muon import Muon, _orthogonal, is_matrix, orthogonalise


@pytest.mark.parametrize("shape", [(64, 576), (3, 32, 96), (96, 32)])
def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    update = orthogonalise(g)
    assert update.shape == g.shape
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    in_its_own_frame = u.mT @ update @ v.mT
    levelled = in_its_own_frame.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < levelled.min() <= levelled.max() < 1.3
    torch.testing.assert_close(in_its_own_frame, torch.diag_embed(levelled), atol=1e-4, rtol=0)


def test_orthogonalise_of_no_gradient_is_no_update():
    assert orthogonalise(torch.zeros(32, 64)).eq(0).all()


def test_vectors_move_as_adamw_moves_them():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    muon, adamw = Muon([ours], lr=0.1, weight_decay=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1)
    for _ in range(20):
        for p, optimizer in ((ours, muon), (theirs, adamw)):
            optimizer.zero_grad()
            (p - 0.3).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_the_first_step_on_a_matrix_has_the_size_that_its_formula_says():
    # Nesterov of the first gradient points along it, and an orthogonal (o, i) matrix has rms 1 / sqrt(max(o, i)).
    p = nn.Parameter(torch.zeros(32, 288))
    p.grad = torch.randn(32, 288, generator=torch.Generator().manual_seed(0))
    Muon([p], lr=0.01).step()
    torch.testing.assert_close(p.detach(), -0.01 * 0.2 * 288**0.5 * orthogonalise(p.grad), atol=1e-6, rtol=1e-4)
    assert 0.6 < p.detach().square().mean().sqrt() / (0.01 * 0.2) < 1.3


def test_what_counts_as_a_matrix():
    assert is_matrix(torch.empty(64, 8, 3, 3))  # 64 x 72
    assert not is_matrix(torch.empty(64))
    assert not is_matrix(torch.empty(24, 64, 3, 3))  # a head: too few rows
    assert not is_matrix(torch.empty(64, 12, 1, 1))


def _share(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(shape, generator=generator) for shape in ((32, 64), (48, 32), (32, 32, 3, 3), (48, 32))]
    made: list[int] = []

    def counting(matrices):
        made.append(len(matrices))
        return orthogonalise(matrices)

    muon.orthogonalise = counting
    for got, update in zip(_orthogonal(updates), updates, strict=True):
        torch.testing.assert_close(got, orthogonalise(update.flatten(1)).view_as(update))
    assert sum(made) == 2  # of the four
    dist.destroy_process_group()


def test_two_processes_share_the_work_and_get_the_same_updates():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_share, (port,), nprocs=2)
