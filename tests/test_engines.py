import logging
import sys

import pytest
import torch

from biflow import engines
from biflow.config import NetworkConfig
from biflow.networks import VideoUNet, load_model
from biflow.paths import Fields
from biflow.rollout import rollout, sample_generators
from biflow.sampling import first_frames, shipped_model
from biflow.video import to_float

TINY = NetworkConfig(channels=(32, 32), attention=(1,), patch=2)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """Empty at first; a model's graph is traced once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))


def network(method: str, *, pair: bool = False) -> VideoUNet:
    torch.manual_seed(0)
    config = NetworkConfig(**{**vars(TINY), "pair": pair})
    return VideoUNet(method, config, (16, 16), v_scale=0.5).eval()


@torch.inference_mode()
@pytest.mark.parametrize(("method", "pair"), [("flow", False), ("biflow", False), ("biflow", True), ("condiff", False)])
def test_openvino_gives_the_fields_of_torch_at_any_batch(method, pair):
    pytest.importorskip("openvino")
    model = network(method, pair=pair)
    evaluate, _ = engines.openvino_fields(model, "f32")
    kept = []
    for batch in (1, 3, 1):
        x, t = torch.randn(batch, 3, 16, 16), torch.rand(batch)
        # A curve hands alpha to FLOW as well, which has no use for it.
        more = {"condition": torch.randn_like(x)} if method == "condiff" else {"alpha": torch.rand(batch)}
        got, expected = evaluate(x, t, **more), model(x, t, **more)
        kept.append((got.v, expected.v))
        torch.testing.assert_close(got.v, expected.v, atol=1e-4, rtol=1e-4)
        if expected.n is None:
            assert got.n is None
        else:
            torch.testing.assert_close(got.n, expected.n, atol=1e-4, rtol=1e-4)
    for got, expected in kept:  # a later call leaves earlier results alone
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_openvino_traces_a_model_once_and_another_model_anew(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = tmp_path / "biflow" / "openvino"
    model = network("biflow")
    engines.fields(model, "openvino")
    (first,) = graphs.iterdir()
    written = (first / "model.xml").stat().st_mtime_ns
    engines.fields(network("biflow"), "openvino")
    assert [folder.name for folder in graphs.iterdir()] == [first.name]
    assert (first / "model.xml").stat().st_mtime_ns == written
    with torch.no_grad():
        next(model.parameters()).add_(1)
    engines.fields(model, "openvino")
    assert len(list(graphs.iterdir())) == 2


def test_a_stream_by_openvino_is_the_stream_by_torch():
    pytest.importorskip("openvino")
    model = network("biflow")
    first = torch.rand(2, 3, 16, 16) * 2 - 1
    videos = [
        rollout(model, first, frames=3, generators=sample_generators(0, [0, 1]), fields=fields)
        for fields in (model, engines.openvino_fields(model, "f32")[0])
    ]
    torch.testing.assert_close(videos[0], videos[1], atol=1e-3, rtol=0)


def computes_in_bf16() -> bool:
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_frame_of_the_shipped_model_stays_within_half_a_grey_level_by_the_engine_that_auto_picks(eps):
    pytest.importorskip("openvino")
    model = load_model(shipped_model())
    evaluate, used = engines.fields(model)
    assert used == ("openvino bf16" if computes_in_bf16() else "openvino f32")
    first = to_float(first_frames(shipped_model() / "first", (64, 64), 4, 0))
    frames = [
        rollout(model, first, frames=1, generators=sample_generators(0, range(4)), eps=eps, fields=fields)
        for fields in (model, evaluate)
    ]
    assert (frames[0] - frames[1]).square().mean().sqrt() < engines.HALF_LEVEL


@torch.inference_mode()
@pytest.mark.parametrize(("method", "pair"), [("flow", False), ("biflow", False), ("biflow", True), ("condiff", False)])
def test_pytorch_in_bf16_gives_the_frames_of_float32(method, pair):
    model = network(method, pair=pair)
    evaluate = engines.bf16_fields(model)
    assert 0 < engines.frame_error(model, evaluate) < engines.HALF_LEVEL
    x, half = torch.rand(2, 3, 16, 16), torch.full((2,), 0.5)
    more = {"condition": x} if method == "condiff" else {"alpha": half}
    assert {field.dtype for field in evaluate(x, half, **more) if field is not None} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # the model itself is left as it was


def test_halves_keep_in_bf16_what_x_is():
    x = torch.randn(2, 3, 4, 4)
    rounded, rest = engines.halves(x).bfloat16().chunk(2, dim=1)
    assert (x - rounded.float()).abs().max() > 2**-10
    assert ((x - rounded.float() - rest.float()).abs() <= 2**-17 * x.abs()).all()


@torch.inference_mode()
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_sees_noise_that_rounding_would_drown(engine):
    if not computes_in_bf16():
        pytest.skip("no bf16 on this CPU")
    model = load_model(shipped_model())
    fast = engines.bf16_fields(model) if engine == "torch" else engines.openvino_fields(model, "bf16")[0]
    first = to_float(first_frames(shipped_model() / "first", (64, 64), 2, 0))
    alpha, t = torch.full((2,), 0.02), torch.full((2,), 0.9)
    x = first + 0.02 * torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    n = model(x, t, alpha).n
    by_rounding = (model(x.bfloat16().float(), t, alpha).n - n).square().mean()
    assert (fast(x, t, alpha).n - n).square().mean() < by_rounding / 1.5


def test_openvino_serves_callers_in_and_out_of_inference_mode():
    pytest.importorskip("openvino")
    model = network("biflow")
    evaluate, _ = engines.openvino_fields(model, "f32")
    x, half = torch.rand(5, 3, 16, 16), torch.full((5,), 0.5)
    with torch.inference_mode():
        inside = evaluate(x, half, half)
    with torch.no_grad():
        assert torch.equal(evaluate(x, half, half).v, inside.v)
    assert torch.equal(evaluate(x.requires_grad_(), half, half).v, inside.v)


def test_an_input_that_is_missing_is_not_the_last_ones():
    pytest.importorskip("openvino")
    evaluate, _ = engines.openvino_fields(network("biflow"), "f32")
    x, half = torch.rand(2, 3, 16, 16), torch.full((2,), 0.5)
    evaluate(x, half, half)
    with pytest.raises(ValueError, match="alpha has to be of shape"):
        evaluate(x, half)


def test_bf16_is_left_where_it_would_show():
    pytest.importorskip("openvino")
    model = network("biflow")
    coarse = VideoUNet("biflow", TINY, (16, 16), v_scale=1000.0).eval()
    coarse.load_state_dict(model.state_dict())
    assert engines.fields(coarse, "openvino")[1] == "openvino f32"
    assert engines.fields(model, "openvino")[1] == ("openvino bf16" if computes_in_bf16() else "openvino f32")


def test_fine_tolerances_are_solved_in_float32():
    pytest.importorskip("openvino")
    assert engines.fields(network("biflow"), "openvino", rtol=1e-4)[1] == "openvino f32"


@torch.inference_mode()
def test_the_error_of_an_engine_is_that_of_a_frame():
    model = network("biflow")

    def off(x, t, alpha):
        v, n = model(x, t, alpha)
        return Fields(v + 0.03, n + 0.05)

    assert engines.frame_error(model, off, alpha=0.2) == pytest.approx(0.02)  # 0.03 - 0.2 x 0.05
    assert engines.frame_error(model, model) == 0


def test_an_engine_that_is_missing_is_replaced_and_said(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)  # import openvino now raises ImportError
    model = network("flow")
    with caplog.at_level(logging.WARNING, logger="biflow"):
        evaluate, used = engines.fields(model, "openvino")
    assert (evaluate, used) == (model, "torch")
    assert "openvino cannot be used (it is not installed; pip install openvino); using torch" in caplog.text


def test_an_engine_that_fails_is_replaced_and_said(monkeypatch, caplog):
    monkeypatch.setattr(engines, "openvino_fields", lambda model, precision: 1 / 0)
    model = network("flow")
    with caplog.at_level(logging.WARNING, logger="biflow"):
        assert engines.fields(model, "openvino") == (model, "torch")
    assert "division by zero" in caplog.text


def test_auto_is_torch_where_openvino_is_not_installed(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engines.fields(network("flow"))[1] == "torch"


@pytest.mark.slow
@torch.inference_mode()
def test_compile_gives_the_fields_of_torch():
    model = network("biflow")
    evaluate, used = engines.fields(model, "compile")
    assert used == "compile"
    for batch in (2, 3):
        x, t, alpha = torch.randn(batch, 3, 16, 16), torch.rand(batch), torch.rand(batch)
        got, expected = evaluate(x, t, alpha), model(x, t, alpha)
        torch.testing.assert_close(got.v, expected.v, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.n, expected.n, atol=1e-4, rtol=1e-4)
