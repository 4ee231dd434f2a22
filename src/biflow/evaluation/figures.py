"""The charts of a report: FVD against evaluations, FVD against time. Each as PNG and SVG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from biflow.evaluation.report import Run

COLOURS = {"flow": "#2a9d5c", "condiff": "#d1495b"}
BLUES = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")  # BI-FLOW: the darker, the more noise, as in the paper


def colours(runs: list[Run]) -> dict[str, str]:
    """A colour for each label: BI-FLOW's noise levels in shades of blue."""
    levels = sorted({run.settings["eps"] for run in runs if run.method == "biflow"})
    shades = np.linspace(0, len(BLUES) - 1, max(len(levels), 2)).round().astype(int)
    return {
        run.label: BLUES[shades[levels.index(run.settings["eps"])]] if run.method == "biflow" else COLOURS[run.method]
        for run in runs
    }


def scatter(runs: list[Run], star: Run | None, path: Path) -> Path:
    """FVD against NFE a frame; BI-FLOW's noise levels joined, its Pareto front dotted, its best one a star."""
    figure, axes = _axes()
    colour = colours(runs)
    ours = [run for run in runs if run.method == "biflow"]
    front = pareto([_point(run) for run in ours])
    axes.plot(*zip(*front, strict=True), ":", color=BLUES[2], zorder=1) if front else None
    for run in runs:
        x, y = _point(run)
        low, high = run.metrics["fvd"]["interval"]
        error = [[max(0.0, y - low)], [max(0.0, high - y)]]
        axes.errorbar(x, y, yerr=error, color=colour[run.label], alpha=0.5, capsize=2, zorder=2)
        marker, size = ("*", 180) if run is star else ("o", 46)
        axes.scatter(x, y, color=colour[run.label], marker=marker, s=size, label=run.label, zorder=3)
    axes.set(xlabel="network evaluations a frame", ylabel="FVD, mean over time")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return _save(figure, [axes], path)


def over_time(runs: list[Run], path: Path) -> Path:
    """FVD of each window at its middle frame, with its interval and the trend line."""
    figure, axes = _axes()
    colour = colours(runs)
    for run in runs:
        settings, fvd = run.settings, run.metrics["fvd"]
        start = np.arange(0, settings["frames"] - settings["window"] + 1, settings["stride"])
        middle = start + settings["window"] / 2
        low, high = np.array(fvd["per_window_intervals"]).T
        axes.plot(middle, fvd["per_window"], "o", ms=3, color=colour[run.label])
        axes.fill_between(middle, low, high, color=colour[run.label], alpha=0.12, linewidth=0)
        trend = fvd["mean"] + fvd["slope"] * (middle - middle.mean())
        axes.plot(middle, trend, color=colour[run.label], label=run.label)
    axes.set(xlabel="frame", ylabel="FVD")
    axes.set_ylim(bottom=0)
    return _save(figure, [axes], path)


def measures(runs: list[Run], path: Path) -> Path:
    """What was measured of frames (motion, saturation, …) over time, and where real videos are (dashed)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.6), layout="constrained")
    names = list(runs[0].metrics["over_time"])
    panels = figure.subplots(1, len(names))
    colour = colours(runs)
    for panel, name in zip(panels, names, strict=True):
        for run in runs:
            values = run.metrics["over_time"][name]
            panel.plot(values["frames"], values["generated"], color=colour[run.label], lw=1, label=run.label)
        panel.axhline(runs[0].metrics["over_time"][name]["real"], ls="--", color="grey", lw=1)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.set_ylim(bottom=0)
    return _save(figure, panels, path)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points of which no other is as low in both, from left to right."""
    front, lowest = [], math.inf
    for x, y in sorted(points):
        if y < lowest:
            front.append((x, y))
            lowest = y
    return front


def _point(run: Run) -> tuple[float, float]:
    return run.metrics["nfe"]["mean"], run.metrics["fvd"]["mean"]


def _axes():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.8), layout="constrained")  # not pyplot: no window system, no global state
    return figure, figure.add_subplot()


def _save(figure, panels, path: Path) -> Path:
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].legend(fontsize=8, frameon=False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_name(path.name + suffix), dpi=140)
    return path.with_name(path.name + ".svg")
