"""The tables of a report, in Markdown and CSV. section.md and paper.md are the templates of the Markdown."""

import csv
import io
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from biflow.evaluation.report.runs import Group, Run

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Liu & Ritschel 2025, by set and method: FVD and steps of Table 1, FVD with 20 Euler steps of Table 2.
PAPER: dict[str, dict[str, list[float]]] = json.loads((FOLDER / "paper.json").read_text())
COLUMNS = (
    "data method eps direction solver steps protocol model_sha256 fvd fvd_low fvd_high fvd_slope "
    "kvd kvd_low kvd_high kvd_slope nfe nfe_p95 seconds_per_frame"
)


def markdown(plots: list[tuple[Group, list[Path]]]) -> str:
    """All tables and plots: the `section` of each group, and the paper's numbers."""
    parts = ["# Evaluation"]
    for group, paths in plots:
        parts += [section(group), *(f"![{path.stem}]({path.with_suffix('.png').name})" for path in paths)]
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
    writer.writerow(COLUMNS.split())
    for run in runs:
        settings, metrics, solver = run.settings, run.metrics, run.settings["solver"]
        row = [run.data, run.method.title, settings["eps"], settings["direction"], solver["method"], solver["steps"]]
        row += [settings["name"], run.protocol["model"]["sha256"]]
        for distance in (metrics["fvd"], metrics["kvd"]):
            row += [distance["mean"], *distance["interval"], distance["slope"]]
        writer.writerow([*row, metrics["nfe"]["mean"], metrics["nfe"]["p95"], metrics["seconds_per_frame"]])
    return text.getvalue()
