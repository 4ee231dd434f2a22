"""onnxruntime-web is downloaded once, checked, and asked for in one sentence where there is no network."""

import hashlib
import io
import tarfile

import pytest

from biflow.errors import UserError
from biflow.files import cache_folder
from biflow.web import runtime
from tests.local_server import Answers, local_server

NAMES = runtime.RUNTIMES["cpu"]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An archive such as the registry has, in a folder that stands for it; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "registry.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name in NAMES:
            content = name.encode()
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(runtime, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def served(registry, monkeypatch):
    """The archive behind a local server; the list is of the requests for it."""
    asked = []

    class Registry(Answers):
        def do_GET(self):
            asked.append(self.path)
            self.answer(registry.read_bytes())

    with local_server(Registry) as server:
        monkeypatch.setattr(runtime, "URL", f"http://127.0.0.1:{server.server_port}/onnxruntime-web.tgz")
        yield asked


def kept() -> list[str]:
    folder = cache_folder() / "onnxruntime-web"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_it_is_downloaded_once(served):
    for _ in range(2):
        assert runtime.read(*NAMES) == [name.encode() for name in NAMES]
    assert len(served) == 1
    assert kept() == [f"onnxruntime-web-{runtime.VERSION}.tgz"]


def test_another_file_than_the_pinned_one_is_refused_and_removed(served, monkeypatch):
    monkeypatch.setattr(runtime, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has SHA-256 \w+, not 000"):
        runtime.archive()
    assert kept() == []


def test_without_a_network_a_sentence_says_what_to_put_where(registry, monkeypatch):
    monkeypatch.setattr(runtime, "URL", "http://127.0.0.1:9/onnxruntime-web.tgz")  # nobody listens there
    path = cache_folder() / "onnxruntime-web" / f"onnxruntime-web-{runtime.VERSION}.tgz"
    with pytest.raises(UserError) as refusal:
        runtime.archive()
    assert str(refusal.value).startswith(
        f"onnxruntime-web {runtime.VERSION} (33 MB) is needed once. http://127.0.0.1:9/"
    )
    assert str(refusal.value).endswith(f"To do without a network, put {runtime.URL} there as {path}.")
    path.write_bytes(registry.read_bytes())  # by hand
    assert runtime.read(NAMES.glue) == [NAMES.glue.encode()]


def test_a_wrong_file_that_was_put_there_by_hand_is_refused(registry):
    path = cache_folder() / "onnxruntime-web" / f"onnxruntime-web-{runtime.VERSION}.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    with pytest.raises(UserError, match=rf"is not onnxruntime-web {runtime.VERSION}: its SHA-256 is not"):
        runtime.archive()
