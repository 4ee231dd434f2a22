"""What a path through the frames in between is worth: s frames per solve, held against the real ones.

    python -m benchmarks.in_between SET [SET …] [--span 4] [--out runs/in_between] [--json FILE]

For each SET, four BI-FLOW models are trained alike, by the preset `compare` with patches of 4x4 pixels: one that goes
from frame to frame, and one that goes `--span` frames ahead along each path of `biflow.paths.PATHS`. From frames of
test clips, each streams the next `--span` frames by the usual solver. These are compared with the clips': LPIPS, PSNR
in dB, and the mean gradient over that of the real frames (sharpness), in between and for the last frame, which a solve
leads to. "Mix" is no model: it mixes the real first and last frame, as the straight path of training does. It needs the
weights of LPIPS: biflow weights fetch lpips. The same command resumes what was interrupted. Sets have no actions: a
model that goes from frame to frame would take them, and the others would not.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from biflow import TrainConfig, Windows, load_model, sample_generators, to_float, to_uint8, with_engine
from biflow.config import parse, preset
from biflow.evaluation.images import psnr
from biflow.evaluation.networks.features import Features, lpips_features
from biflow.evaluation.turning import compare
from biflow.paths import PATHS, linear
from biflow.rollout import stream
from biflow.training.loop import train

SMALLER: dict[str, Any] = {"network": {"patch": 4, "channels": [64, 128]}}
FRAME_BY_FRAME, MIX = "frame by frame", "mix of the real frames"
COLUMNS = {
    "lpips": "LPIPS in between",
    "psnr": "PSNR in between",
    "gradient": "gradient over real",
    "last_lpips": "LPIPS of the last",
    "nfe": "NFE per frame",
}


def settings(case: str, span: int) -> TrainConfig:
    """The training settings of a case, a path or frame by frame."""
    own = {} if case == FRAME_BY_FRAME else {"span": span, "path": case}
    return parse(TrainConfig, {**preset("compare"), **SMALLER, **own})


def gradient(frames: Tensor) -> float:
    """Mean difference of horizontal and vertical neighbours, of frames (..., h, w)."""
    x = frames.float()
    return (x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()).item()


def compared(made: Tensor, real: Tensor, lpips: Features) -> dict[str, float]:
    """Frames (b, span, 3, h, w) that follow a frame, against those of the clips."""

    def distance(x: Tensor, y: Tensor) -> float:
        return compare(lpips, list(zip(x.flatten(0, 1), y.flatten(0, 1), strict=True))).mean().item()

    between, true = made[:, :-1], real[:, :-1]
    row = {"lpips": distance(between, true), "psnr": psnr(between.flatten(0, 1), true.flatten(0, 1)).mean().item()}
    return row | {"gradient": gradient(between) / gradient(true), "last_lpips": distance(made[:, -1:], real[:, -1:])}


def measure(data: Path, span: int, out: Path, samples: int) -> list[dict[str, Any]]:
    """A row for each case of a set, trained where it is not yet."""
    windows = Windows(data, "test", frames=span + 1)
    clips = windows.spread(samples)
    first, last, lpips = to_float(clips[:, 0]), to_float(clips[:, -1]), lpips_features(torch.device("cpu"))
    mixed = [linear(first, last, torch.full((len(clips),), j / span)) for j in range(1, span + 1)]
    rows = [{"set": data.name, "case": MIX, **compared(to_uint8(torch.stack(mixed, 1)), clips[:, 1:], lpips)}]
    for case in (FRAME_BY_FRAME, *PATHS):
        folder = out / data.name / (case.replace(" ", "_") if case == FRAME_BY_FRAME else f"{case}_{span}")
        history = train(settings(case, span), data, folder)
        model = with_engine(load_model(folder))
        frames = list(islice(stream(model, first, generators=sample_generators(0, range(len(clips)))), span))
        made, nfe = torch.stack([to_uint8(frame.x) for frame in frames], dim=1), [frame.nfe for frame in frames]
        row = {"set": data.name, "case": case, "pairs": history["samples"], **compared(made, clips[:, 1:], lpips)}
        rows.append(row | {"nfe": torch.stack(nfe).float().mean().item()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="prepared sets")
    parser.add_argument("--span", type=int, default=4, help="frames per solve")
    parser.add_argument("--samples", type=int, default=32, help="windows of test clips")
    parser.add_argument("--out", type=Path, default=Path("runs/in_between"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.span < 2:
        parser.error("with a span of 1 there is nothing in between.")
    for data in options.sets:
        if Windows(data).actions:
            parser.error(f"{data} has actions.")
    rows = []
    for data in options.sets:
        own = measure(data, options.span, options.out, options.samples)
        table = record.table(own, {"case": ""}, COLUMNS)
        print(f"{data.name}, {options.span} frames per solve\n\n{table}\n", flush=True)
        rows += own
    how = {"span": options.span, "samples": options.samples}
    record.write(options.json, {"question": "frames in between, by path", **how, "rows": rows})


if __name__ == "__main__":
    main()
