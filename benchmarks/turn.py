"""Where is a stream after a whole turn? On sets whose axis is an angle that closes, that can be measured exactly.

    python -m benchmarks.turn SET MODEL [--samples 6] [--json FILE] [--sheet FILE.png]

In each clip of SET, of datasets/turntable.py or datasets/moving_light.py, the last frame is the first one again. MODEL
streams a turn from the first frame of test clips, forward and backward, by its usual solver. Its frames are compared
with the clip's after a quarter, half, three quarters and all of the turn: LPIPS, and PSNR in dB. Beside them stand a
copy of the first frame, which after the whole turn is exact, and the first frames of two clips, which show how far
apart different objects are. It needs the weights of LPIPS: biflow weights fetch lpips.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from biflow import Model, Windows, load_model, sample_generators, to_float, to_uint8, with_engine
from biflow.config import Direction
from biflow.evaluation.images import psnr
from biflow.evaluation.networks.features import Features, lpips_features
from biflow.evaluation.turning import compare
from biflow.rollout import stream
from biflow.video import contact_sheet

PARTS = (0.25, 0.5, 0.75, 1.0)  # of a turn
SHOWN = 8  # frames of a turn in the sheet


def turned(model: Model, clips: Tensor, direction: Direction) -> Tensor:
    """Frames (b, n, 3, h, w) of a turn from the first frames of clips (b, n, 3, h, w), these first, as uint8."""
    frames = stream(
        model, to_float(clips[:, 0]), direction=direction, generators=sample_generators(0, range(len(clips)))
    )
    made = [to_uint8(frame.x) for frame in islice(frames, clips.shape[1] - 1)]
    return torch.stack([clips[:, 0], *made], dim=1)


def at_parts(made: Tensor, real: Tensor, lpips: Features) -> dict[str, float]:
    """LPIPS and PSNR of frames (b, n, 3, h, w) against others, after each of the parts."""
    found: dict[str, float] = {}
    for part in PARTS:
        x, y = (frames[:, round(part * (frames.shape[1] - 1))] for frames in (made, real))
        found[f"lpips_{part:g}"] = compare(lpips, list(zip(x, y, strict=True))).mean().item()
        found[f"psnr_{part:g}"] = psnr(x, y).mean().item()
    return found


def measure(model: Model, clips: Tensor, lpips: Features) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """A row for each direction, for a copy of the first frame and for other clips, and the frames that were made."""
    directions: tuple[Direction, ...] = ("forward", "backward")
    made = {direction: turned(model, clips, direction) for direction in directions}
    real = {"forward": clips, "backward": clips.flip(1)}
    still, others = clips[:, :1].expand_as(clips), clips.roll(1, dims=0)
    rows = [{"case": direction, **at_parts(made[direction], real[direction], lpips)} for direction in directions]
    rows.append({"case": "a copy of the first frame", **at_parts(still, clips, lpips)})
    if len(clips) > 1:
        rows.append({"case": "another clip", **at_parts(others, clips, lpips)})
    return rows, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set whose clips close")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model of it that goes both ways")
    parser.add_argument("--samples", type=int, default=6, help="test clips, at most")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    length = min(clip["frames"] for clip in Windows(options.data, "test").clips)
    clips = Windows(options.data, "test", frames=length).spread(options.samples)
    if not torch.equal(clips[:, 0], clips[:, -1]):
        parser.error(f"The clips of {options.data} do not close: their last frame is not their first one.")
    rows, made = measure(with_engine(load_model(options.model)), clips, lpips_features(torch.device("cpu")))
    columns = [f"{name}_{part:g}" for name in ("lpips", "psnr") for part in PARTS]
    print(record.table(rows, {"case": ""}, {name: name.replace("_", " ") for name in columns}))
    how = {"set": options.data.name, "frames": length - 1, "samples": len(clips), "parts": PARTS}
    record.write(options.json, {"question": "a stream after a whole turn", **how, "rows": rows})
    if options.sheet:
        picks = [round(k * (length - 1) / SHOWN) for k in range(SHOWN + 1)]
        strips = [list(frames[0, picks]) for frames in (clips, made["forward"], clips.flip(1), made["backward"])]
        contact_sheet(strips, options.sheet, row_labels=["real", "forward", "real", "backward"])


if __name__ == "__main__":
    main()
