import logging
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from biflow import engines
from biflow.config import NetworkConfig
from biflow.data.windows import first_frames
from biflow.engines import HALF_LEVEL, frame_error, with_engine
from biflow.engines.openvino import openvino_network
from biflow.engines.pytorch import bf16_network
from biflow.engines.queries import example, fill
from biflow.methods import BIFLOW, CONDIFF, FLOW, Method
from biflow.model import Model, load_model, shipped_model
from biflow.networks import VideoUNet
from biflow.paths import Fields, Query
from biflow.rollout import generate
from biflow.video import to_float

TINY = NetworkConfig(channels=(32, 32), attention=(1,), patch=2)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """Empty at first; a model's graph is traced once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))


def tiny(method: Method, *, pair: bool = False, v_scale: float = 0.5) -> Model:
    torch.manual_seed(0)
    network = VideoUNet(method, NetworkConfig(**{**vars(TINY), "pair": pair}), v_scale=v_scale).eval()
    return Model(network, method, (3, 16, 16), eps=0.1 if method.takes_eps else 0.0)


def query_of(method: Method, batch: int) -> Query:
    x, condition = torch.randn(2, batch, 3, 16, 16)
    t, alpha = torch.rand(2, batch)
    return {FLOW: Query(x, t), BIFLOW: Query(x, t, alpha), CONDIFF: Query(x, alpha=alpha, condition=condition)}[method]


def assert_same_fields(got: Fields, expected: Fields) -> None:
    torch.testing.assert_close(got.v, expected.v, atol=1e-4, rtol=1e-4)
    if expected.n is None:
        assert got.n is None
    else:
        torch.testing.assert_close(got.n, expected.n, atol=1e-4, rtol=1e-4)


NETWORKS = pytest.mark.parametrize(
    ("method", "pair"), [(FLOW, False), (BIFLOW, False), (BIFLOW, True), (CONDIFF, False)]
)


@torch.inference_mode()
@NETWORKS
def test_openvino_gives_the_fields_of_torch_at_any_batch(method, pair):
    pytest.importorskip("openvino")
    model = tiny(method, pair=pair)
    network, precision = openvino_network(model, "f32")
    assert precision == "f32"
    kept = []
    for batch in (1, 3, 1):
        query = query_of(method, batch)
        kept.append((network(query), model.network(query)))
        assert_same_fields(*kept[-1])
    for got, expected in kept:  # a later call leaves earlier results alone
        torch.testing.assert_close(got.v, expected.v, atol=1e-4, rtol=1e-4)


def test_openvino_traces_a_model_once_and_another_model_anew(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = tmp_path / "biflow" / "openvino"
    model = tiny(BIFLOW)
    with_engine(model, "openvino")
    (first,) = graphs.iterdir()
    written = (first / "model.xml").stat().st_mtime_ns
    with_engine(tiny(BIFLOW), "openvino")
    assert [folder.name for folder in graphs.iterdir()] == [first.name]
    assert (first / "model.xml").stat().st_mtime_ns == written
    with torch.no_grad():
        next(model.weights.parameters()).add_(1)
    with_engine(model, "openvino")
    assert len(list(graphs.iterdir())) == 2


def test_a_stream_by_openvino_is_the_stream_by_torch():
    pytest.importorskip("openvino")
    model = tiny(BIFLOW)
    first = torch.rand(2, 3, 16, 16) * 2 - 1
    videos = [generate(one, first, frames=3) for one in (model, with_engine(model, "openvino", rtol=1e-4))]
    torch.testing.assert_close(videos[0], videos[1], atol=1e-3, rtol=0)


def computes_in_bf16() -> bool:
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_frame_of_the_shipped_model_stays_within_half_a_grey_level_by_the_engine_that_auto_picks(eps):
    pytest.importorskip("openvino")
    model = load_model(shipped_model())
    fast = with_engine(model)
    assert fast.engine == ("openvino bf16" if computes_in_bf16() else "openvino f32")
    first = to_float(first_frames(shipped_model() / "first", (64, 64), 4, 0))
    frames = [generate(one, first, frames=1, eps=eps) for one in (model, fast)]
    assert (frames[0] - frames[1]).square().mean().sqrt() < HALF_LEVEL


@torch.inference_mode()
@NETWORKS
def test_pytorch_in_bf16_gives_the_frames_of_float32(method, pair):
    model = tiny(method, pair=pair)
    network = bf16_network(model)
    assert 0 < frame_error(model, network) < HALF_LEVEL
    fields = network(query_of(method, 2))
    assert {field.dtype for field in fields if field is not None} == {torch.float32}
    assert (fields.n is not None) == (method is BIFLOW)
    assert {p.dtype for p in model.weights.parameters()} == {torch.float32}  # the model itself is left as it was


@torch.inference_mode()
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_sees_noise_that_rounding_would_drown(engine):
    if not computes_in_bf16():
        pytest.skip("no bf16 on this CPU")
    model = load_model(shipped_model())
    fast = bf16_network(model) if engine == "torch" else openvino_network(model, "bf16")[0]
    first = to_float(first_frames(shipped_model() / "first", (64, 64), 2, 0))
    alpha, t = torch.full((2,), 0.02), torch.full((2,), 0.9)
    x = first + 0.02 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    n = model.network(Query(x, t, alpha)).n
    by_rounding = (model.network(Query(x.bfloat16().float(), t, alpha)).n - n).square().mean()
    assert (fast(Query(x, t, alpha)).n - n).square().mean() < by_rounding / 1.5


def test_openvino_serves_callers_in_and_out_of_inference_mode():
    pytest.importorskip("openvino")
    network, _ = openvino_network(tiny(BIFLOW), "f32")
    x, half = torch.rand(5, 3, 16, 16), torch.full((5,), 0.5)
    with torch.inference_mode():
        inside = network(Query(x, half, half))
    with torch.no_grad():
        assert torch.equal(network(Query(x, half, half)).v, inside.v)
    assert torch.equal(network(Query(x.requires_grad_(), half, half)).v, inside.v)


def test_an_input_that_is_missing_is_not_the_last_ones():
    pytest.importorskip("openvino")
    network, _ = openvino_network(tiny(BIFLOW), "f32")
    x, half = torch.rand(2, 3, 16, 16), torch.full((2,), 0.5)
    network(Query(x, half, half))
    with pytest.raises(ValueError, match=r"alpha has to be of shape \(2,\), but is missing"):
        network(Query(x, half))


def test_bf16_is_left_where_it_would_show():
    pytest.importorskip("openvino")
    assert with_engine(tiny(BIFLOW, v_scale=1000.0), "openvino").engine == "openvino f32"
    expected = "openvino bf16" if computes_in_bf16() else "openvino f32"
    assert with_engine(tiny(BIFLOW), "openvino").engine == expected


def test_fine_tolerances_are_solved_in_float32():
    pytest.importorskip("openvino")
    assert with_engine(tiny(BIFLOW), "openvino", rtol=1e-4).engine == "openvino f32"


@torch.inference_mode()
def test_the_error_of_an_engine_is_that_of_a_frame():
    model = tiny(BIFLOW)

    def off(query):
        v, n = model.network(query)
        return Fields(v + 0.03, n + 0.05)

    assert frame_error(model, off, eps=0.2) == pytest.approx(0.02)  # 0.03 - 0.2 x 0.05
    assert frame_error(model, off, eps=0.0) == pytest.approx(0.03)
    assert frame_error(model, model.network) == 0


@pytest.mark.parametrize("method", [FLOW, CONDIFF])
def test_the_error_of_an_engine_is_that_of_a_frame_without_noise_too(method):
    model = tiny(method)
    assert frame_error(model, lambda query: Fields(model.network(query).v - 0.03)) == pytest.approx(0.03)


def test_an_engine_is_the_same_model_with_another_network():
    pytest.importorskip("openvino")
    model = load_model(shipped_model())
    fast = with_engine(model, "openvino", rtol=1e-4)
    assert fast.network is not model.network
    assert (fast.method, fast.shape, fast.eps, fast.fps) == (model.method, model.shape, model.eps, model.fps)
    assert (fast.folder, fast.limits, fast.device) == (model.folder, model.limits, model.device)
    assert (fast.engine, model.engine) == ("openvino f32", "torch")


def test_an_engine_that_is_missing_is_replaced_and_said(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)  # import openvino now raises ImportError
    model = tiny(FLOW)
    with caplog.at_level(logging.WARNING, logger="biflow"):
        assert with_engine(model, "openvino") is model
    assert model.engine == "torch"
    assert "openvino cannot be used (it is not installed; pip install openvino); using torch" in caplog.text


def test_an_engine_that_fails_is_replaced_and_said(monkeypatch, caplog):
    monkeypatch.setattr(engines, "openvino_network", lambda model, precision: 1 / 0)
    model = tiny(FLOW)
    with caplog.at_level(logging.WARNING, logger="biflow"):
        assert with_engine(model, "openvino") is model
    assert "division by zero" in caplog.text


def test_auto_is_torch_where_openvino_is_not_installed(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert with_engine(tiny(FLOW)).engine == "torch"


def test_a_network_that_is_no_module_is_asked_as_it_is(caplog):
    model = Model(lambda query: Fields(query.x), FLOW, (3, 16, 16))
    for engine in ("auto", "torch", "openvino"):
        assert with_engine(model, engine) is model


@pytest.mark.slow
@torch.inference_mode()
def test_compile_gives_the_fields_of_torch():
    model = tiny(BIFLOW)
    fast = with_engine(model, "compile")
    assert fast.engine == "compile"
    for batch in (2, 3):
        query = query_of(BIFLOW, batch)
        assert_same_fields(fast.network(query), model.network(query))


# Queries of another kind


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
