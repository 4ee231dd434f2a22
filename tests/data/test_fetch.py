import contextlib
import errno
import hashlib
import io
import re
import threading
import zipfile

import pytest
from filelock import FileLock

from biflow import downloads
from biflow.data.fetch import DATASETS, Published, fetch
from biflow.downloads import download, read_page, shown
from biflow.errors import UserError
from tests.local_server import Answers, local_server

BODY = b"PK" + bytes(range(256)) * 40
HASH = hashlib.sha256(BODY).hexdigest()


class Handler(Answers):
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


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    with local_server(Handler) as server:
        server.files, server.asked, server.heads, server.cut = {"/a.zip": BODY}, [], [], None
        server.answer, server.change, server.stopped = None, {}, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.stopped.set()


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


# Servers that lie


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-10241/10242",
        "bytes 4000-10241/*",
        "bytes 4000-9999/10242",
        "",
        "bytes -1--1/5",
        "bytes 4001-10241/10242",
    ],
)
def test_a_rest_of_something_else_is_not_trusted(content_range, tmp_path, server):
    stop_halfway(server, tmp_path / "a.zip")
    server.change = {"Content-Range": content_range}
    assert get(server, tmp_path / "a.zip") == HASH
    assert [wanted for _, wanted in server.asked] == ["bytes=4000-", None]


def answered(handler, status, headers, body=b""):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_rest_that_nobody_asked_for_is_not_trusted(tmp_path, server):
    whole = {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}", "Content-Length": str(len(BODY))}
    server.answer = lambda handler: answered(handler, 206, whole, BODY)
    with pytest.raises(UserError, match="keeps breaking off after 0 bytes"):
        get(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["-5", "ten", "1e9", "9" * 400, "0x10", ""])
def test_a_length_that_is_no_number_is_ignored(length, tmp_path, server):
    server.change = {"Content-Length": length}
    assert get(server, tmp_path / "a.zip", sha256=HASH) == HASH


def endless(handler):
    handler.protocol_version = "HTTP/1.1"
    with contextlib.suppress(OSError):
        answered(handler, 200, {"Transfer-Encoding": "chunked"})
        for _ in range(100_000):
            handler.wfile.write(b"1000\r\n" + b"PK" + bytes(4094) + b"\r\n")


def test_an_endless_body_is_bounded(tmp_path, server, monkeypatch):
    server.answer = endless
    with pytest.raises(UserError, match=r"sends more than 50,000 bytes\. The download was removed"):
        get(server, tmp_path / "a.zip", most=50_000)
    assert list(tmp_path.iterdir()) == []
    server.answer = None
    with pytest.raises(UserError, match=r"has 10,242 bytes\. At most 10,000 are downloaded"):
        get(server, tmp_path / "a.zip", most=10_000)
    monkeypatch.setattr(downloads, "PAGE", 50_000)
    server.answer = endless
    with pytest.raises(UserError, match="has more than 50,000 bytes, so it is not read"):
        read_page(server.url)


def drip(handler, before=b"HTTP/1.0 200 OK\r\n\r\n", forever=b"P"):
    """A byte now and then, for as long as the client stays."""
    with contextlib.suppress(OSError):
        handler.wfile.write(before)
        while not handler.server.stopped.wait(0.02):
            handler.wfile.write(forever)


@pytest.mark.parametrize(("before", "sentence"), [(b"HTTP/1.0 200 OK\r\n\r\n", "sends less than"), (b"HTTP/1.0 ", "")])
def test_a_server_that_sends_a_byte_now_and_then_is_left(before, sentence, tmp_path, server, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    server.answer = lambda handler: drip(handler, before)
    with pytest.raises(UserError, match=sentence or "keeps breaking off after 0 bytes"):
        get(server, tmp_path / "a.zip")
    with pytest.raises(UserError, match=sentence or "breaks off"):
        read_page(server.url)


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip", "http://[", "http://u:secret@127.0.0.1:x/", "data:,PK", ""]
)
def test_a_redirect_to_anything_but_http_is_refused(place, tmp_path, server):
    server.answer = lambda handler: answered(handler, 302, {"Location": place})
    with pytest.raises(UserError) as raised:
        get(server, tmp_path / "a.zip")
    assert str(raised.value).startswith(f"{server.url}/a.zip ")
    assert "secret" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tag", ['"a\r\n b"', 'W/"weak"', "é", '"' + "x" * 9999 + '"', "no quotes"])
def test_a_tag_that_is_none_is_never_sent_back(tag, tmp_path, server):
    server.change = {"ETag": tag}
    stop_halfway(server, tmp_path / "a.zip")
    server.heads.clear()
    assert get(server, tmp_path / "a.zip") == HASH
    assert [head.get("If-Range") for head in server.heads] == [None]


# Addresses with passwords, and other processes


def test_a_password_goes_to_the_host_of_the_address_alone(tmp_path, server):
    def redirect(handler):
        server.answer = None
        other = server.url.replace("127.0.0.1", "localhost")
        answered(handler, 302, {"Location": f"{other}/a.zip"})

    server.answer = redirect
    address = server.url.replace("http://", "http://me:pass%40word@")
    assert download(f"{address}/a.zip?token=secret", tmp_path / "a.zip", progress=False) == HASH
    assert [head.get("Authorization") for head in server.heads] == ["Basic bWU6cGFzc0B3b3Jk", None]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:secret@example.org/a/b.zip?token=secret#secret", "https://example.org/a/b.zip"),
        ("https://me:sec/secret@example.org/b.zip", "https://…"),
        ("https://me:sec?secret@example.org/b.zip", "https://…"),
        ("me:secret@example.org", "example.org"),
        ("http://[::1]:80/\x1b]0;x", "http://[::1]:80/?]0;x"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url, words, tmp_path):
    assert shown(url) == words
    with pytest.raises(UserError) as raised:
        download(
            url.replace("example.org", "127.0.0.1:9").replace("[::1]:80", "[::1]:9"), tmp_path / "a", progress=False
        )
    assert "secret" not in str(raised.value)


def test_every_failure_hides_what_may_be_secret(tmp_path, server):
    secret = f"{server.url.replace('//', '//me:secret@')}/a.zip?X-Amz-Signature=secret"

    def odd(handler):
        handler.wfile.write(b"HTTP/1.0 500 secret \x1b[2J\r\n\r\n")

    for answer in (
        odd,
        lambda handler: handler.wfile.write(b"secret\r\n\r\n"),
        lambda handler: answered(handler, 404, {}),
    ):
        server.answer = answer
        for call in (lambda: read_page(secret), lambda: download(secret, tmp_path / "a.zip", progress=False)):
            with pytest.raises(UserError) as raised:
                call()
            assert "secret" not in str(raised.value)
            assert str(raised.value).isprintable()


def test_a_second_download_of_a_file_is_refused(tmp_path, server):
    stop_halfway(server, tmp_path / "a.zip")
    with FileLock(tmp_path / ".a.zip.part" / ".lock"), pytest.raises(UserError, match="Another command is downloading"):
        get(server, tmp_path / "a.zip")
    assert get(server, tmp_path / "a.zip") == HASH
    assert [wanted for _, wanted in server.asked] == ["bytes=4000-"]


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path, server):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "body").write_text("mine")
    (tmp_path / ".a.zip.part").symlink_to("mine")
    assert get(server, tmp_path / "a.zip") == HASH
    assert (tmp_path / "mine" / "body").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "mine"]


def test_a_full_disk_is_a_sentence_and_the_download_resumes(tmp_path, server, monkeypatch):
    server.files["/a.zip"] = b"PK" + bytes(200_000)
    files = []

    class Full(io.FileIO):
        def write(self, block):
            files.append(self)
            return super().write(block) if len(files) == 1 else (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))

    monkeypatch.setattr(downloads, "open", lambda path, mode: Full(path, mode), raising=False)
    (tmp_path / "a.zip").write_text("old")
    with pytest.raises(UserError, match=r"^No space left to write .*/a\.zip\."):
        get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_text() == "old"
    monkeypatch.undo()
    get(server, tmp_path / "a.zip")
    assert server.asked[-1][1] is not None
    assert (tmp_path / "a.zip").read_bytes() == b"PK" + bytes(200_000)


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
