"""What comes after one frame, by what is done: a sheet with a row for each script of actions.

    python examples/03_futures.py MODEL [SCRIPT …] [--first runs/maze/first] [--seed 0] [--out out/futures.png]

A script is what `biflow sample --actions` takes, such as "forward*40 left*12"; all are as long as the shortest one. All
rows begin with the same frame and get the same noise, so that nothing but the actions makes them differ.
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

import biflow
from biflow.video import contact_sheet

COLUMNS, SCALE, GAP = 9, 2, 2  # frames in a row, the first one among them; pixels per pixel; pixels between frames


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", default=["left*32", "still*32", "right*32"])
    parser.add_argument("--first", type=Path, help="a prepared set, or first frames; the model's own by default")
    parser.add_argument("--seed", type=int, default=0, help="which frame of a prepared set")
    parser.add_argument("--out", type=Path, default=Path("out/futures.png"))
    options = parser.parse_args()

    model = biflow.with_engine(biflow.load_model(options.model))
    rows = [biflow.script(model.taken_actions(), text) for text in options.scripts]  # (n, k) each
    length = min(map(len, rows))
    source = options.first or options.model / "first"
    start = biflow.starts(source, model.size, samples=1, seed=options.seed, past=model.context).frames
    first = start.expand(len(rows), *start.shape[1:])  # uint8 (b, j, 3, h, w), the newest last
    frames = biflow.stream(
        model,
        biflow.to_float(first),
        actions=np.stack([row[:length] for row in rows], axis=1),
        generators=biflow.sample_generators(0, [0] * len(rows)),
    )
    shown = [first[:, -1], *(frame.pixels for frame in islice(biflow.drain(frames), length))]
    picks = np.linspace(0, length, min(COLUMNS, length + 1)).round().astype(int)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = [[shown[i][row] for i in picks] for row in range(len(rows))]
    contact_sheet(sheet, options.out, scale=SCALE, gap=GAP)
    print(f"{options.out}: frames {', '.join(map(str, picks))}")


if __name__ == "__main__":
    main()
