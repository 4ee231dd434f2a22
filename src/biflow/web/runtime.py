"""onnxruntime-web: the program that evaluates networks in browsers, from the npm registry."""

import tarfile
from pathlib import Path
from typing import NamedTuple

from biflow.downloads import download
from biflow.errors import UserError
from biflow.files import cache_folder, sha256

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"


class Runtime(NamedTuple):
    """The files of a build, in the archive's folder `dist`: what is imported, what that loads, and the program."""

    module: str
    glue: str
    binary: str


# Both have SIMD, and threads where the page may have them. A browser loads one of them. The one for GPUs also has
# WebGPU, and needs JSPI, which lets WebAssembly wait.
RUNTIMES = {
    "cpu": Runtime("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "gpu": Runtime("ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
LICENCE = Path(__file__).parent / "onnxruntime-LICENSE.txt"  # the archive has none


def archive() -> Path:
    """The archive in the cache. It is downloaded if it is not there yet: 33 MB, once.

    Raises:
        UserError: it cannot be downloaded, or what is there is another file.
    """
    path = cache_folder() / "onnxruntime-web" / f"onnxruntime-web-{VERSION}.tgz"
    by_hand = f"To do without a network, put {URL} there as {path}."
    if path.exists():
        if sha256(path) != SHA256:
            raise UserError(f"{path} is not onnxruntime-web {VERSION}: its SHA-256 is not {SHA256}. Remove it.")
        return path
    try:
        download(URL, path, sha256=SHA256, most=1 << 26)
    except UserError as error:
        raise UserError(f"onnxruntime-web {VERSION} (33 MB) is needed once. {error} {by_hand}") from error
    return path


def read(*names: str) -> list[bytes]:
    """Files of the archive. Raises UserError as `archive` does."""
    with tarfile.open(archive()) as file:
        members = [file.extractfile(f"package/dist/{name}") for name in names]
        return [member.read() for member in members if member]
