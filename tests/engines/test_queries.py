"""Engines know of a query only that it is a NamedTuple of tensors."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from biflow import engines
from biflow.engines import frame_error, with_engine
from biflow.engines.openvino import openvino_network
from biflow.engines.pytorch import bf16_network
from biflow.engines.queries import example, fill
from biflow.methods import BIFLOW, Method
from biflow.model import Model
from biflow.paths import Fields, Query
from biflow.rollout import generate
from tests.engines.tiny import assert_same_fields, tiny


class Steered(NamedTuple):
    """A query with one more tensor."""

    x: Tensor
    t: Tensor
    steer: Tensor  # (b, 4)


class Steer(Method):
    """FLOW that is steered, always by the same vector."""

    name, title = "steer", "STEER"

    def start(self, frame, eps, generators):
        return frame, (torch.linspace(-1, 1, 4).expand(len(frame), 4).contiguous(),)

    def field(self, network, eps, backward):
        return lambda x, t, steer: network(Steered(x, t, steer)).v


class Steerable(nn.Module):
    """A network that is no VideoUNet."""

    def __init__(self):
        super().__init__()
        self.frame, self.numbers = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(5, 3)

    def forward(self, query: Steered) -> Fields:
        numbers = self.numbers(torch.cat([query.t[:, None], query.steer], dim=1))
        return Fields(torch.tanh(self.frame(query.x) + numbers[:, :, None, None]))


def steerable() -> Model:
    torch.manual_seed(0)
    return Model(Steerable().eval(), Steer(), (3, 16, 16))


def steered(batch: int) -> Steered:
    return Steered(torch.randn(batch, 3, 16, 16), torch.rand(batch), torch.randn(batch, 4))


def test_the_example_of_a_model_is_a_query_of_its_methods_kind():
    query = example(steerable())
    assert type(query) is Steered
    assert (query.x.shape, query.t.shape, query.steer.shape) == ((2, 3, 16, 16), (2,), (2, 4))


@torch.inference_mode()
def test_openvino_answers_queries_of_another_kind():
    pytest.importorskip("openvino")
    model = steerable()
    network, _ = openvino_network(model, "f32")
    for batch in (2, 1, 2):
        query = steered(batch)
        assert_same_fields(network(query), model.network(query))
        other = query._replace(steer=-query.steer)
        assert (network(other).v - network(query).v).abs().max() > 0.1
    fast = with_engine(model, "openvino", rtol=1e-4)
    first = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(generate(fast, first, frames=2), generate(model, first, frames=2), atol=1e-3, rtol=0)


def test_what_a_query_lacks_is_named():
    pytest.importorskip("openvino")
    network, _ = openvino_network(steerable(), "f32")
    with pytest.raises(ValueError, match=r"steer has to be of shape \(2, 4\), but is missing"):
        network(Query(torch.zeros(2, 3, 16, 16), torch.zeros(2)))
    with pytest.raises(ValueError, match=r"steer has to be of shape \(2, 4\), but is of shape \(2, 3\)"):
        network(steered(2)._replace(steer=torch.zeros(2, 3)))


def test_fill_copies_a_query_to_where_the_last_one_lay():
    slots, query = steered(2), steered(2)
    places = [tensor.data_ptr() for tensor in slots]
    fill(slots, query)
    assert all(torch.equal(slot, tensor) for slot, tensor in zip(slots, query, strict=True))
    assert [tensor.data_ptr() for tensor in slots] == places
    partial = Query(torch.zeros(2, 3), torch.ones(2))
    fill(partial, Query(torch.ones(2, 3), torch.zeros(2), alpha=torch.zeros(2)))  # what has no slot is left out
    assert partial.x.eq(1).all()
    assert partial.alpha is None


def test_a_network_of_another_kind_has_no_bf16_form(monkeypatch):
    monkeypatch.setattr(engines, "computes_in_bf16", lambda: True)
    model = steerable()
    assert bf16_network(model) is model.network
    assert engines._on_gpu(model, 1e-2).engine == "torch"
    assert engines._on_gpu(tiny(BIFLOW), 1e-2).engine == "torch bf16"
    assert engines._on_gpu(tiny(BIFLOW), 1e-4).engine == "torch"


def test_the_error_of_an_engine_is_that_of_a_frame_of_any_method():
    model = steerable()
    assert frame_error(model, lambda query: Fields(model.network(query).v + 0.03)) == pytest.approx(0.03)
