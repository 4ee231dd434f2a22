"""What a method asks its network, and what it says about itself."""

from itertools import islice

import pytest
import torch

from biflow import methods
from biflow.config import Solver, TrainConfig
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP, SEQUENCE
from biflow.methods.flowmap import JumpQuery
from biflow.methods.noise import noise_like
from biflow.model import Model
from biflow.paths import Query, present
from biflow.rollout import sample_generators
from biflow.sequences import follow
from tests.methods.asked import ALL, Asked, clips, generator, lesson

# What a network is asked


def queries_of(method, **settings):
    """What the network is asked in the first two frames of a stream of points (2, 3), forward in time."""
    network = Asked(method.heads)
    model = Model(network, method, (3,), eps=0.25 if method.takes_eps else 0.0)
    list(islice(follow(model, torch.full((2, 3), 0.5), solver=Solver("euler", steps=2), **settings), 2))
    return network.queries


ASKED = {FLOW: ["x", "t"], BIFLOW: ["x", "t", "alpha"], CONDIFF: ["x", "alpha", "condition"]}
ASKED |= {FLOWMAP: [*ASKED[BIFLOW], "jump"], SEQUENCE: ["x", "alpha"]}


@ALL
def test_a_network_is_asked_with_the_tensors_of_its_method_only(method):
    network = Asked(method.heads)
    method.loss(network, clips(), generator(), TrainConfig(), **lesson(method))
    for query in [*network.queries, *queries_of(method), method.example(torch.zeros(2, 3))]:
        assert type(query) is (JumpQuery if method is FLOWMAP else Query)
        assert list(present(query)) == ASKED[method]
        assert {len(tensor) for tensor in present(query).values()} == {len(query.x)}


def test_condiffs_alpha_is_the_way_from_noise_to_the_next_frame():
    queries = queries_of(CONDIFF)
    assert [query.alpha.tolist() for query in queries] == [[0, 0], [0.5, 0.5]] * 2
    assert torch.equal(queries[0].x, noise_like(queries[0].x, sample_generators(0, range(2))))
    assert queries[0].condition.unique().tolist() == [0.5]


@pytest.mark.parametrize("settings", [{}, {"direction": "backward"}, {"in_between": 2}, {"eps": 0.0}])
def test_flow_is_never_asked_with_a_noise_level(settings):
    queries = queries_of(FLOW, **settings)
    assert queries
    assert all(query.alpha is None for query in queries)


def test_the_example_of_flow_is_the_first_query_of_a_frame():
    query = FLOW.example(torch.full((2, 3), 0.5))
    assert query.x.unique().tolist() == [0.5]
    assert query.t.tolist() == [0, 0]


@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_the_example_of_biflow_has_the_noise_of_eps(eps):
    query, again = (BIFLOW.example(torch.zeros(2, 100), eps) for _ in range(2))
    assert torch.equal(query.x, again.x)
    assert query.x.std() == pytest.approx(eps, rel=0.2)
    assert query.t.tolist() == [0, 0]
    assert query.alpha.tolist() == [eps, eps]


def test_the_example_of_condiff_starts_from_noise():
    frame = torch.full((2, 100), 0.5)
    query, again = (CONDIFF.example(frame) for _ in range(2))
    assert torch.equal(query.x, again.x)
    assert query.x.std() == pytest.approx(1, rel=0.2)
    assert query.alpha.tolist() == [0, 0]
    assert torch.equal(query.condition, frame)


# By name


@ALL
def test_a_method_is_got_by_its_name(method):
    assert methods.get(method.name) is method


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UserError, match=r"'bflow'.* condiff, flowmap, sequence.*mean '(bi)?flow'") as error:
        methods.get("bflow")
    assert error.value.setting == "method"
    with pytest.raises(UserError, match=r"'xyz'.* flow, biflow, condiff, flowmap, sequence\.$"):
        methods.get("xyz")


@pytest.mark.parametrize(
    ("method", "title", "heads", "takes_eps", "backward", "in_between", "motion_unit"),
    [
        (FLOW, "FLOW", 1, False, True, True, True),
        (BIFLOW, "BI-FLOW", 2, True, True, True, True),
        (CONDIFF, "CONDIFF", 1, False, False, False, False),
        (FLOWMAP, "FLOW MAP", 2, True, True, True, True),
    ],
)
def test_a_method_says_what_it_can_do(method, title, heads, takes_eps, backward, in_between, motion_unit):
    assert (method.title, method.heads, method.window) == (title, heads, 2)
    assert (method.takes_eps, method.backward) == (takes_eps, backward)
    assert (method.in_between, method.motion_unit) == (in_between, motion_unit)
