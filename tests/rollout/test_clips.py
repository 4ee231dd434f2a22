"""Whole clips at once, from noise and from frames that are given."""

from itertools import islice

import pytest
import torch

from biflow import rollout
from biflow.config import Solver
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW, SEQUENCE
from biflow.paths import Fields
from biflow.rollout import sample_generators
from biflow.sequences import clips, follow
from tests.rollout.known import SIZE, constant, generators, images, known

SPAN = 8
EULER = Solver("euler", steps=4)


def leads_to(clip):
    """The field of a world with one clip, (span, 3, h, w): what is left of the way from x to it, over the time left."""
    return lambda q: (clip - q.x) / (1 - q.alpha).reshape(-1, 1, 1, 1, 1)


def model_of(v, **settings):
    return known(SEQUENCE, v, span=SPAN, **settings)


def made(model, first, count, **settings):
    return list(islice(clips(model, first, solver=EULER, generators=generators(len(first)), **settings), count))


def test_a_clip_is_solved_from_noise_alone():
    clip = torch.linspace(-0.8, 0.8, SPAN).reshape(SPAN, 1, 1, 1).expand(SPAN, 3, *SIZE)
    model = model_of(leads_to(clip))
    frames = made(model, torch.zeros(2, 0, 3, *SIZE), SPAN)
    assert [frame.time for frame in frames] == list(range(1, SPAN + 1))
    for frame, expected in zip(frames, clip, strict=True):
        torch.testing.assert_close(frame.x, expected.expand(2, 3, *SIZE))
    assert [frame.nfe.tolist() for frame in frames] == [[1, 1]] * 4 + [[0, 0]] * 4  # shared out
    start = torch.stack([torch.randn(SPAN, 3, *SIZE, generator=generator) for generator in generators()])
    assert torch.equal(model.network.queries[0].x, start)
    assert [query.alpha.tolist() for query in model.network.queries] == [[k, k] for k in (0, 0.25, 0.5, 0.75)]


def test_given_frames_keep_to_their_straight_way_from_noise():
    model, first = model_of(constant(1.0)), torch.stack([images(seed=i) for i in range(3)], dim=1)
    frames = made(model, first, SPAN - 3)
    n = model.network.queries[0].x[:, :3]
    for query in model.network.queries:
        torch.testing.assert_close(query.x[:, :3], n + query.alpha[0] * (first - n))
    assert len(model.network.queries) == 4  # all of one clip
    assert [frame.time for frame in frames] == [1, 2, 3, 4, 5]


def test_a_clip_begins_with_the_end_of_the_one_before_it():
    model = model_of(lambda q: torch.sin(3 * q.x))
    frames = made(model, images(), 2 * SPAN)
    first, second, third = (model.network.queries[4 * i : 4 * i + 4] for i in range(3))
    assert len({query.x.data_ptr() for query in first + second + third}) == 12
    last = torch.stack([frame.x for frame in frames[SPAN - 3 : SPAN - 1]], dim=1)  # 7 new frames, then 6 and 6
    n = second[0].x[:, :2]
    torch.testing.assert_close(second[-1].x[:, :2], n + 0.75 * (last - n))
    assert [frame.nfe[0].item() for frame in frames[:13]] == [1] * 4 + [0] * 3 + [1] * 4 + [0] * 2


def test_of_too_many_given_frames_the_last_ones_are_taken():
    model, first = model_of(constant(0.5)), torch.stack([images(seed=i) for i in range(SPAN + 3)], dim=1)
    frame = made(model, first, 1)[0]
    torch.testing.assert_close(frame.x, (model.network.queries[0].x[:, -1] + 0.5).clamp(-1, 1))
    n = model.network.queries[0].x[:, :-1]
    torch.testing.assert_close(model.network.queries[-1].x[:, :-1], n + 0.75 * (first[:, -SPAN + 1 :] - n))


def test_a_samples_clip_does_not_depend_on_its_batch():
    model = model_of(lambda q: torch.sin(5 * q.x))
    together = next(clips(model, images(3), generators=sample_generators(1, range(3))))
    for i in range(3):
        alone = next(clips(model, images(3)[i : i + 1], generators=sample_generators(1, [i])))
        torch.testing.assert_close(together.x[i], alone.x[0])
        assert together.nfe[i] == alone.nfe[0]


def test_clips_of_a_single_frame_are_images():
    frames = islice(clips(known(SEQUENCE, constant(0.1)), images(), solver=EULER), 3)
    assert [frame.nfe.tolist() for frame in frames] == [[4, 4]] * 3


def test_frames_stay_within_the_limits():
    assert made(model_of(constant(9.0)), images(), 1)[0].x.max() == 1


def test_what_makes_clips_does_not_stream():
    sentence = r"SEQUENCE makes clips of 8 frames at once, and cannot stream\. `biflow sample` makes such clips"
    with pytest.raises(UserError, match=sentence):
        rollout.stream(model_of(constant(0.0)), images())


def test_what_streams_makes_no_clips():
    with pytest.raises(UserError, match=r"BI-FLOW makes frame after frame: use biflow\.stream"):
        clips(known(BIFLOW, constant(0.0), constant(0.0)), images())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"eps": 0.1}, "SEQUENCE takes no noise, use eps 0"),
        ({"direction": "backward"}, "SEQUENCE has no backward direction"),
        ({"in_between": 2}, "it has nothing in between"),
        ({"actions": [[1.0]]}, "This model takes no actions"),
        ({"context_eps": 0.4}, "context_eps is the noise on past frames, and this model sees none"),
    ],
)
def test_what_its_method_cannot_do_is_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        clips(model_of(constant(0.0)), images(), **settings)


def test_a_given_frame_with_pixels_that_are_no_numbers_is_refused():
    """NaN stands for what is not known yet; of a given frame it would be made up."""
    frame = images()
    frame[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite numbers"):
        clips(model_of(constant(0.0)), frame)


def test_frames_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"but the model starts from \(b, 3, 4, 4\)"):
        clips(model_of(constant(0.0)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match=r"but the model starts from \(b, 3, 4, 4\)"):
        clips(model_of(constant(0.0)), torch.zeros(1, 0, 3, 8, 8))


def test_the_frames_of_any_model_follow_the_first():
    streamed = next(follow(known(FLOW, lambda q: torch.ones_like(q.x)), images()))
    torch.testing.assert_close(streamed.x, (images() + 1).clamp(-1, 1))
    assert next(follow(model_of(lambda q: Fields(q.x).v * 0), images(), eps=0.0)).x.shape == (2, 3, *SIZE)
