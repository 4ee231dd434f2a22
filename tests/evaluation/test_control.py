import numpy as np
import pytest
import torch

from biflow.data.windows import Windows
from biflow.evaluation import control
from biflow.evaluation.control import find_classes

from . import ring


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(control.SETTINGS, "steps", 30)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return Windows(ring.make_set(tmp_path_factory.mktemp("ring")))


def load(training, sha="sha"):
    return control.load_reader(training, sha, torch.device("cpu"), progress=False)


def test_few_values_are_classes_and_many_are_read_in_thirds():
    random = np.random.default_rng(0)
    few, many = random.integers(-1, 2, 5000) * 0.5, random.uniform(-1, 1, 5000)
    constant, outlier = np.full(5000, 0.3), random.uniform(0, 1, 5000)
    outlier[:3] = 1000
    classes = find_classes(np.stack([few, many, constant, outlier], 1))
    assert classes.columns == [0, 1, 3]
    assert classes.counts == [3, 3, 3]
    assert classes.values == [True, False, False]
    assert classes.edges[0].tolist() == [-0.25, 0.25]
    assert classes.edges[1] == pytest.approx([-0.95 / 3, 0.95 / 3], abs=0.02)
    assert classes.edges[2][1] < 1
    assert find_classes(np.empty((0, 2))).columns == []
    rows = np.array([[-0.5, -1, 0, 0], [0.1, 0, 0, 0.5], [0.6, 1, 0, 2]])
    assert classes.of(rows).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_actions_are_read_from_real_pairs_and_not_from_others(training, monkeypatch):
    monkeypatch.setitem(control.SETTINGS, "steps", 120)
    reader = load(training)
    video, rows = (torch.from_numpy(part) for part in ring.clip(50, 60))
    right, classes = reader.correct(video, rows.numpy())
    assert classes.tolist() == [[int(move), int(turn) + 1] for move, turn in rows.tolist()]
    assert right.mean(0).min() > 0.9
    still = video[:1].expand(60, -1, -1, -1)
    assert reader.correct(still, rows.numpy())[0].mean(0).max() < 0.8  # what is read is that nothing was done
    assert torch.equal(reader.correct(video, rows.numpy(), every=4)[0], right[::4])


def test_pairs_without_a_known_action_are_left_out(training):
    video, rows = ring.clip(50)
    rows[3] = np.nan
    right, _ = load(training).correct(torch.from_numpy(video), rows)
    assert len(right) == len(rows) - 1


def test_the_inverse_model_is_trained_once_for_a_set_and_always_alike(training, monkeypatch):
    before = torch.random.get_rng_state()
    first = load(training)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert load(training, "other").sha256 == first.sha256
    monkeypatch.setattr(control, "train", None)
    assert load(training).sha256 == first.sha256
    with pytest.raises(TypeError):
        load(training, "a third")


def test_actions_that_never_vary_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ring, "clip", lambda number, frames: (np.zeros((4, 3, 32, 32), np.uint8), np.zeros((3, 2))))
    assert load(Windows(ring.make_set(tmp_path))) is None


def test_large_frames_are_averaged_down():
    network = control.InverseModel(4)
    small = torch.randint(256, (2, 2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    with torch.inference_mode():
        assert network(large).shape == (2, 4)
        large = small.repeat_interleave(2, -2)
        torch.testing.assert_close(network(large), network(small))
