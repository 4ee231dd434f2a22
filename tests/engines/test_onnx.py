"""ONNX files give what PyTorch gives, in onnxruntime; a wrong one is not written; onnxruntime as an engine."""

import sys

import pytest
import torch
from torch import nn

from biflow import engines
from biflow.config import Solver
from biflow.documents import read_json
from biflow.engines import onnx, with_engine
from biflow.engines.onnx import write_folder, write_network
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.model import Model
from biflow.paths import Fields, Query, present
from biflow.rollout import generate
from tests.engines.tiny import assert_same_fields, query_of

onnx_model = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("unchecked")  # a tracer would trace the checks, for seconds


class Small(nn.Module):
    """A network that is traced in a second, and answers whatever it is asked."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3 * heads, 3, padding=1)

    def forward(self, query: Query) -> Fields:
        x = query.x if query.condition is None else query.x + 0.5 * query.condition
        for number in (query.t, query.alpha):
            x = x if number is None else x + number[:, None, None, None]
        if query.past is not None and query.past_noise is not None:
            x = x + (query.past * query.past_noise[:, :, None, None, None]).sum(1)
        if query.action is not None:
            x = x + query.action.sum(1)[:, None, None, None]
        return Fields(*self.convolution(x).split(3, dim=1))


def small(method, **memory) -> Model:
    torch.manual_seed(0)
    eps = 0.2 if method.takes_eps else 0.0
    return Model(Small(method.heads).eval(), method, (3, 16, 16), eps=eps, **memory)


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path)
    return [torch.from_numpy(out) for out in session.run(None, {name: t.numpy() for name, t in inputs.items()})]


@torch.inference_mode()
@pytest.mark.parametrize("method", [BIFLOW, CONDIFF])
def test_both_files_give_what_pytorch_gives(method, tmp_path):
    model, solver = small(method, context=2), Solver(steps=3)
    differences = write_folder(model, tmp_path / "out", solver)
    assert max(differences) < 1e-4
    about = read_json(tmp_path / "out" / "onnx.json")
    for batch in (1, 3):
        conditions = model.conditions(batch)
        query = query_of(method, batch)._replace(**present(conditions))
        assert about["network.onnx"]["inputs"] == list(present(query))
        expected = model.network(query)
        assert_same_fields(Fields(*run(tmp_path / "out" / "network.onnx", **present(query))), expected)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 16, 16, generator=generator)
    frame = torch.rand(1, 3, 16, 16) * 2 - 1
    (following,) = run(tmp_path / "out" / "frame.onnx", frame=frame, noise=noise, **present(model.conditions(1)))
    expected = generate(model, frame, frames=1, generators=[generator.manual_seed(0)], solver=solver)[:, 0]
    torch.testing.assert_close(following, expected, atol=1e-4, rtol=0)


def test_weights_of_a_large_network_come_along_in_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1)
    write_folder(small(BIFLOW), tmp_path / "out", Solver(steps=1))
    assert (tmp_path / "out" / "network.onnx.data").exists()
    for name in ("network.onnx", "frame.onnx"):
        onnxruntime.InferenceSession(tmp_path / "out" / name)


class Unsteady(Small):
    """A network that answers otherwise while it is traced."""

    def forward(self, query: Query) -> Fields:
        v, *rest = super().forward(query)
        return Fields(v + 1 if torch.compiler.is_compiling() else v, *rest)


def test_a_file_that_gives_something_else_is_not_written(tmp_path):
    model = Model(Unsteady(1).eval(), FLOW, (3, 16, 16))
    with pytest.raises(UserError, match=r"network\.onnx differs from PyTorch by 1, so it was not written"):
        write_network(model, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_are_halved_only_where_frames_stay_the_same(tmp_path, monkeypatch):
    first = torch.rand(1, 3, 16, 16) * 2 - 1
    precision, error = onnx.write_small(small(BIFLOW), tmp_path / "fine.onnx", first)
    assert precision == "fp16"
    assert 0 < error < onnx.HALF_LEVEL
    monkeypatch.setattr(onnx, "HALF_LEVEL", 1e-12)
    assert onnx.write_small(small(BIFLOW), tmp_path / "whole.onnx", first)[0] == "fp32"
    halved, whole = (onnx_model.load(tmp_path / f"{name}.onnx").graph for name in ("fine", "whole"))
    kinds = [{tuple(weight.dims): weight.data_type for weight in graph.initializer} for graph in (halved, whole)]
    assert [kind[6, 3, 3, 3] for kind in kinds] == [onnx_model.TensorProto.FLOAT16, onnx_model.TensorProto.FLOAT]
    assert len(list(tmp_path.iterdir())) == 2


@torch.inference_mode()
def test_onnxruntime_gives_the_fields_of_torch_and_keeps_its_graph(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = small(BIFLOW)
    model = Model(model.network, BIFLOW, (3, 16, 16), eps=0.2)
    fast = with_engine(model, "onnxruntime")
    assert fast.engine == "onnxruntime f32"
    kept = []
    for batch in (1, 3):
        query = query_of(BIFLOW, batch)
        kept.append((fast.network(query), model.network(query)))
    for got, expected in kept:  # a later call leaves earlier results alone
        assert_same_fields(got, expected)
    with pytest.raises(ValueError, match="lacks alpha"):
        fast.network(query._replace(alpha=None))
    monkeypatch.setattr(onnx, "write_network", None)  # it is not written again
    assert_same_fields(with_engine(model, "onnxruntime").network(query), model.network(query))


def test_auto_is_onnxruntime_where_openvino_is_not_installed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "find_spec", lambda name: name != "openvino")
    assert with_engine(small(FLOW)).engine == "onnxruntime f32"
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # import onnxscript now raises ImportError
    assert with_engine(small(CONDIFF), "onnxruntime").engine == "torch"
    assert "it is not installed; pip install onnxruntime onnxscript onnx" in caplog.text
