"""Beyond time: turn an object and move a light with one BI-FLOW of two axes.

    python examples/04_two_axes.py    # ten minutes on a CPU; writes out/two_axes.png

The paper proposes axes other than time (Sec. 6). The frames of a video lie along one axis; the pictures here are a
grid along two, the angle t of the camera and the angle s of the light. There is a field for each axis, and one for
noise:

    x = (1 - s) ((1 - t) x00 + t x10) + s ((1 - t) x01 + t x11) + alpha n    Eq. (4), between four neighbours
    f^t → dx/dt,   f^s → dx/ds,   f^n → n                                    Eq. (5)
    dx/dk = f^t dt/dk + f^s ds/dk + f^n dalpha/dk                            Eq. (8), along any curve (t, s, alpha)

The example renders an object (datasets/solids.py), trains on its pictures, and walks from one of them along each axis
and along both, in steps of `biflow.stream`. Both angles close, so the error after a whole turn is known exactly.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import biflow
from biflow.methods import BIFLOW
from biflow.methods.noise import Noise
from biflow.video import contact_sheet

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from solids import picture, random_object

VIEWS, LIGHTS, SIDE = 30, 30, 32  # pictures of a turn along each axis; pixels
EPS, ALPHA_MAX = 0.15, 0.3  # noise of a step; the most of it in training
WALKS = {"the view": (1, 0), "the light": (0, 1), "both": (1, 1), "one against the other": (1, -1)}


class Corner(NamedTuple):
    """What the network is asked."""

    x: Tensor  # (b, 3, h, w)
    t: Tensor  # (b,), from one view to the next
    s: Tensor  # (b,), from one light to the next
    alpha: Tensor  # (b,)


class Slopes(NamedTuple):
    """What it answers."""

    t: Tensor
    s: Tensor
    n: Tensor


class Walk(biflow.Method):
    """One step along the axes: each of the two goes one picture ahead (1), back (-1), or nowhere (0)."""

    name, title, takes_eps = "walk", "WALK", True

    def __init__(self, direction: tuple[int, int]) -> None:
        self.direction = direction

    def start(self, frame: Tensor, eps: float, generators: Noise) -> tuple[Tensor, tuple[Tensor, ...]]:
        return BIFLOW.start(frame, eps, generators)  # the picture with a little noise

    def field(self, network: Callable[[Corner], Slopes], eps: float, backward: bool):
        (along_t, along_s), flat = self.direction, torch.zeros_like

        def place(step: int, k: Tensor) -> Tensor:
            return flat(k) if step == 0 else k if step > 0 else 1 - k

        def slope(x: Tensor, k: Tensor) -> Tensor:
            found = network(Corner(x, place(along_t, k), place(along_s, k), eps * (1 - k)))
            return along_t * found.t + along_s * found.s - eps * found.n

        return slope


class Network(nn.Module):
    """Dilated convolutions over patches of 2x2; 0.4 million weights. `units` are those of f^t and f^s."""

    def __init__(self, units: tuple[float, float], width: int = 64) -> None:
        super().__init__()
        self.units = units
        self.first, self.last = nn.Conv2d(12 + 3, width, 3, padding=1), nn.Conv2d(width, 36, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=reach, dilation=reach),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for reach in (1, 2, 4, 2, 1)
        )

    def forward(self, query: Corner) -> Slopes:
        x = F.pixel_unshuffle(query.x, 2)
        numbers = torch.stack([query.t, query.s, query.alpha], 1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h = self.first(torch.cat([x, numbers], 1))
        for block in self.blocks:
            h = h + block(h)
        t, s, n = F.pixel_shuffle(self.last(h), 2).chunk(3, 1)
        return Slopes(t * self.units[0], s * self.units[1], n)


def pictures(seed: int) -> Tensor:
    """(VIEWS, LIGHTS, 3, h, w) of an object in [-1, 1]."""
    solids = random_object(random.Random(seed))
    views, lights = (2 * math.pi * np.arange(count) / count for count in (VIEWS, LIGHTS))
    grid = [[np.asarray(picture(solids, view, light, SIDE)) for light in lights] for view in views]
    return biflow.to_float(torch.from_numpy(np.array(grid)).permute(0, 1, 4, 2, 3))


def step_size(grid: Tensor, axis: int) -> float:
    """The rms change from one picture to the next along an axis."""
    return float((grid - grid.roll(-1, axis)).square().mean().sqrt())


def between(corners: Sequence[Tensor], t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The picture at (t, s) between x00, x10, x01 and x11, and its slopes along t and along s. Eq. (4, 5)"""
    x00, x10, x01, x11 = corners
    x = torch.lerp(torch.lerp(x00, x10, t), torch.lerp(x01, x11, t), s)
    return x, torch.lerp(x10 - x00, x11 - x01, s), torch.lerp(x01 - x00, x11 - x10, t)


def train(grid: Tensor, steps: int, seed: int) -> Network:
    """Between four neighbours, at random places and with random noise."""
    generator = torch.Generator().manual_seed(seed)
    units = step_size(grid, 0), step_size(grid, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the network's weights, which torch draws without a generator
        network = Network(units)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        i, j = (torch.randint(count, (16,), generator=generator) for count in (VIEWS, LIGHTS))
        corners = [grid[(i + a) % VIEWS, (j + b) % LIGHTS] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
        t, s, share = torch.rand(3, 16, 1, 1, 1, generator=generator)
        x, along_t, along_s = between(corners, t, s)
        alpha, n = ALPHA_MAX * share, torch.randn(x.shape, generator=generator)
        found = network(Corner(x + alpha * n, *(number.flatten() for number in (t, s, alpha))))
        errors = [(ours - true).square().mean() for ours, true in zip(found, (along_t, along_s, n), strict=True)]
        loss = errors[0] / units[0] ** 2 + errors[1] / units[1] ** 2 + errors[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            print(f"  step {step + 1} of {steps}: {loss.item():.3f}", flush=True)
    return network.eval()


def walk(network: Network, grid: Tensor, direction: tuple[int, int], frames: int, eps: float) -> tuple[Tensor, Tensor]:
    """A walk (frames + 1, 3, h, w) from the first picture, and the pictures that are truly there."""
    places = [(i * direction[0] % VIEWS, i * direction[1] % LIGHTS) for i in range(frames + 1)]
    true = torch.stack([grid[place] for place in places])
    model = biflow.Model(network, Walk(direction), shape=tuple(grid.shape[2:]))
    steps = biflow.generate(model, true[:1], frames=frames, eps=eps, solver=biflow.Solver("adams", steps=4))
    return torch.cat([true[:1], steps[0]]), true


def main(args: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Returns what it prints: for each walk the rms error after each of two turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/two_axes.png"))
    parser.add_argument("--steps", type=int, default=5000, help="of training")
    parser.add_argument("--turns", type=int, default=2, help="to walk")
    parser.add_argument("--seed", type=int, default=4, help="of the object")
    options = parser.parse_args(args)
    begun = time.perf_counter()
    grid = pictures(options.seed)
    print(f"{VIEWS} x {LIGHTS} pictures, after {time.perf_counter() - begun:.0f} s")
    network = train(grid, options.steps, options.seed)
    rows, labels, ends, frames = [], [], {}, options.turns * VIEWS
    print(f"Root mean square error after each turn (from one view to the next it is {step_size(grid, 0):.3f}):")
    for eps in (0.0, EPS):
        for name, direction in WALKS.items():
            ours, true = walk(network, grid, direction, frames, eps)
            errors = (ours - true).square().mean((1, 2, 3)).sqrt()[VIEWS::VIEWS].tolist()
            ends[f"{name}, eps {eps:g}"] = tuple(errors)
            print(f"  {name + f', eps {eps:g}':36}" + "".join(f"{error:8.3f}" for error in errors), flush=True)
            if eps:
                picks = np.linspace(0, frames, 13).round().astype(int)
                rows += [true[picks], ours[picks]]
                labels += [f"{name}, true", "model"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([list(biflow.to_uint8(row)) for row in rows], options.out, row_labels=labels, gap=2)
    print(f"{options.out}, after {time.perf_counter() - begun:.0f} s")
    return ends


if __name__ == "__main__":
    main()
