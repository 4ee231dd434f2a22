"""A report as one HTML file that includes its plots and videos. The template is page.html."""

import base64
import tempfile
from pathlib import Path

import torch
from markupsafe import Markup

from biflow.evaluation.jobs import read_video
from biflow.evaluation.report import tables
from biflow.evaluation.report.runs import Group, Run
from biflow.video import VideoWriter

SHOWN = 4  # videos of each run


def render(plots: list[tuple[Group, list[Path]]]) -> str:
    """The page: for each group its tables, plots (SVG files) and videos, and the paper's numbers at the end."""
    from markdown_it import MarkdownIt

    def html(markdown: str) -> Markup:
        return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))

    template = tables.TEMPLATES.get_template("page.html")
    functions = {"section": lambda group: html(tables.section(group)), "data_url": data_url, "video": video}
    return template.render(plots=plots, shown=SHOWN, paper=html(tables.paper()), **functions)


def data_url(path: Path, kind: str) -> str:
    """A file as a URL that contains it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def video(run: Run) -> str:
    """The first videos of a run side by side, as the URL of an mp4."""
    count = min(SHOWN, run.settings["samples"])
    frames = torch.cat([read_video(run.folder, sample) for sample in range(count)], dim=3)
    size, rate = (frames.shape[2], frames.shape[3]), run.protocol["data"]["fps"] or 25
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, rate, size, scale=max(1, 512 // size[1]), crf=23) as writer:
            for frame in frames:
                writer.write(frame)
        return data_url(path, "video/mp4")
