"""A report as one HTML file: tables, plots, and the videos playing side by side, with nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from biflow.evaluation.generate import read_video
from biflow.video import VideoWriter

if TYPE_CHECKING:
    from biflow.evaluation.report import Run

SHOWN = 4  # videos of each run
STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
blockquote { margin: 1rem 0; padding: .4rem 1rem; border-left: 3px solid #d80; background: var(--soft); }
.plots, .videos { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.plots img { width: 100%; background: white; border-radius: 6px; }
figure { margin: 0; } figcaption { font-size: .9rem; }
video { width: 100%; image-rendering: pixelated; border-radius: 6px; }
"""
# Videos of different lengths of decoding time would drift apart, and side by side is the point.
SCRIPT = """
const videos = [...document.querySelectorAll("video")];
document.querySelector("#again").onclick = () => videos.forEach(v => { v.currentTime = 0; v.play(); });
"""


def render(sections: list[tuple[str, list[Run], list[Path]]], text: str) -> str:
    """The page: `text` (Markdown tables) as HTML, and for each section its plots and videos."""
    body = [_html(text)]
    for stem, runs, plots in sections:
        if plots:
            images = "".join(f'<img alt="{plot.stem}" src="{_data(plot, "image/svg+xml")}">' for plot in plots)
            body.append(f'<h2>{html.escape(stem)}: plots</h2><div class="plots">{images}</div>')
        figures = "".join(
            f'<figure><video autoplay loop muted playsinline controls src="{_video(run)}"></video>'
            f"<figcaption>{html.escape(run.label)}, FVD {run.metrics['fvd']['mean']:.0f}, "
            f"NFE {run.metrics['nfe']['mean']:.1f}</figcaption></figure>"
            for run in runs
        )
        body.append(f"<h2>{html.escape(stem)}: videos</h2>")
        body.append(
            f'<p>The first {SHOWN} videos of each, from the same given frames.</p><div class="videos">{figures}</div>'
        )
    body.append('<p><button id="again">All videos from the start</button></p>')
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>biflow: evaluation</title><style>{STYLE}</style><main>{''.join(body)}</main>"
        f"<script>{SCRIPT}</script></html>\n"
    )


def _html(text: str) -> str:
    """The little Markdown that our tables use: headings, tables, quotes, emphasis."""
    out, table = [], False
    for line in text.splitlines():
        row = line.startswith("|")
        if table and not row:
            out.append("</table>")
        if row and not set(line) <= set("|-"):
            cells = [_inline(cell.strip()) for cell in line.strip("|").split("|")]
            tag = "td" if table else "th"
            out.append(("" if table else "<table>") + "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells) + "</tr>")
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            out.append(f"<h{level}>{_inline(line[level:].strip())}</h{level}>")
        elif line.startswith("> "):
            out.append(f"<blockquote>{_inline(line[2:])}</blockquote>")
        elif line and not row and not line.startswith("!["):
            out.append(f"<p>{_inline(line)}</p>")
        table = row
    return "\n".join(out)


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _video(run: Run) -> str:
    """The first videos of a run side by side, as an mp4 in a data address."""
    count = min(SHOWN, run.settings["samples"])
    wide = torch.cat([read_video(run.folder, sample) for sample in range(count)], dim=3)
    rate = run.metrics["protocol"]["data"]["fps"] or 25
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        size = (wide.shape[2], wide.shape[3])
        with VideoWriter(path, rate, size, scale=max(1, 512 // size[1]), crf=23) as writer:
            for frame in wide:
                writer.write(frame)
        return _data(path, "video/mp4")
