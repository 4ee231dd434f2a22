"""The folder that any web server can serve: the live page, the model, and a worker in place of the server."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from biflow.config import SOLVERS
from biflow.engines.onnx import Precision, write_small
from biflow.engines.queries import example
from biflow.errors import UserError
from biflow.files import check_nothing_else, replacing
from biflow.model import Model
from biflow.moments import Moments
from biflow.paths import present
from biflow.serve import images
from biflow.serve.controls import initial
from biflow.serve.hello import hello
from biflow.serve.models import Served
from biflow.serve.steering import description
from biflow.tableaus import TABLEAUS
from biflow.video import to_float
from biflow.web import runtime

HERE = Path(__file__).parent
PAGE = HERE.parent / "serve" / "page"
STEPS = 4  # per frame, to begin with, where they would be adaptive
FIXED = tuple(name for name in SOLVERS if name == "adams" or name in TABLEAUS)
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
# What differs from the page of a server; each is there once.
CHANGES = {
    '<script src="main.js" type="module"></script>': '<script src="start.js" defer></script>',
    '<meta charset="utf-8">': '<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    '<meta name="worker" content="worker/worker.js">',
    '<p id="note" role="status">Connecting…</p>': '<p id="note" role="status">Starting…</p>'
    '<noscript><p class="hint">This page needs JavaScript.</p></noscript>',
    "<span>Connecting…</span>": "<span>Starting…</span>",
    "{{base}}": "",
}
compressed = partial(gzip.compress, compresslevel=9, mtime=0)


class Built(NamedTuple):
    """What was written.

    precision: of the weights.
    error: rms of the worst frame of a short stream against PyTorch's, in [-1, 1].
    bytes: of all files.
    served: of all files, as a server that compresses them sends them.
    """

    precision: Precision
    error: float
    bytes: int
    served: int


def build(served: Served, out: Path) -> Built:
    """Write the folder, whole or not at all.

    Raises:
        UserError: a method that the worker does not know, no onnxruntime-web to be had, or other files in `out`.
    """
    model, first = served.model, served.first
    check_method(model)
    names = [name for files in runtime.RUNTIMES.values() for name in files]
    programs = runtime.read(*names)
    with replacing(out) as folder:
        shutil.copytree(PAGE, folder)
        shutil.copytree(HERE / "worker", folder / "worker")
        shutil.copy(HERE / "start.js", folder)
        _write(folder / "index.html", _index((PAGE / "index.html").read_text("utf-8")).encode())
        _write(folder / "preview.png", images.preview(first[:, -1]))
        for name, content in zip(names, programs, strict=True):
            place = folder / "onnxruntime" / name
            if name.endswith(".wasm"):
                _write(place.with_name(f"{name}.gz"), compressed(content))
            else:
                _write(place, content)
        shutil.copy(runtime.LICENCE, folder / "onnxruntime" / "LICENSE")
        check_nothing_else(out, {*(path.name for path in folder.iterdir()), "model", "sw.js"})
        precision, error = _write_model(served, folder / "model")
        version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_files(folder)))).hexdigest()[:12]
        _write(folder / "sw.js", (HERE / "sw.js").read_text("utf-8").replace("{{version}}", version).encode())
        contents = {path: path.read_bytes() for path in _files(folder)}
        size = sum(map(len, contents.values()))
        sent = sum(min(len(content), len(compressed(content))) for content in contents.values())
    return Built(precision, error, size, sent)


def check_method(model: Model) -> None:
    """Raise UserError for a method that the worker cannot solve frames by."""
    known = re.findall(r"^  (\w+): \{$", (HERE / "worker" / "methods.js").read_text("utf-8"), re.MULTILINE)
    if model.method.name not in known:
        raise UserError(f"{model.method.title} does not stream in the browser; these do: {', '.join(known)}.")


def of_frames(model: Model) -> dict:
    """What the worker has to know of a model to solve a frame, beside its network."""
    return {
        "method": model.method.name,
        "size": model.size,
        "context": model.context,
        "context_eps": model.context_eps,
        "spin": model.spin,
        "limits": model.limits,
        "actions": description(model.actions) if model.actions else None,
        "tableaus": {name: {**asdict(tableau), "fsal": tableau.fsal} for name, tableau in TABLEAUS.items()},
    }


def _write_model(served: Served, folder: Path) -> tuple[Precision, float]:
    """The network, first frames and what the worker has to know, in a folder `model`."""
    folder.mkdir()
    model, first = served.model, served.first
    plain = folder / "network.onnx"
    start = first[:2] if len(first) else torch.full((1, 1, 3, *model.size), 128, dtype=torch.uint8)
    precision, error = write_small(model, plain, to_float(start))
    _write(folder / "network.onnx.gz", compressed(plain.read_bytes()))
    plain.unlink()
    _write(folder / "first.bin", first.numpy().tobytes())
    for path in model.folder.glob("*") if model.folder else ():
        if re.match("NOTICE|LICEN[CS]E", path.name):
            shutil.copy(path, folder)
    content = {
        **of_frames(model),
        "inputs": {key: list(value.shape[1:]) for key, value in present(example(model)).items()},
        "first": list(first.shape[:2]),
        "moments": packed(served.moments) if served.moments else None,
        "runtimes": {kind: _files_of(folder.parent, names) for kind, names in runtime.RUNTIMES.items()},
    }
    _write(folder / "model.json", json.dumps(content).encode())
    _write(folder / "hello.json", json.dumps(page_hello(served)).encode())
    return precision, error


def packed(moments: Moments) -> dict:
    """Moments as the worker reads them: bytes of pictures and float32 of actions in base64."""
    arrays = {"pictures": moments.pictures.byte().numpy(), "rows": moments.rows.astype("<f4")}
    text = {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}
    return {**text, "actions": moments.rows.shape[1]}


def _files_of(site: Path, names: runtime.Runtime) -> dict:
    """Where a runtime's files are, and the bytes that a page loads with it before it starts."""
    binary = f"onnxruntime/{names.binary}.gz"
    loaded = (binary, "model/network.onnx.gz", "model/first.bin")
    size = sum((site / path).stat().st_size for path in loaded)
    return {"module": f"onnxruntime/{names.module}", "binary": binary, "bytes": size}


def page_hello(served: Served) -> dict:
    """The first message to the page, without frames to start from, which the session adds."""
    message = hello([served])
    for entry in message["models"]:
        entry["can"]["in_between"] = False
    controls = asdict(initial({served.name: served})) | {"format": "bmp"}
    controls["steps"] = controls["steps"] or STEPS
    own = {"session": None, "new": False, "recording": False, "viewer": 1, "version": 0, "controls": controls}
    fixed = {"offers": ["record"], "solvers": FIXED, "need_steps": FIXED, "no_steps": [], "formats": ["bmp"]}
    return message | own | fixed


def _index(page: str) -> str:
    for old, new in CHANGES.items():
        assert page.count(old) == 1, f"the page has changed: {old}"
        page = page.replace(old, new)
    return page


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
