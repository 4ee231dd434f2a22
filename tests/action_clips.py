"""Small clips with actions beside them, and what a prepared set makes of these."""

import io
import json

import numpy as np
from PIL import Image

from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.data.windows import Windows

NAN = float("nan")
STEPS = [[0.0, 0.5], [1.0, -0.5], [1.0, 0.25], [0.0, 0.75]]  # after the frames of a clip of 5


def png(value):
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def images(folder, length=5):
    folder.mkdir(parents=True)
    for i in range(length):
        (folder / f"{i}.png").write_bytes(png(i))


def array(path, length=5):
    np.save(path, np.zeros((length, 8, 8, 3), np.uint8))


def run(src, dst=None, **settings):
    dst = dst or src.parent / "out"
    prepare(Prepare(src, dst, size=8, force=True, **settings), progress=False)
    return Windows(dst, "all")


def rows(windows):
    """The rows of each clip, by name."""
    return {clip["name"]: windows.action_rows(i).tolist() for i, clip in enumerate(windows.clips)}


def same(got, *expected):
    """Whether rows are the expected ones and one of NaN, up to float32."""
    np.testing.assert_allclose(got, [*expected, [NAN] * len(expected[0])], rtol=1e-6)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
