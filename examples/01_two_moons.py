"""The whole method in two dimensions: a frame is a point in the plane, a video a point that walks around a moon.

    python examples/01_two_moons.py    # under a minute on a CPU; writes out/two_moons.png

It trains FLOW and BI-FLOW alike, streams held-out videos with both, forward and backward, prints how far the frames
stray from the moons, and draws what Fig. 2 of Liu & Ritschel, *Generative Video Bi-flow* (ICCV 2025), sketches. A flow
between frames never saw a point beside the moons, so that nothing takes it back once it erred; BI-FLOW also learned to
remove noise, which does. Everything but the points and the tiny network is the library's own.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from biflow.objectives import biflow_loss, flow_loss
from biflow.paths import Fields, backward_line, bilinear, field_along, forward_line
from biflow.solvers import Solver, solve

PERIOD = 24  # frames in which a point walks around its moon
EPS = 0.1  # noise added to a frame before the next is solved, in BI-FLOW's streaming


def moon(which: Tensor, phase: Tensor) -> Tensor:
    """Points (..., 2) at a phase (one turn: 1) of moon 0 or 1, each the closed outline of a crescent."""
    angle = math.pi / 2 * (1 + torch.cos(2 * math.pi * phase))
    radius = 2 - 0.8 * torch.sin(2 * math.pi * phase)
    x = torch.stack([radius * torch.cos(angle) - 1, radius * torch.sin(angle) - 0.2], -1)
    return torch.where(which[..., None] == 0, x, -x)  # the second is the first, turned by half a turn


def videos(count: int, generator: torch.Generator) -> Tensor:
    """Videos (count, PERIOD, 2), half of them on each moon, from random phases on."""
    phase = torch.rand(count, 1, generator=generator) + torch.arange(PERIOD) / PERIOD
    return moon(torch.arange(count)[:, None] % 2, phase)


class Network(nn.Module):
    """(x, t, alpha) → f^v, f^n: what `biflow.networks.VideoUNet` is to images. 10,000 weights."""

    def __init__(self, width: int = 64):
        super().__init__()
        sizes = [14, width, width, width]
        layers = [m for i, o in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(i, o), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 4))

    def forward(self, x: Tensor, t: Tensor, alpha: Tensor | None = None) -> Fields:
        alpha = torch.zeros_like(t) if alpha is None else alpha  # FLOW knows no noise
        waves = torch.cat([x / 2, x, 2 * x], 1)
        numbers = torch.stack([t, (alpha + 0.02).log()], 1)
        return Fields(*self.layers(torch.cat([waves.sin(), waves.cos(), numbers], 1)).chunk(2, 1))


def train(method: str, clips: Tensor, steps: int, seed: int) -> Network:
    """One loop for all: only the loss differs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the network's weights, which torch draws without a generator
        network = Network()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps, pct_start=0.05)
    batch = 256
    for _ in range(steps):
        video = torch.randint(len(clips), (batch,), generator=generator)
        frame = torch.randint(PERIOD - 1, (batch,), generator=generator)
        x0, x1 = clips[video, frame], clips[video, frame + 1]  # a frame and its next, (x0, x1) ~ P(X0, X1)
        t, alpha = torch.rand(2, batch, generator=generator)
        n = torch.randn(batch, 2, generator=generator)
        if method == "noise":
            terms = flow_loss(network, n, x1, t)  # Eq. (1): from noise to any frame
        elif method == "flow":
            terms = flow_loss(network, x0, x1, t)  # Eq. (3): from a frame to the next
        else:
            terms = biflow_loss(network, x0, x1, n, t, alpha)  # Eq. (5): that, off the lines too, and denoise
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum(0).mean().backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def stream(network: Network, first: Tensor, frames: int, eps: float, *, backward: bool = False) -> Tensor:
    """(b, frames + 1, 2): `first` and the frames solved from it, each from the one before. For images: biflow.stream."""
    generator = torch.Generator().manual_seed(1)
    curve, k0, k1 = (backward_line(eps), 1.0, 0.0) if backward else (forward_line(eps), 0.0, 1.0)
    field = field_along(network, curve)  # Eq. (8); with eps = 0 it is f^v alone, Eq. (7)
    made = [first]
    for _ in range(frames):
        noisy = made[-1] + eps * torch.randn(first.shape, generator=generator)
        made.append(solve(field, noisy, k0, k1, solver=Solver("heun", steps=3)).x)  # Eq. (9)
    return torch.stack(made, 1)


def distance(x: Tensor) -> Tensor:
    """From points (..., 2) to the nearer moon."""
    outline = moon(torch.tensor([[0], [1]]), torch.linspace(0, 1, 500)).flatten(0, 1)
    return torch.cdist(x.flatten(0, -2), outline).amin(-1).reshape(x.shape[:-1])


@torch.no_grad()
def draw(out: Path, networks: dict[str, Network], clips: Tensor, streamed: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Top row: Fig. 2 of the paper, here learned. Bottom row: what comes of it."""
    gray, blue, red, orange = "#d4d4d4", "#1f6fb4", "#d1342b", "#e07b00"
    plt.rcParams.update({"font.size": 11, "axes.titlesize": 11.5, "axes.titlelocation": "left"})
    fig, axes = plt.subplot_mosaic([["a", "b", "c", "d"], ["e", "f", "g", "g"]], figsize=(17, 8.6), layout="constrained")
    generator = torch.Generator().manual_seed(2)
    outline = moon(torch.tensor([[0], [1]]), torch.linspace(0, 1, 200))
    for name in "abcdef":
        axes[name].set(xticks=[], yticks=[], aspect="equal", xlim=(-4.6, 4.6), ylim=(-4.2, 4.2))
    for name in "abef":
        for one in outline:
            axes[name].plot(*one.T, color="0.75" if name in "ab" else "0.35", lw=1.2, zorder=1)

    ax = axes["a"]
    ax.set_title("a)  Flow matching, Eq. (1): from noise to a frame")
    field, path = field_along(networks["noise"], forward_line(0)), [torch.randn(160, 2, generator=generator)]
    for i in range(20):
        path.append(solve(field, path[-1], i / 20, (i + 1) / 20, solver=Solver("heun", steps=1)).x)
    lines = torch.stack(path, 1)
    ax.plot(*lines.permute(2, 1, 0), color=blue, lw=0.6, alpha=0.45)
    ax.scatter(*lines[:, 0].T, s=12, color="0.6", label="noise", zorder=2)
    ax.scatter(*lines[:, -1].T, s=12, color="k", label="solved to t = 1", zorder=3)
    ax.legend(loc="lower left", frameon=False)

    # Four frames in a row, x0 … x3, on the flank of a moon, and the links between them
    frames = moon(torch.zeros(4), 0.16 + torch.arange(4) / PERIOD)
    middle = frames.mean(0)
    ax = axes["b"]
    ax.set_title("b)  A video: a point that walks around a moon")
    for start in (moon(torch.zeros(PERIOD), 0.16 + torch.arange(PERIOD) / PERIOD), clips[1]):
        ax.scatter(*start.T, s=16, color="0.6", zorder=2)
    ax.scatter(*frames.T, s=30, color="k", zorder=3)

    ax = axes["c"]
    ax.set_title("c)  FLOW, Eq. (3): trained on the lines alone")
    ax = axes["d"]
    ax.set_title("d)  BI-FLOW, Eq. (5): trained off the lines too")
    window = {"xlim": (middle[0] - 1.7, middle[0] + 1.7), "ylim": (middle[1] - 1.55, middle[1] + 1.55)}
    x0, x1 = clips[:, :-1].reshape(-1, 2), clips[:, 1:].reshape(-1, 2)
    t, alpha = torch.rand(2, len(x0), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    for name, level in (("c", 0 * alpha), ("d", alpha)):
        ax = axes[name]
        ax.set(**window)
        ax.scatter(*bilinear(x0, x1, noise, t, level).T, s=14, color=gray, lw=0, zorder=0)  # seen in training, Eq. (4)
        ax.plot(*frames.T, "ko-", ms=7, lw=1.6, zorder=4)
        for i, frame in enumerate(frames):
            ax.annotate(f"$x^{i}$", frame.tolist(), (7, 6), textcoords="offset points", fontsize=13, zorder=5)

    # c: f^v beside the links; d: the same for noised points, and -alpha f^n, which takes the noise off
    a, b = frames[:-1].repeat_interleave(3, 0), frames[1:].repeat_interleave(3, 0)
    t = torch.tensor([0.1, 0.45, 0.8]).repeat(3)
    normal = (b - a).flip(1) * torch.tensor([1.0, -1.0]) / (b - a).norm(dim=1, keepdim=True)
    arrow = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006, "zorder": 3}
    for offset in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
        x = bilinear(a, b, normal, t, torch.full_like(t, offset))
        v = 0.45 * networks["flow"](x, t).v
        axes["c"].quiver(*x.T, *v.T, color=blue, alpha=1.0 if offset == 0 else 0.4, **arrow)
    fig.savefig(out, dpi=130)
    plt.close(fig)


def main(args: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Returns the mean distance over the last 50 frames, forward and backward, that it prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/two_moons.png"))
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--frames", type=int, default=300, help="to stream")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(args)
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed)
    clips, held_out = videos(400, generator), videos(32, generator)
    networks = {method: train(method, clips, options.steps, options.seed) for method in ("noise", "flow", "biflow")}
    print(f"trained in {time.perf_counter() - begun:.1f} s", flush=True)
    runs = {"FLOW": ("flow", 0.0)} | {f"BI-FLOW, eps {eps:g}": ("biflow", eps) for eps in (0.0, 0.05, EPS, 0.2)}
    streamed, result = {}, {}
    for name, (method, eps) in runs.items():
        both = [stream(networks[method], held_out[:, 0], options.frames, eps, backward=back) for back in (False, True)]
        streamed[name] = both
        d = [distance(x).mean(0) for x in both]
        result[name] = tuple(x[-50:].mean().item() for x in d)
        print(f"{name:18}", " ".join(f"{d[0][i]:.3f}/{d[1][i]:.3f}" for i in (1, 10, 50, 100, 200, options.frames)), result[name], flush=True)
    print(f"streamed in {time.perf_counter() - begun:.1f} s")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(options.out, networks, clips, streamed)
    print(f"{options.out}, {time.perf_counter() - begun:.1f} s")
    return result


if __name__ == "__main__":
    main()
