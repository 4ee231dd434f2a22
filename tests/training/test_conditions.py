"""What a batch is trained under: past frames, some of the model's own, and actions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biflow.actions import Actions
from biflow.config import TrainConfig
from biflow.data.windows import Past
from biflow.methods import FLOW
from biflow.paths import Fields
from biflow.rollout import Model
from biflow.training.conditions import OWN, conditions, frames_before

ACTIONS = Actions(("turn",), ((-2.0, 2.0),))
B = 400


def network(query):
    """A model that makes every frame brighter by 0.1 and by its action."""
    turn = 0 if query.action is None else query.action[:, 1].reshape(-1, 1, 1, 1)
    return Fields(torch.zeros_like(query.x) + 0.1 + turn)


def model(**settings) -> Model:
    return Model(network, FLOW, **{"shape": (3, 4, 4), "context": 3, **settings})


def batch(before: int, known: int | None = None, actions: np.ndarray | None = None) -> Past:
    """Samples whose frame i, counted over all that are read, has the value 10 i."""
    frames = torch.arange(before + 2, dtype=torch.uint8)[None, :, None, None, None].expand(B, -1, 3, 4, 4) * 10
    rows = None if actions is None else torch.from_numpy(actions)
    return Past(frames.clone(), torch.full((B,), before if known is None else known), rows)


def level(value: int) -> float:
    return value / 127.5 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_context_or_actions_nothing_is_drawn():
    source = generator()
    clips, seen = conditions(model(context=0), batch(0), TrainConfig(), source)
    assert torch.allclose(clips[0, :, 0, 0, 0], torch.tensor([level(0), level(10)]))
    assert seen == (None, None, None)
    assert torch.equal(source.get_state(), generator().get_state())


def test_the_past_is_newest_first_and_forgotten_for_a_fifth_of_the_samples():
    config = TrainConfig(context=3, context_noise=0.0)
    clips, (past, noise, action) = conditions(model(), batch(3), config, generator())
    assert torch.allclose(clips[:, 0], torch.full((B, 3, 4, 4), level(30)))
    whole = (noise >= 0).all(1)
    assert 0.75 < whole.float().mean() < 0.85  # 0.8 +- 0.02
    assert torch.allclose(past[whole][0, :, 0, 0, 0], torch.tensor([level(20), level(10), level(0)]))
    counts = (noise[~whole] >= 0).sum(1)
    assert set(counts.tolist()) == {0, 1, 2}
    assert (past[noise < 0] == 0).all()
    assert action is None


def test_frames_before_a_clip_are_no_past():
    config = TrainConfig(context=3, context_noise=0.0)
    _, (_, noise, _) = conditions(model(), batch(3, known=1), config, generator())
    assert (noise[:, 1:] == -1).all()


def test_each_past_frame_has_noise_of_its_own_level():
    config = TrainConfig(context=3, context_noise=0.6)
    _, (past, noise, _) = conditions(model(), batch(3), config, generator())
    known = noise >= 0
    assert 0.28 < noise[known].mean() < 0.32  # of U(0, 0.6)
    assert noise.max() < 0.6
    values = torch.tensor([level(20), level(10), level(0)])
    spread = (past - values[:, None, None, None]).flatten(2).std(2)
    assert torch.corrcoef(torch.stack([spread[known], noise[known]]))[0, 1] > 0.9


def test_actions_are_dropped_for_a_fifth_of_the_samples_and_where_none_is_known():
    rows = np.full((B, 1, 1), 1.0, np.float32)
    rows[:100] = np.nan
    config = TrainConfig(context=0)
    _, (_, _, action) = conditions(model(context=0, actions=ACTIONS), batch(0, actions=rows), config, generator())
    assert (action[:100] == 0).all()
    given = action[100:, 0] == 1
    assert 0.74 < given.float().mean() < 0.86
    assert (action[100:][given] == torch.tensor([1, 0.5])).all()  # in the unit of the network
    assert (action[100:][~given] == 0).all()


def test_own_frames_lead_from_where_the_model_is_to_where_the_clip_is():
    config = TrainConfig(context=1, own_frames=0.5, context_noise=0.0, eps=0.0)
    before = frames_before(config)
    assert before == 1 + OWN
    lengths = set()
    for seed in range(12):
        clips, (past, noise, _) = conditions(model(context=1), batch(before), config, generator(seed))
        real = level(10 * before)
        own = (clips[:, 0, 0, 0, 0] - real).abs() > 1e-4
        assert own.sum() == B // 2
        now = clips[own][0, 0, 0, 0, 0].item()
        (length,) = [n for n in range(1, OWN + 1) if abs(level(10 * (before - n)) + 0.1 * n - now) < 1e-4]
        lengths.add(length)
        assert torch.allclose(clips[own][:, 1], torch.full_like(clips[own][:, 1], level(10 * before + 10)))
        earlier = level(10 * (before - length)) + 0.1 * (length - 1)
        remembered = own & (noise[:, 0] >= 0)
        assert torch.allclose(past[remembered][:, 0], torch.full_like(past[remembered][:, 0], earlier), atol=1e-4)
    assert lengths == {1, 2, 3}


def test_own_frames_are_solved_as_streams_are():
    """By the exact solution, which two Euler steps miss by a third: f^v = -x, so that a frame is the last one / e."""
    config = TrainConfig(context=0, own_frames=1.0, eps=0.0)
    darker = Model(lambda query: Fields(-query.x), FLOW, (3, 4, 4))
    for seed in range(6):
        clips, _ = conditions(darker, batch(OWN), config, generator(seed))
        exact = [level(10 * (OWN - n)) * np.exp(-n) for n in (1, 2, 3)]
        assert min(abs(clips[0, 0, 0, 0, 0].item() / frame - 1) for frame in exact) < 0.06  # 0.018 a frame


def test_own_frames_follow_the_actions_of_the_clip():
    config = TrainConfig(context=0, own_frames=1.0, eps=0.0)
    rows = np.tile(np.array([0.2, 0.4, 0.6, 0.0], np.float32)[:, None], (B, 1, 1))
    seen = model(context=0, actions=ACTIONS)
    for seed in range(6):
        clips, _ = conditions(seen, batch(OWN, actions=rows), config, generator(seed))
        turns = np.array([0.1, 0.2, 0.3])  # scaled
        expected = [level(10 * (OWN - n)) + 0.1 * n + turns[OWN - n :].sum() for n in (1, 2, 3)]
        assert min(abs(clips[0, 0, 0, 0, 0].item() - e) for e in expected) < 1e-4


def test_own_frames_of_a_clip_without_actions_are_made_without_one():
    told = Model(lambda query: Fields(0.1 * query.action[:, :1, None, None].expand_as(query.x)), FLOW, (3, 4, 4))
    told = replace(told, actions=ACTIONS)  # brighter by 0.1 where the network is told an action
    rows = np.zeros((B, OWN + 1, 1), np.float32)
    rows[: B // 2] = np.nan
    config = TrainConfig(context=0, own_frames=1.0, eps=0.0)
    for seed in range(6):
        now = conditions(told, batch(OWN, actions=rows), config, generator(seed))[0][:, 0, 0, 0, 0]
        length = round((now[-1] - now[0]).item() / 0.1)
        assert length in (1, 2, 3)
        assert torch.allclose(now[: B // 2], torch.tensor(level(10 * (OWN - length))), atol=1e-5)


def test_a_clip_too_short_for_a_rollout_keeps_its_own_frames():
    config = TrainConfig(context=1, own_frames=1.0, eps=0.0)
    clips, _ = conditions(model(context=1), batch(frames_before(config), known=1), config, generator())
    assert torch.allclose(clips[:, 0], torch.full((B, 3, 4, 4), level(40)))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_share_of_own_frames_is_kept_on_average_in_small_batches(share):
    config = TrainConfig(context=0, own_frames=share, eps=0.0)
    part = batch(OWN)
    few = Past(part.frames[:2], part.known[:2])
    own = [conditions(model(context=0), few, config, generator(seed))[0][:, 0, 0, 0, 0] for seed in range(100)]
    real = torch.tensor(level(10 * OWN))
    assert abs(((torch.cat(own) - real).abs() > 1e-4).float().mean() - share) < 0.1


def test_samples_of_a_model_that_spins_are_moved_as_a_whole():
    side = torch.arange(6, dtype=torch.uint8)
    picture = (10 * side[:, None] + side).expand(B, 5, 3, 6, 6)
    frames = Past(picture.clone(), torch.full((B,), 3), None)
    config = TrainConfig(context=3, context_noise=0.0, spin=1)
    clips, seen = conditions(model(spin=1, shape=(3, 6, 6)), frames, config, generator())
    assert torch.equal(clips[:, 0], clips[:, 1])
    told = seen.past_noise >= 0
    assert torch.equal(seen.past[told], clips[:, :1].expand_as(seen.past)[told])
    middle = clips[:, 0, 0, 2, 2].add(1).mul(127.5).round().int()  # 22 where it was not moved
    assert middle.unique().tolist() == [11, 12, 13, 21, 22, 23, 31, 32, 33]
