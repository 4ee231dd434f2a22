"""The pictures of a report: plots (PNG and SVG) and sheets of frames (PNG)."""

from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from biflow.evaluation.report.runs import ENDS, Group, Run, distances
from biflow.evaluation.schemas import Distance
from biflow.evaluation.videos import read_video
from biflow.methods import METHODS
from biflow.video import contact_sheet

BLUES = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")  # noise levels: the darker, the more noise, as in the paper
OTHERS = ("#b5651d", "#17a2b8", "#c05299", "#7f7f00", "#9467bd", "#000000")  # further runs at the same level
COLOURS = ("#2a9d5c", "#d1495b", "#8d5fb0", "#e08e0b", "#6c757d")  # methods without a noise level


def draw(group: Group, out: Path) -> list[Path]:
    """Write all pictures of a group to `out` and return the SVG files of its plots.

    `scatter_*`, `time_*` and `measures_*` are plots. `methods_*` shows each run's frames over time (Fig. 4),
    `last_*` the last frames of many videos of each, and `directions_*` backward, first frame, forward (Fig. 5).
    """
    pairs = group.directions()
    levels = [backward.eps.split()[0] for backward, _ in pairs]
    for number, (level, (backward, forward)) in enumerate(zip(levels, pairs, strict=True)):
        name = level if levels.count(level) == 1 else f"{level}_{number}"
        directions_sheet(backward, forward, out / f"directions_{group.name}_{name}.png")
    if group.pictured:
        methods_sheet(group.pictured, out / f"methods_{group.name}.png")
        ends_sheet(group.pictured, out / f"last_{group.name}.png")
    if not group.forward:
        return []
    plots = {"scatter": scatter(group), "time": over_time(group.forward), "measures": measures(group.forward)}
    return [_save(plot, out / f"{name}_{group.name}.svg") for name, plot in plots.items()]


def colours(runs: list[Run]) -> dict[str, str]:
    """A colour for each label: shades of blue for noise levels, and one colour for each method without."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    levels = sorted({run.level for run in runs if run.method.takes_eps})
    blue = LinearSegmentedColormap.from_list("levels", BLUES)
    shades = [to_hex(blue(place)) for place in np.linspace(0, 1, max(len(levels), 2))]
    others = [name for name, method in METHODS.items() if not method.takes_eps]
    others += [run.method.name for run in runs if not run.method.takes_eps]
    of_method = dict(zip(dict.fromkeys(others), cycle(COLOURS), strict=False))
    of_level = dict(zip(levels, shades, strict=False))
    spare, found = cycle(OTHERS), {}
    for run in runs:
        colour = of_level[run.level] if run.method.takes_eps else of_method[run.method.name]
        found[run.label] = next(spare) if colour in found.values() else colour
    return found


def scatter(group: Group):
    """FVD against NFE per frame. The Pareto front of the noise levels is dotted; the best one is a star."""
    figure, (axes,) = _figure((5.2, 3.8))
    runs, colour = group.forward, colours(group.forward)
    if front := pareto([(run.nfe, run.fvd) for run in runs if run.method.takes_eps]):
        axes.plot(*zip(*front, strict=True), ":", color=BLUES[2], zorder=1)
    for run in runs:
        x, y = run.nfe, run.fvd
        low, high = run.metrics["fvd"]["interval"]
        error = [[max(0.0, y - low)], [max(0.0, high - y)]]
        axes.errorbar(x, y, yerr=error, color=colour[run.label], alpha=0.5, capsize=2, zorder=2)
        marker, size = ("*", 180) if run is group.best else ("o", 46)
        axes.scatter(x, y, color=colour[run.label], marker=marker, s=size, label=_plain(run.label), zorder=3)
    axes.set(xlabel="network evaluations per frame", ylabel="FVD, mean over time")
    axes.set_xlim(0, 1.08 * max(run.nfe for run in runs))
    return figure


def over_time(runs: list[Run]):
    """Each distance that all runs have, such as FVD, window by window, with its intervals and its trend line."""
    names = [name for name in distances(runs[0].metrics) if all(name in run.metrics for run in runs)]
    figure, panels = _figure((4.4 * len(names), 3.8), len(names))
    colour = colours(runs)
    for axes, name in zip(panels, names, strict=True):
        for run in runs:
            _trend(axes, run, distances(run.metrics)[name], colour[run.label])
        axes.set(xlabel="frame", ylabel=name.upper())
    return figure


def _trend(axes, run: Run, distance: Distance, colour: str) -> None:
    """A distance of each window at its middle frame, with its interval and, of several windows, the trend line."""
    window = run.settings["window"]
    middle = np.arange(0, run.settings["frames"] - window + 1, run.settings["stride"]) + window / 2
    low, high = np.array(distance["per_window_intervals"]).T
    points = {} if run.slope is not None else {"label": _plain(run.label)}
    axes.plot(middle, distance["per_window"], "o", ms=3, color=colour, **points)
    if run.slope is None:
        axes.vlines(middle, low, high, color=colour, alpha=0.5)
        return
    axes.fill_between(middle, low, high, color=colour, alpha=0.12, linewidth=0)
    trend = distance["mean"] + distance["slope"] * (middle - middle.mean())
    axes.plot(middle, trend, color=colour, label=_plain(run.label))


def measures(runs: list[Run]):
    """The measures of frames (motion, saturation, …) over time, and their mean in real videos (dashed)."""
    # Not all runs have each: only models that learn noise have a drift.
    names = list(dict.fromkeys(name for run in runs for name in run.metrics["over_time"]))
    figure, panels = _figure((10.4, 2.6), len(names))
    colour = colours(runs)
    for panel, name in zip(panels, names, strict=True):
        having = [run for run in runs if name in run.metrics["over_time"]]
        for run in having:
            values = run.metrics["over_time"][name]
            panel.plot(values["frames"], values["generated"], color=colour[run.label], lw=1, label=_plain(run.label))
        for real in {run.metrics["over_time"][name]["real"] for run in having}:  # several, of the grid of other patches
            panel.axhline(real, ls="--", color="grey", lw=1)
        panel.set_title(_plain(name.replace("_", " ")), fontsize=9)
        panel.set_xlabel("frame", fontsize=9)
    return figure


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both coordinates, from left to right."""
    front = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def methods_sheet(runs: list[Run], path: Path) -> None:
    """Fig. 4: five frames of each run's first video, uniformly over time."""
    times = np.linspace(0, runs[0].settings["frames"] - 1, 5).round().astype(int).tolist()
    rows = [list(read_video(run.folder, 0)[times]) for run in runs]
    caption = f"Frames {', '.join(str(t + 1) for t in times)} after the first frame."
    contact_sheet(rows, path, caption, [_ascii(run.label) for run in runs])


def ends_sheet(runs: list[Run], path: Path) -> None:
    """The last frame of each run's first videos."""
    rows = [
        [read_video(run.folder, i)[-1].clone() for i in range(min(ENDS, run.settings["samples"]))]  # not whole videos
        for run in runs
    ]
    caption = f"Frame {runs[0].settings['frames']} after the first frame, of {len(rows[0])} videos."
    contact_sheet(rows, path, caption, [_ascii(run.label) for run in runs], scale=1, gap=2)


def directions_sheet(backward: Run, forward: Run, path: Path) -> None:
    """Fig. 5: backward | first frame | forward."""
    first = torch.from_numpy(np.load(forward.folder / "first.npy", allow_pickle=False))
    times = np.linspace(0, forward.settings["frames"] - 1, 4).round().astype(int).tolist()
    rows = [
        [*read_video(backward.folder, i)[times].flip(0), first[i], *read_video(forward.folder, i)[times]]
        for i in range(min(4, forward.settings["samples"]))
    ]
    shown = [*(f"-{t + 1}" for t in reversed(times)), "first", *(f"+{t + 1}" for t in times)]
    contact_sheet(rows, path, f"{_ascii(forward.label)}. Backward, first frame, forward: {', '.join(shown)}.")


def _ascii(label: str) -> str:
    """The label without the one letter that the font of contact sheets lacks."""
    return label.replace("ε", "eps")


def _plain(label: str) -> str:
    """The label as Matplotlib shows it, for which $ begins a formula."""
    return label.replace("$", r"\$")


def _figure(size: tuple[float, float], panels: int = 1):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")  # not pyplot, which needs a display and keeps global state
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _save(figure, path: Path) -> Path:
    for axes in figure.axes:
        axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))  # kernel distances can be negative
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    fullest = max(figure.axes, key=lambda axes: len(axes.get_legend_handles_labels()[1]))  # not all have every run
    if len(figure.axes) == 1:
        fullest.legend(fontsize=8, frameon=False)
    else:
        handles, labels = fullest.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), fontsize=8, frameon=False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=140)
    return path
