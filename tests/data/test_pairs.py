import json
import pickle

import numpy as np
import pytest
import torch

from biflow.data.pairs import FramePairs, is_prepared, pair_order
from biflow.errors import UserError


def write_prepared(root, lengths, splits, fps=None):
    """A prepared folder whose pixels are 20 x clip + frame."""
    values = np.concatenate([20 * clip + np.arange(n) for clip, n in enumerate(lengths)]).astype(np.uint8)
    root.mkdir(exist_ok=True)
    np.save(root / "frames.npy", np.broadcast_to(values[:, None, None, None], (len(values), 3, 4, 6)))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    clips = [
        {"name": f"c{i}", "source": f"c{i}", "start": start, "frames": n, "fps": fps, "split": split}
        for i, (start, n, split) in enumerate(zip(starts, lengths, splits, strict=True))
    ]
    (root / "index.json").write_text(json.dumps({"format": 1, "size": [4, 6], "channels": 3, "clips": clips}))
    return root


@pytest.fixture
def root(tmp_path):
    return write_prepared(tmp_path / "set", [5, 2, 7], ["train", "test", "train"], fps=30.0)


def test_pairs_are_neighbours_and_never_cross_a_clip(root):
    pairs = FramePairs(root, "all")
    assert len(pairs) == 4 + 1 + 6
    values = torch.stack([pairs[i] for i in range(len(pairs))])[:, :, 0, 0, 0].int()
    assert ((values[:, 1] - values[:, 0]) == 1).all()
    assert values[:, 0].tolist() == [0, 1, 2, 3, 20, 40, 41, 42, 43, 44, 45]


def test_splits(root):
    assert [clip["name"] for clip in FramePairs(root).clips] == ["c0", "c2"]
    assert len(FramePairs(root, "train")) == 10
    assert FramePairs(root, "test")[0][:, 0, 0, 0].tolist() == [20, 21]
    with pytest.raises(UserError, match="no split"):
        FramePairs(root, "valid")


def test_batch_keeps_the_order_asked_for(root):
    pairs = FramePairs(root, "all")
    order = np.array([10, 0, 4, 4, 7])
    batch = pairs.batch(order)
    assert batch.shape == (5, 2, 3, 4, 6)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, torch.stack([pairs[int(i)] for i in order]))
    assert torch.equal(pairs.batch(torch.tensor(order)), batch)
    assert torch.equal(pairs.batch(order.tolist()), batch)


def test_clips_and_frames(root):
    pairs = FramePairs(root)
    assert pairs.size == (4, 6)
    assert pairs.fps == 30.0
    assert pairs.clip(1)[:, 0, 0, 0].tolist() == list(range(40, 47))
    assert pairs.frame(1, 2)[0, 0, 0] == 42
    assert pairs.frame(1, -1)[0, 0, 0] == 46
    with pytest.raises(UserError, match="no frame 7"):
        pairs.frame(1, 7)


def test_a_worker_gets_the_path_and_not_the_frames(root):
    data = pickle.dumps(FramePairs(root))
    assert torch.equal(pickle.loads(data)[3], FramePairs(root)[3])
    loader = torch.utils.data.DataLoader(FramePairs(root), batch_size=10, num_workers=0)
    assert next(iter(loader)).shape == (10, 2, 3, 4, 6)


def test_what_is_no_prepared_folder_is_refused(tmp_path, root):
    assert is_prepared(root)
    assert not is_prepared(tmp_path)
    with pytest.raises(UserError, match="biflow prepare"):
        FramePairs(tmp_path)
    with pytest.raises(UserError, match="train split"):
        FramePairs(write_prepared(tmp_path / "only_test", [4], ["test"]))
    np.save(root / "frames.npy", np.zeros((3, 3, 4, 6), np.uint8))
    with pytest.raises(UserError, match="does not fit"):
        FramePairs(root)
    (root / "frames.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="cannot be read"):
        FramePairs(root)
    (root / "index.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        FramePairs(root)


@pytest.mark.parametrize(("n", "batch", "world"), [(23, 4, 1), (24, 4, 3), (5, 8, 2), (1, 3, 1)])
def test_order_goes_through_every_pair_once_a_pass(n, batch, world):
    steps = 4 * n
    drawn = [
        pair_order(n, seed=3, step=step, batch=batch, rank=rank, world=world)
        for step in range(steps)
        for rank in range(world)
    ]
    assert all(len(part) == batch for part in drawn)
    stream = np.concatenate(drawn)
    passes = stream[: len(stream) // n * n].reshape(-1, n)
    assert (np.sort(passes, axis=1) == np.arange(n)).all()
    if n > 5:
        assert (passes[0] != passes[1]).any()


def test_order_is_a_function_of_its_arguments():
    ahead = pair_order(100, seed=1, step=7, batch=16, rank=1, world=2)
    for step in range(8):
        pair_order(100, seed=2, step=step, batch=16)
    assert (pair_order(100, seed=1, step=7, batch=16, rank=1, world=2) == ahead).all()
    assert (pair_order(100, seed=2, step=7, batch=16, rank=1, world=2) != ahead).any()
    ahead[:] = 0  # a caller may write into what it gets
    assert (pair_order(100, seed=1, step=7, batch=16, rank=1, world=2) != 0).any()


def test_order_never_changes():
    # Held fast: a run begun with an older version of this project or of NumPy resumes with the same pairs.
    assert pair_order(1000, seed=0, step=0, batch=6).tolist() == [652, 293, 617, 707, 693, 382]
    assert pair_order(1000, seed=0, step=500, batch=6).tolist() == [68, 92, 789, 776, 179, 373]
