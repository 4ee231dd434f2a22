"""What cannot be streamed is refused in a sentence, before anything is evaluated."""

import pytest
import torch

from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.rollout import generate, sample_generators, stream
from biflow.solvers import SolverError
from tests.rollout.known import SIZE, constant, first_frame, generators, images, known


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (FLOW, {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*FLOW"),
        (CONDIFF, {"eps": 0.1}, "eps 0.1 needs a BI-FLOW model.*CONDIFF"),
        (BIFLOW, {"eps": -0.1}, "eps is -0.1, but must be 0 or more"),
        (BIFLOW, {"eps": float("nan")}, "eps is nan"),
        (BIFLOW, {"context_eps": 0.3}, "context_eps is the noise on past frames, and this model sees none"),
        (BIFLOW, {"eps": float("inf")}, "eps is inf"),
        (CONDIFF, {"direction": "backward"}, "CONDIFF.*no backward"),
        (CONDIFF, {"in_between": 4}, "CONDIFF.*nothing in between"),
        (BIFLOW, {"in_between": 0}, "in_between is 0"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, settings, sentence):
    model = known(method, constant(0.0), constant(0.0) if method is BIFLOW else None)
    with pytest.raises(UserError, match=sentence):
        stream(model, images(), generators=generators(), **settings)  # at once, not with the first frame
    assert model.network.queries == []


@pytest.mark.usefixtures("unchecked")
def test_counts_are_whole_numbers_of_at_least_1():
    model = known(FLOW, constant(0.0))
    with pytest.raises(UserError, match="frames is 0, but must be at least 1"):
        generate(model, images(), frames=0)
    with pytest.raises(UserError, match=r"in_between is 1.5, but must be a whole number"):
        stream(model, images(), in_between=1.5)


def test_eps_0_is_fine_for_every_method():
    for method in (FLOW, CONDIFF):
        first_frame(known(method, constant(0.0)), images(), eps=0.0)


@pytest.mark.usefixtures("unchecked")
def test_a_direction_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="no direction 'sideways'; the directions are forward and backward"):
        stream(known(FLOW, constant(0.0)), images(), direction="sideways")


def test_a_frame_of_the_wrong_size_names_both_sizes():
    with pytest.raises(UserError, match=r"are \(1, 3, 4, 8\), but the model starts from \(b, 3, 4, 4\); resize"):
        stream(known(FLOW, constant(0.0)), torch.zeros(1, 3, 4, 8))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (
            torch.zeros(3, 4, 4),
            r"are \(3, 4, 4\), but .* from \(b, 3, 4, 4\); add the batch dimension, as first\[None\]",
        ),
        (
            torch.zeros(2, 4, 4, 3),
            r"are \(2, 4, 4, 3\), but the model starts from \(b, 3, 4, 4\)",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            r"are \(2, 1, 4, 4\), but the model starts from \(b, 3, 4, 4\)",
        ),
        (torch.zeros(2, 3, 3, 8, 4), r"are \(2, 3, 8, 4\), but the model starts from \(b, 3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"are torch\.uint8; convert pixels with biflow\.video\.to_float"),
        (
            torch.tensor([0.0, 255.0])[:, None, None, None].expand(2, 3, 4, 4),
            r"go from 0 to 255, .* \[-1, 1\]; convert",
        ),
        (torch.full((2, 3, 4, 4), -1.5), r"go from -1.5 to -1.5, but must lie in \[-1, 1\]"),
        (torch.full((2, 3, 4, 4), torch.nan), r"have values that are not finite numbers"),
    ],
    ids=["unbatched", "channels last", "grey", "clips", "uint8", "pixels", "too dark", "nan"],
)
def test_first_frames_that_do_not_fit_are_refused_in_a_sentence(first, sentence):
    model = known(FLOW, constant(0.0))
    with pytest.raises(UserError, match=sentence):
        stream(model, first)
    assert model.network.queries == []


def test_first_frames_may_overshoot_the_limits_by_a_rounding():
    x0 = torch.full((1, 3, *SIZE), 1 + 1e-4)
    assert first_frame(known(FLOW, constant(0.0)), x0).x.unique().tolist() == [1.0]


def test_every_sample_needs_a_generator():
    with pytest.raises(ValueError, match="2 samples need as many generators, not 3"):
        stream(known(FLOW, constant(0.0)), images(), generators=generators(3))


def test_without_generators_a_stream_is_that_of_seed_0():
    model, x0 = known(BIFLOW, lambda q: -q.x, constant(0.3)), images()
    ours = generate(model, x0, frames=2, eps=0.2)
    assert torch.equal(ours, generate(model, x0, frames=2, eps=0.2, generators=sample_generators(0, range(2))))
    assert not torch.equal(ours, generate(model, x0, frames=2, eps=0.2, generators=sample_generators(1, range(2))))


def test_a_field_that_is_not_finite_names_the_sample():
    bad = torch.zeros(2, 3, 4, 4)
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(SolverError, match="sample 1"):
        first_frame(known(FLOW, lambda q: q.x + bad), images())


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"dx/dk of shape \(2, 1, 4, 4\) for x of shape \(2, 3, 4, 4\)"):
        first_frame(known(FLOW, lambda q: q.x[:, :1]), images())
