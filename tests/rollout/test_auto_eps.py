"""The noise level that is chosen from frame to frame, in a world of one picture, grey."""

from itertools import islice

import pytest
import torch

from biflow.drift import ALLOWED, EVERY, LEVELS, AutoEps
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model
from biflow.paths import Fields
from biflow.rollout import sample_generators, stream
from biflow.solvers import Solver
from biflow.video import to_float

GREY = to_float(torch.full((2, 3, 8, 8), 128, dtype=torch.uint8))
SOLVER = Solver("euler", steps=1)


def grey_world(push=0.0):
    """Nothing moves, but `push` (b, 1, 1, 1) is added by every frame; all else than grey is noise."""

    def network(query):
        level = query.alpha.clamp(min=1e-3)[:, None, None, None]
        return Fields(torch.zeros_like(query.x) + push, (query.x - GREY[:1]) / level)

    return network


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

    chosen, _ = levels(Model(network, BIFLOW, (3, 8, 8), eps=0.06), 2 * EVERY + 1)
    assert chosen[EVERY].tolist() == pytest.approx([0.12, 0.054])
    assert chosen[2 * EVERY].tolist() == pytest.approx([LEVELS[1], LEVELS[0]])


def test_a_frame_with_as_much_drift_as_allowed_keeps_its_level():
    auto = AutoEps(Model(grey_world(), BIFLOW, (3, 8, 8), eps=0.1), 2, real=0.5)
    frame = GREY + ALLOWED * 0.5
    assert [auto.look(frame) for _ in range(EVERY + 1)] == [0] * EVERY + [1]
    assert auto.seen.tolist() == pytest.approx([ALLOWED] * 2, rel=0.02)
    assert auto.level.tolist() == pytest.approx([0.1] * 2, rel=0.07)


@pytest.mark.parametrize("solver", [Solver(), Solver("heun", steps=2), Solver("adams", steps=3)])
@pytest.mark.parametrize("settings", [{}, {"direction": "backward"}, {"in_between": 2}])
def test_levels_of_the_samples_own_give_the_frames_of_each_alone(solver, settings):
    model = Model(grey_world(torch.tensor(0.05)), BIFLOW, (3, 8, 8), eps=0.1)
    first = GREY + torch.tensor([0.3, -0.2])[:, None, None, None]
    auto = AutoEps(model, 2, real=1.0)
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
