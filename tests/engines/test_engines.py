"""Every engine gives the fields of PyTorch, and says what it is."""

import errno
import logging
import runpy
import sys
from pathlib import Path

import pytest
import torch

from biflow import engines
from biflow.data.starts import first_frames
from biflow.engines import HALF_LEVEL, frame_error, with_engine
from biflow.engines.openvino import openvino_network
from biflow.engines.pytorch import bf16_network
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.model import Model, load_model, shipped_model
from biflow.paths import Fields, Query, conditioned
from biflow.rollout import generate
from biflow.video import to_float
from tests.engines.test_queries import steerable, steered
from tests.engines.tiny import assert_same_fields, query_of, tiny

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


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_network_whose_code_changed_is_traced_anew(tmp_path, monkeypatch, engine):
    pytest.importorskip(engine)
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for gain in (1.0, 2.0):
        file = tmp_path / "mine.py"
        file.write_text(f"""
import torch
from biflow.paths import Fields

class Mine(torch.nn.Module):
    def forward(self, query):
        return Fields({gain} * query.x)
""")
        network = runpy.run_path(str(file))["Mine"]()
        query = Query(torch.ones(1, 3, 16, 16), torch.zeros(1))
        found = with_engine(Model(network, FLOW, (3, 16, 16)), engine)
        assert found.engine.startswith(engine)
        assert found.network(query).v.mean().item() == pytest.approx(gain)


def test_openvino_traces_a_model_once_and_another_model_anew(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = tmp_path / "biflow" / "openvino"
    model = steerable()
    with_engine(model, "openvino")
    written = {path: path.stat().st_mtime_ns for path in graphs.glob("*/model.xml")}
    assert len(written) == 1
    with_engine(steerable(), "openvino")
    assert {path: path.stat().st_mtime_ns for path in graphs.glob("*/model.xml")} == written
    with torch.no_grad():
        next(model.weights.parameters()).add_(1)
    with_engine(model, "openvino")
    assert len(list(graphs.iterdir())) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@torch.inference_mode()
def test_a_damaged_graph_in_the_cache_is_made_again(tmp_path, monkeypatch, caplog):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, query = steerable(), steered(2)
    expected = openvino_network(model, "f32")[0](query)
    (folder,) = (tmp_path / "biflow" / "openvino").iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(whole) == ["model.bin", "model.xml", "sha256.json"]
    for name, damage in (("model.bin", flip), ("model.xml", cut), ("sha256.json", cut), ("model.bin", Path.unlink)):
        damage(folder / name)
        caplog.clear()
        assert torch.equal(openvino_network(model, "f32")[0](query).v, expected.v)
        assert "is damaged, and is made again" in caplog.text
        assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == whole.keys()
    caplog.clear()
    assert torch.equal(openvino_network(model, "f32")[0](query).v, expected.v)
    assert not caplog.text


@torch.inference_mode()
@pytest.mark.parametrize("reason", ["a file in the way", "a full disk", "OpenVINO's own error"])
def test_a_cache_that_cannot_be_written_costs_a_line(reason, tmp_path, monkeypatch, caplog):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "") if reason == "a full disk" else RuntimeError("basic_ios::clear: iostream error")

    if reason == "a file in the way":
        (tmp_path / "biflow").write_text("mine")
    else:
        monkeypatch.setattr(openvino, "save_model", fail)
    model, query = steerable(), steered(2)
    assert_same_fields(openvino_network(model, "f32")[0](query), model.network(query))
    assert caplog.text.count("The network's graph is not cached") == 1
    assert not list(tmp_path.rglob("model.*"))


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
    model = load_model(shipped_model("racing"))
    fast = bf16_network(model) if engine == "torch" else openvino_network(model, "bf16")[0]
    first = to_float(first_frames(shipped_model("racing") / "first", (64, 64), 2, 0))
    alpha, t = torch.full((2,), 0.02), torch.full((2,), 0.9)
    x = first + 0.02 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    exact, ours = (conditioned(network, model.conditions(2)) for network in (model.network, fast))
    n = exact(Query(x, t, alpha)).n
    by_rounding = (exact(Query(x.bfloat16().float(), t, alpha)).n - n).square().mean()
    assert (ours(Query(x, t, alpha)).n - n).square().mean() < by_rounding / 1.5


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
    coarse = tiny(BIFLOW, v_scale=1000.0, channels=(32,), attention=())
    assert with_engine(coarse, "openvino").engine == "openvino f32"
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
@pytest.mark.usefixtures("unchecked")  # a compiler does not see through the checks
@torch.inference_mode()
def test_compile_gives_the_fields_of_torch():
    model = tiny(BIFLOW)
    fast = with_engine(model, "compile")
    assert fast.engine == "compile"
    for batch in (2, 3):
        query = query_of(BIFLOW, batch)
        assert_same_fields(fast.network(query), model.network(query))


def test_auto_leaves_a_plain_callable_as_it_is(caplog):
    model = Model(lambda query: Fields(query.x), FLOW, shape=(3, 8, 8))
    assert with_engine(model) is model
    assert not caplog.records
