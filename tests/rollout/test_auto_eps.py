"""The noise level that is chosen from frame to frame, in a world of one picture, grey."""

from itertools import islice

import pytest
import torch

from biflow.drift import ALLOWED, EVERY, LEVELS, AutoEps, real_drift
from biflow.errors import UserError
from biflow.evaluation.protocol import Protocol
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.solvers import Solver
from biflow.video import to_float
from tests.rollout import known
from tests.rollout.known import grey_world

GREY = to_float(known.GREY).expand(2, -1, -1, -1)
SOLVER = Solver("euler", steps=1)


def levels(model, frames, **settings):
    found = list(islice(stream(model, GREY + 0.02, eps="auto", solver=SOLVER, **settings), frames))
    return torch.stack([frame.eps for frame in found]), torch.stack([frame.nfe for frame in found])


def test_a_level_that_is_more_than_enough_falls_slowly_to_the_lowest():
    chosen, nfe = levels(Model(grey_world(), BIFLOW, (3, 8, 8), eps=0.1), 9 * EVERY)
    assert (chosen[:EVERY] == 0.1).all()
    assert chosen[EVERY].tolist() == pytest.approx([0.09, 0.09])
    assert chosen[2 * EVERY].tolist() == pytest.approx([0.081, 0.081])
    assert chosen[-1].tolist() == pytest.approx([LEVELS[0]] * 2)
    looks = torch.arange(9 * EVERY) % EVERY == 0
    looks[0] = False  # the first frame is real
    assert (nfe == 1 + looks.long()[:, None]).all()


def test_the_level_of_a_sample_with_errors_rises_at_once_and_of_another_does_not():
    push = torch.tensor([0.1, 0.0])[:, None, None, None]

    def network(query):
        return grey_world(push if len(query.x) == 2 else 0.0)(query)

    chosen, _ = levels(Model(network, BIFLOW, (3, 8, 8), eps=0.06), EVERY + 1)
    assert chosen[EVERY].tolist() == pytest.approx([0.12, 0.054])


def test_a_level_that_begins_at_the_highest_first_goes_down():
    chosen, _ = levels(Model(grey_world(0.1), BIFLOW, (3, 8, 8), eps=0.25), 2 * EVERY + 1)
    assert chosen[::EVERY, 0].tolist() == pytest.approx([LEVELS[1], 0.1, LEVELS[1]])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda eps: 0.018 / eps, [0.06, 0.12, LEVELS[1], LEVELS[1]]),  # the more noise, the less is left
        (lambda eps: 2 * eps, [0.06, 0.12, 0.06, LEVELS[0]]),  # noise does harm
        (lambda eps: 0 * eps + 0.1, [0.06, 0.12, 0.06, 0.12]),  # noise makes no difference
    ],
)
def test_a_level_goes_on_while_errors_fall_and_else_the_other_way(error, expected):
    def network(query):  # in the one Euler step of a frame, alpha is the level
        return grey_world(error(query.alpha)[:, None, None, None])(query)

    chosen, _ = levels(Model(network, BIFLOW, (3, 8, 8), eps=0.06), 3 * EVERY + 1)
    assert chosen[::EVERY, 0].tolist() == pytest.approx(expected)


def looked_at(frame, real, eps=0.1):
    """The evaluations of 17 looks at a frame, after each of which a frame is solved, and the level then."""
    auto = AutoEps(Model(grey_world(), BIFLOW, (3, 8, 8), eps=eps), len(frame), torch.tensor([real]))
    found = []
    for _ in range(EVERY + 1):
        found.append(auto.look(frame))
        assert auto.look(frame) == 0  # the frame after it was given up, and is solved anew
        auto.passed()
    return found, auto.level


def test_a_frame_with_as_much_drift_as_allowed_keeps_its_level():
    found, level = looked_at(GREY + ALLOWED * 0.5, 0.5)
    assert found == [0] * EVERY + [1]
    assert level.tolist() == pytest.approx([0.1] * 2, rel=0.07)


def test_the_level_does_not_depend_on_the_other_samples():
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    frames = GREY[:1] + 0.05 * noise + torch.tensor([0.51, 0.5, 0.53])[:, None, None, None]
    _, together = looked_at(frames, 0.45, eps=0.08)
    alone = torch.cat([looked_at(frame[None], 0.45, eps=0.08)[1] for frame in frames])
    assert len(set(together.tolist())) == 3
    assert 0.073 < together.min() <= together.max() < 0.16  # neither as low nor as high as one step goes
    torch.testing.assert_close(together, alone)


def test_models_without_first_frames_compare_each_sample_with_its_own_first_frame():
    model = Model(grey_world(), BIFLOW, (3, 8, 8), eps=0.1)
    first = GREY + torch.tensor([0.2, 0.4])[:, None, None, None]
    assert real_drift(model, first).tolist() == pytest.approx([0.2, 0.4], rel=0.02)


@pytest.mark.parametrize("solver", [Solver(), Solver("heun", steps=2), Solver("adams", steps=3)])
@pytest.mark.parametrize("settings", [{}, {"direction": "backward"}, {"in_between": 2}])
def test_levels_of_the_samples_own_give_the_frames_of_each_alone(solver, settings):
    model = Model(grey_world(torch.tensor(0.05)), BIFLOW, (3, 8, 8), eps=0.1)
    first = GREY + torch.tensor([0.3, -0.2])[:, None, None, None]
    auto = AutoEps(model, 2, torch.ones(1))
    auto.level = torch.tensor([0.05, 0.2])
    together = list(islice(stream(model, first, eps=auto, solver=solver, **settings), 3))
    for sample, eps in enumerate((0.05, 0.2)):
        how = {"eps": eps, "generators": sample_generators(0, [sample]), "solver": solver, **settings}
        for both, alone in zip(together, islice(stream(model, first[sample, None], **how), 3), strict=True):
            torch.testing.assert_close(both.x[sample], alone.x[0], rtol=0, atol=1e-6)
            assert both.nfe[sample] == alone.nfe[0]
            assert both.eps[sample] == pytest.approx(eps)


def test_a_method_without_noise_chooses_no_level():
    flow = Model(lambda query: Fields(torch.zeros_like(query.x)), FLOW, (3, 8, 8))
    with pytest.raises(UserError, match="eps auto needs a BI-FLOW model; FLOW takes no noise"):
        next(stream(flow, GREY, eps="auto"))
    points = Model(grey_world(), BIFLOW, eps=0.1)
    with pytest.raises(UserError, match="eps auto needs a model of frames"):
        next(stream(points, torch.zeros(2, 2), eps="auto"))


def test_a_level_that_is_no_number_is_refused(unchecked):
    with pytest.raises(UserError, match="eps is 'Auto', but must be a number or 'auto'"):
        stream(Model(grey_world(), BIFLOW, (3, 8, 8)), GREY, eps="Auto")
    with pytest.raises(UserError, match="eps is Auto, but must be a number or auto"):
        Protocol(eps="Auto")
