"""The numbers in tables of the docs are those of the committed results, rounded to the digits that are shown."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "docs" / "results" / "tables"


def table(page: str, heading: str, number: int = 0) -> list[tuple[str, str]]:
    """The rows of a table below a heading of a page, each as its first cell and the others."""
    text = (ROOT / page).read_text().split(f"\n## {heading}\n")[1]
    lines = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)[number].splitlines()[2:]
    return [(label.strip(" *"), cells) for label, _, cells in (line.strip("|").partition("|") for line in lines)]


def check(cells: str, values: list[float]) -> None:
    """Fail unless these are the numbers in the cells."""
    shown = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", cells))
    assert shown == [f"{value:.{len(text.partition('.')[2])}f}" for text, value in zip(shown, values, strict=True)]


def rows_of(name: str) -> list[dict]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]


def with_interval(distance: dict) -> list[float]:
    return [distance["mean"], *distance["interval"]]


def metrics_path(label: str) -> Path:
    """The file of a row such as "maze, BI-FLOW ε 0.2"."""
    data, method, *direction = label.replace(" ε ", "_").split(", ")
    return TABLES / f"metrics_{'_'.join([data, method.lower().replace('-', ''), *direction])}.json"


def test_the_papers_methods_on_three_sets():
    rows = table("docs/evaluation.md", "With the paper's noise levels")
    assert sorted(metrics_path(label) for label, _ in rows) == sorted(TABLES.glob("metrics_*.json"))
    for label, cells in rows:
        metrics = json.loads(metrics_path(label).read_text())
        fvd, kvd, fid = (metrics[name] for name in ("fvd", "kvd", "fid"))
        slope = [fvd["slope"], *fvd["slope_interval"]]
        check(cells, [*with_interval(fvd), *slope, *with_interval(kvd), *with_interval(fid), metrics["nfe"]["mean"]])


def test_the_papers_methods_in_the_readme():
    for label, cells in table("README.md", "How good are the videos?"):
        row = f"maze, {label}".replace(", noise level ", " ε ").partition(":")[0]
        metrics = json.loads(metrics_path(row).read_text())
        slope = [metrics["fvd"]["slope"], *metrics["fvd"]["slope_interval"]]
        distances = [*with_interval(metrics["fvd"]), *slope, *with_interval(metrics["kvd"])]
        check(cells, [*distances, metrics["nfe"]["mean"]])


def test_figure_1():
    keys = ("distance", "real", "own", "coverage", "nfe", "wait", "held")
    for (_, cells), row in zip(table("docs/paper.md", "Figure 1 as measurements"), rows_of("figure1"), strict=True):
        check(cells, [row[key] for key in keys if key in row])


def test_short_clips():
    for label, cells in table("docs/paper.md", "Short clips, whole or streamed"):
        name = label.replace(", ε ", "_").lower().replace("-", "")
        metrics = json.loads((ROOT / "docs" / "results" / "clips" / f"metrics_maze_{name}.json").read_text())
        check(cells, [*with_interval(metrics["fvd"]), *with_interval(metrics["kvd"]), metrics["nfe"]["mean"]])


def test_what_a_video_costs_by_its_length():
    for label, cells in table("docs/paper.md", "Figure 1 as measurements", 1):
        rows = [row for row in rows_of("lengths") if row["method"] == label.lower().replace("-", "")]
        seconds = [row["total"] / 1000 for row in rows]
        check(cells, [*(row["wait"] for row in rows), *seconds, *(row["memory"] for row in rows)])


def test_streams_longer_than_the_clips():
    rows = table("docs/paper.md", "Streams longer than the clips of the training")
    for (_, cells), row in zip(rows, rows_of("extrapolation"), strict=True):
        distances = [row["fvd"], *row["fvd_interval"], row["kvd"], *row["kvd_interval"]]
        check(cells, [*distances, row["motion"], row["contrast"]])


def test_frames_in_between():
    rows = rows_of("in_between")
    keys = ("lpips", "psnr", "last_lpips", "nfe")
    for label, cells in table("docs/paper.md", "Frames in between, by the path of training"):
        both = [row for row in rows if row["case"] == label]
        check(cells, [row[key] for row in both for key in keys if "nfe" in row or key in ("lpips", "psnr")])


def test_a_turn():
    parts = ("0.25", "0.5", "0.75", "1")
    for (label, cells), row in zip(table("docs/paper.md", "Two axes"), rows_of("turn_few"), strict=True):
        assert label == row["case"]
        check(cells, [row[f"lpips_{part}"] for part in parts])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_both_ways(direction):
    metrics = json.loads((ROOT / "docs" / "results" / "both_ways" / f"metrics_maze_{direction}.json").read_text())
    fvd, extra = metrics["fvd"], metrics["past_and_actions"]
    ratios = [extra[part]["over_real"] for part in ("motion", "grid")]
    slope = [fvd["slope"], *fvd["slope_interval"]]
    cells = dict(table("docs/paper.md", "Both ways from a frame"))[direction]
    check(cells, [*with_interval(fvd), *with_interval(metrics["kvd"]), *slope, *ratios])


def test_hours():
    for (_, cells), row in zip(table("benchmarks/README.md", "Hours"), rows_of("hours"), strict=True):
        losses = [row[name] for name in ("loss", "v", "n")]
        check(cells, [row["minutes"], row["pairs"], *losses, row["kvd"], *row["interval"]])
