import contextlib
import hashlib
import http.server
import re
import threading
import zipfile

import pytest

from biflow import downloads
from biflow.data.fetch import DATASETS, Published, fetch
from biflow.downloads import download
from biflow.errors import UserError

BODY = b"PK" + bytes(range(256)) * 40
HASH = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, with Range and If-Range; breaks off after `server.cut` bytes if that is set.

    `server.answer`, if set, answers in its place; `server.change` has other values for its headers.
    """

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.server.heads.append(self.headers)
        if self.server.answer:
            return self.server.answer(self)
        if self.path not in self.server.files:
            return self.send_error(404)
        body, start = self.server.files[self.path], 0
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range") == tag:
            start = int(wanted[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if start else 200)
        headers = {"Content-Length": str(len(body) - start), "ETag": tag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        for name, value in headers.items():
            self.send_header(name, self.server.change.get(name, value))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.cut])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.heads, server.cut = {"/a.zip": BODY}, [], [], None
        server.answer, server.change = None, {}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


def get(server, path, **options):
    return download(f"{server.url}/a.zip", path, progress=False, **options)


def test_a_file_is_whole_checked_and_alone(tmp_path, server):
    assert get(server, tmp_path / "sub" / "a.zip", sha256=HASH.upper()) == HASH
    assert (tmp_path / "sub" / "a.zip").read_bytes() == BODY
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.zip"]


def test_a_connection_that_breaks_off_is_resumed(tmp_path, server):
    server.cut = 3000
    assert get(server, tmp_path / "a.zip") == HASH
    assert [wanted for _, wanted in server.asked] == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def stop_halfway(server, path):
    """Leave a part of 4000 bytes, as a killed download does."""
    server.cut = 4000
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(downloads.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        get(server, path)
    assert not path.exists()
    assert (path.with_name(".a.zip.part") / "body").stat().st_size == 4000
    server.cut = None
    server.asked.clear()


def test_a_killed_download_resumes_where_it_was(tmp_path, server):
    stop_halfway(server, tmp_path / "a.zip")
    assert get(server, tmp_path / "a.zip", sha256=HASH) == HASH
    assert [wanted for _, wanted in server.asked] == ["bytes=4000-"]


def test_a_file_that_changed_meanwhile_starts_over(tmp_path, server):
    stop_halfway(server, tmp_path / "a.zip")
    server.files["/a.zip"] = b"PK" + bytes(8000)
    get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"PK" + bytes(8000)


def test_a_part_that_is_whole_already_is_kept(tmp_path, server):
    stop_halfway(server, tmp_path / "a.zip")
    (tmp_path / ".a.zip.part" / "body").write_bytes(BODY)
    assert get(server, tmp_path / "a.zip", sha256=HASH) == HASH


def test_a_wrong_hash_removes_the_file(tmp_path, server):
    with pytest.raises(UserError, match=f"has SHA-256 {HASH}, not 00"):
        get(server, tmp_path / "a.zip", sha256="00")
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_an_archive_is_refused(tmp_path, server):
    server.files["/a.zip"] = b"<html>log in first</html>"
    with pytest.raises(UserError, match="web page"):
        get(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_cannot_be_written_is_refused(tmp_path, server):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"a\.zip cannot be written: .*file is not a folder"):
        get(server, tmp_path / "file" / "a.zip")
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(UserError, match=r"a\.zip cannot be written: it is a folder"):
        get(server, tmp_path / "a.zip")


def test_failures_are_explained(tmp_path, server):
    with pytest.raises(UserError, match="answers 404"):
        download(f"{server.url}/none.zip", tmp_path / "none.zip", progress=False)
    with pytest.raises(UserError, match="cannot be reached"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", progress=False)
    with pytest.raises(UserError, match="not an http"):
        download("file:///etc/passwd", tmp_path / "a.zip", progress=False)
    server.cut = 0
    with pytest.raises(UserError, match="breaking off after 0 bytes"):
        get(server, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def offer(monkeypatch, **options):
    published = Published("A set", "https://example.org", "The licence.", size=64, **options)
    monkeypatch.setitem(DATASETS, "sky", published)


def test_fetch_shows_the_terms_first_and_keeps_what_exists(tmp_path, server, monkeypatch):
    offer(monkeypatch, files=(f"{server.url}/a.zip",))
    lines = []
    assert fetch("SKY", tmp_path, say=lines.append, progress=False) == [tmp_path / "sky" / "a.zip"]
    assert lines[1] == "The licence."
    assert HASH in lines[2]
    assert "not verified" in lines[2]
    assert lines[3] == f"Prepare it next, at 64x64 as in the paper: biflow prepare {tmp_path}/sky OUT"
    fetch("sky", tmp_path, say=lines.append, progress=False)
    assert "exists already" in lines[-2]
    assert len(server.asked) == 1


def test_fetch_follows_a_listing(tmp_path, server, monkeypatch):
    server.files["/list/"] = b'<a href="p0.zip">p0</a> <a href="../list/p1.zip">p1</a> <a href="readme.txt">t</a>'
    server.files |= {"/list/p0.zip": BODY, "/list/p1.zip": BODY}
    offer(monkeypatch, listing=f"{server.url}/list/")
    assert [p.name for p in fetch("sky", tmp_path, say=str, progress=False)] == ["p0.zip", "p1.zip"]
    server.files["/list/"] = b"nothing"
    with pytest.raises(UserError, match="names no zip"):
        fetch("sky", tmp_path, say=str, progress=False)


def test_what_only_a_browser_can_download_is_refused_and_accepted_once_it_is_there(tmp_path):
    with pytest.raises(UserError, match=r"drive\.google\.com.*biflow prepare"):
        fetch("sky", tmp_path, say=str)
    (tmp_path / "sky").mkdir()
    with zipfile.ZipFile(tmp_path / "sky" / "sky_timelapse.zip", "w"):
        pass
    assert fetch("sky", tmp_path, say=str) == [tmp_path / "sky" / "sky_timelapse.zip"]


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(UserError, match='Did you mean "biking"'):
        fetch("bikin", tmp_path)
    with pytest.raises(UserError, match="There are sky, biking"):
        fetch("xyz", tmp_path)
