"""How many evaluations does a frame take, and how far off is it, for each solver?

    python -m benchmarks.solvers [MODEL ...] [--eps 0 0.1 0.2 0.3] [--json FILE] [--plot FILE.png]

Each model streams a few frames by Dormand-Prince at 1e-5: these are the truth. Every solver then solves each frame from
the true start of that frame, one frame after the other, so that it may use what it learnt from the frames before.
Deviation is the rms over all pixels before clamping, in [-1, 1] units (a grey level is 0.0078). NFE is each sample's
own; torchode counts a batch's slowest sample, so "reference" is our exact twin of it (tests/test_reference_parity.py).
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import record, reference_pipeline
from biflow import (
    Method,
    Solver,
    first_frames,
    load_model,
    sample_generators,
    shipped_model,
    solve,
    to_float,
    with_engine,
)
from biflow.paths import Network

TRUTH = Solver("dopri5", rtol=1e-5, atol=1e-5, max_nfe=10_000)
FIXED = [("euler", 1), ("euler", 4), ("midpoint", 1), ("midpoint", 2), ("heun", 2), ("rk4", 1), ("bosh3", 2)]
SOLVERS = {
    "reference": Solver("heun", reference=True),
    **{f"{name} adaptive": Solver(name) for name in ("heun", "midpoint", "bosh3", "dopri5", "adams")},
    **{f"{name} x{steps}": Solver(name, steps=steps) for name, steps in FIXED},
    **{f"adams x{steps}": Solver("adams", steps=steps) for steps in (2, 3, 4, 6)},
}

MARKERS = {"reference": "D", "adams": "o", "midpoint": "s", "heun": "^"}
MARKERS |= {"bosh3": "v", "dopri5": "P", "rk4": "X", "euler": "."}
COLOURS = {"adams": "tab:red", "reference": "black"}  # all others grey


def field(method: Method, network: Network, eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """f(x, k, condition) → dx/dk. The condition is an argument, since samples leave the batch as they finish."""
    return lambda x, k, condition: reference_pipeline.field(method, network, eps, condition)(x, k)


def exact_frames(
    method: Method, network: Network, eps: float, frame: Tensor, frames: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(last frame, start of the solve, its true end) of each frame of a stream that is solved to the truth."""
    generators = sample_generators(0, range(len(frame)))
    for _ in range(frames):
        x = reference_pipeline.start(method, frame, eps, generators)
        end = solve(field(method, network, eps), x, 0.0, 1.0, solver=TRUTH, args=(frame,)).x
        yield frame, x, end
        frame = end.clamp(-1, 1)


def starting_frames(folder: Path, first: Path | None, size: tuple[int, int], samples: int) -> Tensor:
    """The first frames that the model in `folder` brings, in [-1, 1]; those of `first` if it brings none."""
    own = folder / "first"
    return to_float(first_frames(own if own.exists() or first is None else first, size, samples, 0))


def measure(
    folder: Path, eps: float, *, samples: int, frames: int, first: Path | None, names: Iterable[str] = SOLVERS
) -> list[dict]:
    """A row for each of the solvers in `names`: model, method, eps, solver, nfe, rmse, worst."""
    model = with_engine(load_model(folder), rtol=TRUTH.rtol)
    frame = starting_frames(folder, first, model.size, samples)
    network = reference_pipeline.alone(model)
    f = field(model.method, network, eps)
    problems = list(exact_frames(model.method, network, eps, frame, frames))
    rows = []
    for name in names:
        solver = SOLVERS[name]
        nfe, off, step = [], [], None
        for condition, x, end in problems:
            solution = solve(f, x, 0.0, 1.0, solver=solver, args=(condition,), first_step=step)
            step = None if solver.reference else solution.next_step
            nfe.append(solution.nfe.float())
            off.append((solution.x - end).square().mean(dim=(1, 2, 3)).sqrt())
        deviation = torch.stack(off)
        row = {"model": folder.name, "method": model.method.name, "eps": eps, "solver": name}
        row |= {"nfe": round(torch.stack(nfe).mean().item(), 2)}
        row |= {"rmse": round(deviation.square().mean().sqrt().item(), 5), "worst": round(deviation.max().item(), 5)}
        print(
            "{model:10} {method:8} eps {eps:<4} {solver:18} NFE {nfe:6.2f}  rmse {rmse:.5f}".format(**row), flush=True
        )
        rows.append(row)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    """NFE against deviation, a panel for each model and eps."""
    import matplotlib.pyplot as plt

    cases = sorted({(row["model"], row["method"], row["eps"]) for row in rows})
    columns = min(4, len(cases))
    lines = -(-len(cases) // columns)
    size = (3.6 * columns, 3.6 * lines)
    figure, panels = plt.subplots(
        lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for panel in panels.flat[len(cases) :]:
        panel.remove()
    for panel, case in zip(panels.flat, cases, strict=False):
        for row in (row for row in rows if (row["model"], row["method"], row["eps"]) == case):
            name = row["solver"].split()[0]
            colour = COLOURS.get(name, "tab:grey")
            face = "none" if " x" in row["solver"] else colour
            look = {"marker": MARKERS[name], "edgecolors": colour, "facecolors": face, "s": 36}
            panel.scatter(row["nfe"], row["rmse"], gid=row["solver"], **look)
        panel.set(xscale="log", yscale="log", xlabel="evaluations per frame")
        panel.set_title("{}, {}, eps {}".format(*case), fontsize=9)
        panel.grid(alpha=0.3, which="both")
    for name, marker in MARKERS.items():
        figure.gca().scatter([], [], marker=marker, color=COLOURS.get(name, "tab:grey"), label=name)
    figure.legend(
        loc="outside upper center", ncols=len(MARKERS), title="filled: adaptive; hollow: fixed steps", frameon=False
    )
    figure.supylabel("rms deviation from the exact solution")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[shipped_model("racing")])
    parser.add_argument("--eps", nargs="+", type=float, default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--first", type=Path, help="first frames, for models that bring none")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = []
    with torch.inference_mode():
        for folder in options.models:
            levels = options.eps if load_model(folder).method.takes_eps else [0.0]
            for eps in levels:
                rows += measure(folder, eps, samples=options.samples, frames=options.frames, first=options.first)
    record.write(options.json, {"question": "evaluations per frame and deviation, by solver", "rows": rows})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
