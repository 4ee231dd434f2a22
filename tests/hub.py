"""The Hub's HTTP interface on loopback, as far as huggingface_hub asks it: information, trees, files, commits."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"commit").hexdigest()


class Hub:
    """Repositories by id, from path to content; and what was asked for.

    Attributes:
        repositories: content of each.
        gated, private: ids that answer as such.
        asked: method and path of every request.
        status: if set, every request is answered with it.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.status: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                hub.respond(self)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, folder: Path) -> None:
        """Put the files of a folder into a repository."""
        files = (path for path in folder.rglob("*") if path.is_file())
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    @property
    def downloads(self) -> list[str]:
        """The files that were downloaded, in any order."""
        return sorted(path.split(f"/{COMMIT}/")[-1] for path in self.asked if path.startswith("GET /storage/"))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(f"{request.command} {path}")
        status, headers, content = (self.status, {}, b"") if self.status else self._find(request.command, path, body)
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            with contextlib.suppress(BrokenPipeError):
                request.wfile.write(content)

    def _find(self, command: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if command == "POST":
            return self._write(path, body)
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path):
            name, kind, revision = api.groups()
            if refusal := self._refusal(name, revision or "main"):
                return refusal
            files = self.repositories[name]
            if kind == "tree":
                return self._json([_entry(path, content) for path, content in files.items()])
            siblings = [{"rfilename": path} for path in files]
            return self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})
        name, _, rest = path.removeprefix("/storage").strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if refusal := self._refusal(name, revision):
            return refusal
        content = self.repositories[name].get(file)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if path.startswith("/storage"):
            return 200, tag, content
        large = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": tag["ETag"]}
        return 302, {**tag, **large, "Location": f"{self.address}/storage{path}"}, b""

    def _write(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The requests of an upload of small files: create, say which are large, commit."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return self._json({"url": f"{self.address}/{name}", "name": name})
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._json({"files": [{**file, "shouldIgnore": False} for file in files]})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.address}/{name}/commit/{COMMIT}"
        return self._json(
            {"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": "", "pullRequestUrl": ""}
        )

    def _refusal(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes] | None:
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return None

    def _json(self, content: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
