"""The whole method in two dimensions: a frame is a point in the plane, a video a point that walks around a moon.

    python examples/01_two_moons.py    # under a minute on a CPU; writes out/two_moons.png

It trains FLOW and BI-FLOW alike, streams held-out videos with both, forward and backward, prints how far the frames
stray from the moons, and draws what Fig. 2 of Liu & Ritschel, *Generative Video Bi-flow* (ICCV 2025), sketches. A flow
between frames never saw a point beside the moons, so nothing takes it back after an error. BI-FLOW also learned to
remove noise, which does. (Solved backward, FLOW undoes itself: what pushes off the moons in one direction pulls towards
them in the other. Removing noise pulls in both.) Everything but the points and the tiny network is the library's own.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Literal

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from biflow import Fields, Method, Model, Query, Solver, TrainConfig, bilinear, generate, sample_generators
from biflow.methods import BIFLOW, FLOW

PERIOD = 24  # frames in which a point walks around its moon
EPS = 0.1  # noise added to a frame before the next is solved, in BI-FLOW's streaming


def moon(which: Tensor, phase: Tensor) -> Tensor:
    """Points (..., 2) at a phase (one turn: 1) of moon 0 or 1, each the closed outline of a crescent."""
    angle = math.pi / 2 * (1 + torch.cos(2 * math.pi * phase))
    radius = 2 + 0.8 * torch.sin(2 * math.pi * phase)
    x = torch.stack([radius * torch.cos(angle) + 1, radius * torch.sin(angle) + 0.4], -1)
    return torch.where(which[..., None] == 0, x, -x)  # the second is the first, turned by half a turn


def videos(count: int, generator: torch.Generator) -> Tensor:
    """Videos (count, PERIOD, 2), half of them on each moon, from random phases on."""
    phase = torch.rand(count, 1, generator=generator) + torch.arange(PERIOD) / PERIOD
    return moon(torch.arange(count)[:, None] % 2, phase)


class Network(nn.Module):
    """From a query to f^v and f^n: what `biflow.VideoUNet` is to images. 10,000 weights."""

    def __init__(self, width: int = 64):
        super().__init__()
        hidden = [m for size in (16, width, width) for m in (nn.Linear(size, width), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 4))

    def forward(self, query: Query) -> Fields:
        x, t = query.x, query.t
        assert t is not None
        alpha = torch.zeros_like(t) if query.alpha is None else query.alpha  # FLOW knows no noise
        waves = torch.cat([x / 2, x, 2 * x], 1)
        numbers = torch.stack([t, (alpha + 0.02).log()], 1)
        return Fields(*self.layers(torch.cat([x, waves.sin(), waves.cos(), numbers], 1)).chunk(2, 1))


def train(method: Method, clips: Tensor, steps: int, seed: int) -> Model:
    """One loop for both: only the loss differs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the network's weights, which torch draws without a generator
        network = Network()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps, pct_start=0.05)
    config, batch = TrainConfig(), 256  # the paper's objective
    for _ in range(steps):
        video = torch.randint(len(clips), (batch,), generator=generator)
        frame = torch.randint(PERIOD - 1, (batch,), generator=generator)
        pairs = torch.stack([clips[video, frame], clips[video, frame + 1]], 1)  # a frame and its next, from P(X0, X1)
        # FLOW: Eq. (3), from a frame to the next. BI-FLOW: Eq. (5), that off the lines too, and back to them.
        terms = method.loss(network, pairs, generator, config).terms
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum(0).mean().backward()
        optimizer.step()
        schedule.step()
    return Model(network, method, shape=(2,), limits=None)


def stream(model: Model, first: Tensor, frames: int, eps: float, direction: Literal["forward", "backward"]) -> Tensor:
    """(b, frames + 1, 2): `first`, then each frame solved from the one before, Eq. (9); eps = 0 is Eq. (7)."""
    solver, generators = Solver("heun", steps=2), sample_generators(1, range(len(first)))
    settings = {"eps": eps, "direction": direction, "solver": solver, "generators": generators}
    return torch.cat([first[:, None], generate(model, first, frames=frames, **settings)], 1)


def distance(x: Tensor) -> Tensor:
    """From points (..., 2) to the nearer moon."""
    outline = moon(torch.tensor([[0], [1]]), torch.linspace(0, 1, 500)).flatten(0, 1)
    return torch.cdist(x.flatten(0, -2), outline).amin(-1).reshape(x.shape[:-1])


@torch.no_grad()
def draw(out: Path, flow: Model, biflow: Model, clips: Tensor, streams: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Top row: Fig. 2 of the paper with learned fields. Bottom row: what they do over many frames."""
    gray, blue, red, orange = "#d9d9d9", "#1f6fb4", "#d1342b", "#e07b00"
    plt.rcParams.update({"font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left"})
    fig, axes = plt.subplot_mosaic("abcd;efgg", figsize=(17, 8.4), layout="constrained")
    generator = torch.Generator().manual_seed(2)
    outline = moon(torch.tensor([[0], [1]]), torch.linspace(0, 1, 200))
    for name in "abef":
        axes[name].set(xlim=(-4.4, 4.4), ylim=(-4.4, 4.4))
        for one in outline:
            axes[name].plot(*one.T, color="0.7", lw=5 if name in "ef" else 1.2, zorder=0)
    for name in "abcdef":
        axes[name].set(xticks=[], yticks=[], aspect="equal")

    axes["a"].set_title("a)  Flow matching, Eq. (1): noise to frame")
    pairs = torch.stack([torch.randn(60, 2, generator=generator), clips[:60, 0]], 1)  # no two belong together
    axes["a"].plot(*pairs.permute(2, 1, 0), color=blue, lw=0.7, alpha=0.4)
    axes["a"].scatter(*pairs[:, 0].T, s=16, color="w", edgecolor="0.4", zorder=2, label="noise")
    axes["a"].scatter(*pairs[:, 1].T, s=16, color="k", zorder=3, label="a random frame")
    axes["a"].legend(loc="upper left", frameon=False)

    # Four frames in a row on the outside of a moon, and the window around them that c) and d) show.
    frames = moon(torch.zeros(4), 0.19 + torch.arange(4) / PERIOD)
    middle = frames.mean(0) - torch.tensor([0.0, 0.4])
    (left, low), (right, high) = (middle - 1.75).tolist(), (middle + 1.75).tolist()
    axes["b"].set_title(f"b)  Videos: a point walks a moon in {PERIOD} frames")
    axes["b"].scatter(*clips[:2].flatten(0, 1).T, s=16, color="0.6", zorder=2)
    axes["b"].add_patch(plt.Rectangle((left, low), 3.5, 3.5, fill=False, ls=":", color="0.4"))
    axes["b"].annotate("c, d", (right, high), (5, -11), textcoords="offset points", color="0.4")

    x0, x1 = clips[:, :-1].repeat(4, 1, 1).flatten(0, 1), clips[:, 1:].repeat(4, 1, 1).flatten(0, 1)
    t, alpha = torch.rand(2, len(x0), generator=generator)
    seen = {
        "c": bilinear(x0, x1, x0, t, 0 * t),
        "d": bilinear(x0, x1, torch.randn(x0.shape, generator=generator), t, alpha),
    }
    for name, points in seen.items():
        axes[name].set(xlim=(left, right), ylim=(low, high))
        axes[name].scatter(*points.T, s=20, color=gray, lw=0, zorder=0)  # where training asked for the field
    for name in "bcd":
        axes[name].plot(*frames.T, "ko-", ms=4 if name == "b" else 7, lw=1.5, zorder=4)
    for name in "cd":
        for i, (x, y) in enumerate(frames.tolist()):
            axes[name].annotate(
                f"$x^{i}$", (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=14, zorder=7
            )

    # c: f^v on the lines, and beside them, where it was never trained
    a, b = frames[:-1].repeat_interleave(2, 0), frames[1:].repeat_interleave(2, 0)
    t = torch.tensor([0.25, 0.75]).repeat(3)
    side = (b - a).flip(1) * torch.tensor([-1.0, 1.0]) / (b - a).norm(dim=1, keepdim=True)
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.007, "zorder": 5}
    for offset in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
        x = bilinear(a, b, side, t, torch.full_like(t, offset))
        v = 0.4 * flow.network(Query(x, t)).v
        axes["c"].quiver(*x.T, *v.T, color=blue, alpha=0.35 if offset else 1, **arrows)
    axes["c"].plot([], [], color=blue, lw=2.5, label="$f^v$ (pale: never trained)")
    axes["c"].set_title("c)  FLOW: frame to frame, Eq. (3)")
    # d: at noised points of the lines, f^v forward and -alpha f^n back to the line
    n = side * torch.tensor([1.4, -1.0, 1.5, -1.0, 1.2, -0.8])[:, None] + 0.2 * (b - a)
    alpha = torch.full_like(t, 0.4)
    x = bilinear(a, b, n, t, alpha)
    v_hat, n_hat = biflow.network(Query(x, t, alpha))
    assert n_hat is not None
    axes["d"].scatter(*x.T, s=30, color="w", edgecolor="k", zorder=6)
    axes["d"].quiver(*x.T, *(0.6 * v_hat).T, color=blue, **arrows, label="$f^v$, forward")
    axes["d"].quiver(*x.T, *(-alpha[:, None] * n_hat).T, color=red, **arrows, label=r"$-\alpha f^n$, denoise")
    axes["d"].legend(loc="lower left", framealpha=0.9)
    axes["c"].scatter([], [], s=60, color=gray, label="seen in training")
    axes["c"].legend(loc="lower left", framealpha=0.9)
    axes["d"].set_title("d)  BI-FLOW: and back from noise, Eq. (5)")

    shown = 150
    for name, run, color in (("e", "FLOW", orange), ("f", f"BI-FLOW, eps {EPS:g}", blue)):
        for video in streams[run][0][:2, : shown + 1]:
            axes[name].plot(*video.T, "o-", color=color, ms=2.5, lw=0.7, alpha=0.8)
            axes[name].plot(*video[0], "o", color="k", ms=7, zorder=5)
        axes[name].set_title(f"{name})  {run}: {shown} frames, twice")
    colors = dict(zip(streams, (orange, "#8ab8dc", blue, "#0b2f57"), strict=True))
    for run, both in streams.items():
        for x, style in zip(both, ("-", ":"), strict=True):
            axes["g"].semilogy(
                distance(x).mean(0)[1:], style, color=colors[run], lw=1.8, label=run if style == "-" else None
            )
    axes["g"].plot([], [], "k:", label="streamed backward in time")
    axes["g"].set_title("g)  Distance from the moons, mean of 32 held-out videos")
    axes["g"].set(xlabel="frame", xlim=(0, len(streams["FLOW"][0][0])), ylim=(2e-3, None))
    axes["g"].legend(ncols=2, frameon=False)
    axes["g"].spines[["top", "right"]].set_visible(False)
    fig.savefig(out, dpi=110)
    plt.close(fig)


def main(args: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Returns what it prints: each run's mean distance from the moons at the end, forward and backward in time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/two_moons.png"))
    parser.add_argument("--steps", type=int, default=2500, help="of training")
    parser.add_argument("--frames", type=int, default=300, help="to stream")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(args)
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed)
    clips, held_out = videos(400, generator), videos(32, generator)
    flow, biflow = (train(method, clips, options.steps, options.seed) for method in (FLOW, BIFLOW))
    print(f"Distance from the moons over the last 50 of {options.frames} frames (from frame to frame it is 0.56):")
    runs = {"FLOW": (flow, 0.0)} | {f"BI-FLOW, eps {eps:g}": (biflow, eps) for eps in (0.0, EPS, 2 * EPS)}
    streams, ends = {}, {}
    for run, (model, eps) in runs.items():
        first = held_out[:, 0]
        both = (
            stream(model, first, options.frames, eps, "forward"),
            stream(model, first, options.frames, eps, "backward"),
        )
        streams[run] = both
        ends[run] = tuple(distance(x[:, -50:]).mean().item() for x in both)
        print(f"  {run:16} forward {ends[run][0]:7.3f}   backward {ends[run][1]:7.3f}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(options.out, flow, biflow, clips, streams)
    print(f"{options.out}, after {time.perf_counter() - begun:.0f} s")
    return ends


if __name__ == "__main__":
    main()
