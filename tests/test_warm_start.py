"""First weights from another model: the same fields, whatever the network sees beside or however wide its patches."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from biflow.actions import Actions
from biflow.config import TrainConfig
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP
from biflow.methods.flowmap import jumping
from biflow.model import Model, empty_conditions, load_model
from biflow.networks import VideoUNet
from biflow.training.loop import train
from biflow.warm_start import field_of, start_from
from tests.test_networks import RAW_TINY, TINY, query_of

ACTIONS = Actions(("turn",), ((-1.0, 1.0),))
CONFIG = TrainConfig(steps=1, batch=4, save_every=1, log_every=1, preview_every=0, network=TINY)


def model(method, network=TINY, context=0, actions=None, seed=0) -> Model:
    """A model with random weights, of which none is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = VideoUNet(method, network, v_scale=0.5, conditions=empty_conditions(1, (3, 1, 1), context, actions))
        for value in unet.parameters():
            value.data += 0.02 * torch.randn_like(value)
    return Model(unet.eval(), method, (3, 8, 8), context=context, actions=actions)


def conditions(context, actions):
    known = empty_conditions(2, (3, 8, 8), context, actions)
    g = torch.Generator().manual_seed(2)
    past = torch.randn(known.past.shape, generator=g) if context else None
    action = torch.tensor([[1.0, -0.5], [1.0, 0.8]]) if actions else None
    return {"past": past, "past_noise": known.past_noise + 1.2 if context else None, "action": action}


@pytest.mark.parametrize("network", [TINY, RAW_TINY], ids=["one network", "a pair"])
@pytest.mark.parametrize(("context", "actions"), [(0, None), (2, None), (0, ACTIONS), (2, ACTIONS)])
def test_biflow_begins_with_the_field_of_a_flow_map(network, context, actions):
    first = model(FLOWMAP, network, context, actions)
    second = field_of(first)
    query = query_of(BIFLOW)._replace(**conditions(context, actions))
    with torch.no_grad():
        expected, found = jumping(first.network, 0.0)(query), second.network(query)
    assert (second.method, second.network.v_scale) == (BIFLOW, 0.5)
    assert torch.allclose(found.v, expected.v, atol=1e-5)
    assert torch.allclose(found.n, expected.n, atol=1e-5)


@pytest.mark.parametrize(("other", "words"), [(ACTIONS, ""), (Actions(("turn",), ((-2.0, 1.0),)), "from -2 to 1, so")])
def test_other_ranges_of_the_same_actions_are_told(other, words, caplog):
    first, second = model(BIFLOW, actions=ACTIONS), model(BIFLOW, actions=other)
    start_from(second.network, BIFLOW, other, 0, first)
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


@pytest.mark.parametrize("method", [FLOW, BIFLOW, CONDIFF])
@pytest.mark.parametrize("context", [0, 1, 6])
@pytest.mark.parametrize("actions", [None, ACTIONS])
def test_what_only_one_of_the_two_knows_counts_as_unknown(method, context, actions):
    first, second = model(method, TINY, 2, ACTIONS), model(method, TINY, context, actions, seed=1)
    start_from(second.network, method, actions, context, first)
    known, query = conditions(context, actions), query_of(method)
    blank = first.conditions(2)
    both = min(context, 2)
    if both:
        blank.past[:, :both] = known["past"][:, :both]
        blank.past_noise[:, :both] = known["past_noise"][:, :both]
    if actions:
        blank = blank._replace(action=known["action"])
    if context > 2:
        known["past_noise"][:, 2:], known["past"][:, 2:] = -1, 0
    with torch.no_grad():
        expected, found = first.network(query._replace(**blank._asdict())), second.network(query._replace(**known))
    assert torch.allclose(found.v, expected.v, atol=1e-5)
    assert expected.n is None or torch.allclose(found.n, expected.n, atol=1e-5)


def test_a_map_that_knows_more_gives_its_field_to_a_network_with_wider_patches():
    first = model(FLOWMAP, TINY, 3, ACTIONS)
    second, small = model(BIFLOW, replace(TINY, patch=4), 1), model(BIFLOW, TINY, 1)
    start_from(second.network, BIFLOW, None, 1, first)
    start_from(small.network, BIFLOW, None, 1, first)
    query, known = query_of(BIFLOW), conditions(1, None)
    with torch.no_grad():
        expected = small.network(query._replace(**known))
        found = second.network(query._replace(**{**known, "past": twice(known["past"])}, x=twice(query.x)))
    assert torch.allclose(found.v, twice(expected.v), atol=1e-5)


@pytest.mark.parametrize("method", [FLOW, BIFLOW, CONDIFF])
@pytest.mark.parametrize("patch", [1, 2])
def test_wider_patches_do_with_larger_frames_what_the_others_do_with_their_means(method, patch):
    small = model(method, replace(TINY, patch=patch), seed=3)
    large = model(method, replace(TINY, patch=2 * patch), seed=4)
    start_from(large.network, method, None, 0, small)
    query = query_of(method)
    means = {name: getattr(query, name) for name in ("x", "condition") if getattr(query, name) is not None}
    detail = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    detail = detail - twice(torch.nn.functional.avg_pool2d(detail, 2))  # which the means do not show
    with torch.no_grad():
        expected = small.network(query)
        found = large.network(query._replace(**{name: twice(value) + detail for name, value in means.items()}))
    assert torch.allclose(found.v, twice(expected.v), atol=1e-5)
    assert expected.n is None or torch.allclose(found.n, twice(expected.n), atol=1e-5)


def twice(frames):
    return frames.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(("name", "value"), [("head_dim", 32), ("time_scale", 1.0), ("channels", (64, 32))])
def test_a_network_that_would_compute_something_else_is_refused(name, value):
    network = model(BIFLOW, replace(TINY, **{name: value}, patch=4)).network
    advice = f"give network.{name} {list(TINY.channels) if name == 'channels' else getattr(TINY, name)}, as it has."
    with pytest.raises(UserError, match=re.escape(advice)):
        start_from(network, BIFLOW, None, 0, model(BIFLOW))


def test_narrower_patches_and_a_teacher_of_other_patches_are_refused():
    four = model(BIFLOW, replace(TINY, patch=4))
    with pytest.raises(UserError, match=r"network\.patch 4, as it has, or a multiple of that patch"):
        start_from(model(BIFLOW).network, BIFLOW, None, 0, four)
    with pytest.raises(UserError, match=r"another shape: give network\.patch 2, as it has"):
        start_from(model(FLOWMAP, four.network.network).network, FLOWMAP, None, 0, model(BIFLOW))


def test_frames_that_do_not_fit_wider_patches_are_named(prepared, tmp_path, caplog):
    train(CONFIG, prepared, tmp_path / "first")
    config = replace(CONFIG, init=str(tmp_path / "first"), network=replace(TINY, patch=4))
    train(config, prepared, tmp_path / "second")
    assert "With patches 2 times as wide, " in caplog.text
    assert "first fits frames of 32x32, not 16x16" in caplog.text


def test_a_run_keeps_the_teacher_that_it_began_with(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "teacher")
    train(replace(CONFIG, seed=1), prepared, tmp_path / "other")
    config = replace(CONFIG, method="flowmap", init=str(tmp_path / "teacher"))
    shutil.copytree(tmp_path / "other", tmp_path / "map" / "teacher")  # as of a run that ended before its first step
    train(config, prepared, tmp_path / "map")
    query = query_of(BIFLOW)
    with torch.no_grad():
        kept, first = [load_model(tmp_path / name).network(query).v for name in ("map/teacher", "teacher")]
    assert torch.allclose(kept, first)
    shutil.rmtree(tmp_path / "map" / "teacher")
    train(replace(config, steps=2), prepared, tmp_path / "map")  # from the model that it began with
    again = replace(config, init=str(tmp_path / "map"))
    train(again, prepared, tmp_path / "more")
    for run in ("map", "more"):
        shutil.rmtree(tmp_path / run / "teacher")
    with pytest.raises(UserError, match="The teacher of this run is gone, and"):
        train(replace(again, steps=2), prepared, tmp_path / "more")


def test_a_flow_map_that_has_lost_its_teacher_learns_from_its_own_field(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path / "teacher")
    config = replace(CONFIG, method="flowmap", init=str(tmp_path / "teacher"))
    train(config, prepared, tmp_path / "map")
    shutil.rmtree(tmp_path / "map" / "teacher")
    train(replace(config, init=str(tmp_path / "map")), prepared, tmp_path / "more")
    first, teacher = load_model(tmp_path / "map"), load_model(tmp_path / "more" / "teacher")
    query = query_of(BIFLOW)
    with torch.no_grad():
        assert torch.allclose(teacher.network(query).n, jumping(first.network, 0.0)(query).n, atol=1e-5)
