"""A few streams side by side as an animated WebP, such as the one at the top of README.md.

    python examples/02_moving_picture.py [MODEL] [--samples 4] [--frames 100] [--out out/stream.webp]

It is the short way from a model to pixels: load, choose an engine, stream, drain.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

import biflow

SCALE, GAP = 3, 4  # pixels of the picture per pixel of a frame, and between the streams


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, default=biflow.shipped_model())
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/stream.webp"))
    options = parser.parse_args()

    model = biflow.with_engine(biflow.load_model(options.model))
    start = biflow.starts(options.model / "first", model.size, samples=options.samples, past=model.context)
    first = biflow.to_float(start.frames)  # (b, j, 3, h, w), the newest last
    frames = biflow.drain(biflow.stream(model, first, actions=biflow.autopilot(model)))
    pictures = [side_by_side(frame.pixels) for frame in islice(frames, options.frames)]

    options.out.parent.mkdir(parents=True, exist_ok=True)
    duration = round(1000 / (model.fps or 25))  # milliseconds per frame
    settings = {"save_all": True, "append_images": pictures[1:], "duration": duration, "loop": 0}
    pictures[0].save(options.out, quality=60, method=6, **settings)
    print(options.out)


def side_by_side(pixels: torch.Tensor) -> Image.Image:
    """Frames (b, 3, h, w) in a row, enlarged."""
    height, width = pixels.shape[2] * SCALE, pixels.shape[3] * SCALE
    row = Image.new("RGB", (len(pixels) * (width + GAP) - GAP, height), "white")
    for i, frame in enumerate(pixels):
        tile = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
        row.paste(tile, (i * (width + GAP), 0))
    return row


if __name__ == "__main__":
    main()
