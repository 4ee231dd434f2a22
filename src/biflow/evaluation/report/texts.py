"""The texts of a report: tables in Markdown and CSV, and a page in HTML that includes its plots and videos.

section.md, paper.md and page.html are their templates.
"""

import base64
import csv
import io
import json
import re
import tempfile
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from biflow.evaluation.report.runs import SHOWN, Group, Run, distances
from biflow.evaluation.videos import read_video
from biflow.video import VideoWriter

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# In Markdown: a label is text, in which "forward*40 left*12" is not emphasis and "|" does not end a cell.
TEMPLATES.filters["plain"] = lambda text: re.sub(r"([\\`*|<\[])", r"\\\1", " ".join(str(text).split()))
# Liu & Ritschel 2025, by set and method: FVD and steps of Table 1, FVD with 20 Euler steps of Table 2.
PAPER: dict[str, dict[str, list[float]]] = json.loads((FOLDER / "paper.json").read_text())
COLUMNS = (
    "data method eps direction solver steps protocol model_sha256 fvd fvd_low fvd_high fvd_slope "
    "fvd_slope_low fvd_slope_high kvd kvd_low kvd_high kvd_slope kvd_slope_low kvd_slope_high "
    "nfe nfe_low nfe_high nfe_p95 nfe_batch_max seconds_per_frame actions engine mean_eps"
)
OF_FRAMES = (  # the last columns
    "fid fid_low fid_high fid_slope fid_slope_low fid_slope_high "
    "kid kid_low kid_high kid_slope kid_slope_low kid_slope_high"
)
TITLE = "# Evaluation"
NONE = (None, None)  # the interval of what an earlier version has measured without
# Of the parts of `past_and_actions`: the columns after these.
PARTS = {
    "control": ("generated", "real", "over_real"),
    "palette": ("generated", "real", "over_real"),
    "turning": ("back", "away"),
    "motion": ("over_real", "last_over_real"),
    "grid": ("over_real", "last_over_real"),
}


def markdown(plots: list[tuple[Group, list[Path]]]) -> str:
    """All tables and plots: the `section` of each group, and the paper's numbers."""
    parts = [TITLE]
    for group, paths in plots:
        parts += [section(group), *(f"![{path.stem}](<{path.with_suffix('.png').name}>)" for path in paths)]
    return "\n\n".join([*parts, paper()]) + "\n"


def section(group: Group) -> str:
    """The tables of a group, with its protocol in words, and the paper's numbers if the data is named like its set."""
    published = next((rows for name, rows in PAPER.items() if name.lower() in group.name.lower()), {})
    return TEMPLATES.get_template("section.md").render(group=group, published=published).strip()


def paper() -> str:
    """The paper's tables."""
    return TEMPLATES.get_template("paper.md").render(paper=PAPER).strip()


def comma_separated(runs: list[Run]) -> str:
    """One line per run with the numbers in the tables and how they were measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    extra = [f"{part}_{name}" for part, names in PARTS.items() for name in names]
    writer.writerow([*COLUMNS.split(), *extra, *OF_FRAMES.split()])
    for run in runs:
        settings, metrics, solver = run.settings, run.metrics, run.settings["solver"]
        row = [run.data, run.method.title, settings["eps"], settings["direction"], solver["method"], solver["steps"]]
        row += [settings["name"], run.protocol["model"]["sha256"]]
        row += [*_distance(run, "fvd"), *_distance(run, "kvd")]
        nfe = metrics["nfe"]
        row += [nfe["mean"], *nfe.get("interval", NONE), nfe["p95"], nfe.get("batch_max")]
        row += [metrics["seconds_per_frame"], settings.get("actions"), run.protocol.get("engine"), run.mean_eps]
        row += [(run.extra.get(part) or {}).get(name) for part, names in PARTS.items() for name in names]
        writer.writerow([*row, *_distance(run, "fid"), *_distance(run, "kid")])
    return text.getvalue()


def _distance(run: Run, name: str) -> list[float | None]:
    """The mean of a distance and its slope, each with the ends of its interval; None for what was not measured."""
    found = distances(run.metrics).get(name)
    if found is None:
        return [None] * 6
    slope = [None] * 3 if run.slope is None else [found["slope"], *found.get("slope_interval", NONE)]
    return [found["mean"], *found["interval"], *slope]


def page(plots: list[tuple[Group, list[Path]]]) -> str:
    """The page: for each group its tables, plots (SVG files) and videos, and the paper's numbers at the end."""
    from markdown_it import MarkdownIt

    def html(markdown: str) -> Markup:
        return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))

    template = TEMPLATES.get_template("page.html")
    functions = {"section": lambda group: html(section(group)), "data_url": data_url, "video": video}
    return template.render(plots=plots, shown=SHOWN, paper=html(paper()), **functions)


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
