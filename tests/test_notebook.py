"""A stream in a notebook, of which IPython's display is the part that matters."""

import base64
import io
import re
import sys
import types
from itertools import count, islice

import pytest
import torch
from PIL import Image

from biflow.errors import UserError
from biflow.notebook import show
from biflow.rollout import Frame, drain


@pytest.fixture
def cell(monkeypatch):
    """The content of a cell, one after the other, as a notebook would show it."""
    content = []
    display = types.ModuleType("IPython.display")
    handle = types.SimpleNamespace(update=content.append)
    display.HTML, display.display = str, lambda first, display_id: content.append(first) or handle
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return content


def stream():
    """Grey frames that get brighter; each of two videos."""
    for i in count(1):
        yield Frame(torch.full((2, 3, 8, 8), i / 10 - 1), torch.tensor([1, 1]), float(i))


def picture(html):
    """The image in a cell."""
    found = re.fullmatch(r'<img src="data:image/(\w+);base64,([\w+/=]+)" alt="A stream">', html)
    return Image.open(io.BytesIO(base64.b64decode(found[2])))


@pytest.mark.parametrize("frames", [stream, lambda: drain(stream())], ids=["frames", "shown"])
def test_each_frame_replaces_the_one_before_and_a_moving_picture_stays(frames, cell):
    show(frames(), count=5, fps=100, scale=2)
    assert len(cell) == 1 + 5 + 1
    levels = [picture(html).convert("L").resize((1, 1)).getpixel((0, 0)) for html in cell[1:6]]
    assert levels == pytest.approx([12.75, 25.5, 38.25, 51, 63.75], abs=1)
    assert picture(cell[1]).size == (16, 16)
    last = picture(cell[-1])
    assert (last.format, last.n_frames, last.size) == ("WEBP", 5, (16, 16))


def test_it_keeps_to_the_rate(cell, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("biflow.notebook.time.monotonic", lambda: now[0])
    monkeypatch.setattr("biflow.notebook.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    show(stream(), count=11, fps=10)
    assert now[0] == pytest.approx(1.0)


def test_a_model_without_a_rate_is_shown_at_25_frames_per_second(cell, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("biflow.notebook.time.monotonic", lambda: now[0])
    monkeypatch.setattr("biflow.notebook.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    show(stream(), count=11, fps=None)
    assert now[0] == pytest.approx(10 / 25)
    with pytest.raises(UserError, match="fps is 0, but must be above 0"):
        show(stream(), fps=0)


def test_the_stop_button_ends_the_stream_and_keeps_what_was_shown(cell):
    def interrupted():
        yield from islice(stream(), 3)
        raise KeyboardInterrupt

    show(interrupted(), fps=100)
    assert picture(cell[-1]).n_frames == 3


def test_a_stream_without_frames_leaves_the_cell(cell):
    show(iter(()))
    assert len(cell) == 1


def test_without_ipython_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match="pip install jupyterlab"):
        show(stream())


def test_outside_a_notebook_it_says_so(cell):
    sys.modules["IPython.display"].display = lambda *_, **__: None
    with pytest.raises(UserError, match="this is none"):
        show(stream())
