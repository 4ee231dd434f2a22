"""How far does a stream go beyond the length of the clips that its model was trained on? The paper's SKY, in Fig. 4.

    python -m benchmarks.extrapolation SET MODEL [--out FOLDER] [--json FILE] [--sheet FILE.png]

SET has short clips for training and long ones for testing, such as those of datasets/clouds.py. MODEL streams 16 videos
of 512 frames from its first test frames. FVD and KVD compare their frames with those of the test clips in a window of
16 frames that ends where the training clips end, four times as far, and sixteen times as far, with 95 % intervals by
bootstrap over videos. Beside them stand motion and contrast, over those of real clips. It needs the weights of I3D:
biflow weights fetch i3d.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import record
from biflow import Windows, load_model, with_engine
from biflow.evaluation.evaluate import evaluate, summary
from biflow.evaluation.protocol import Protocol
from biflow.evaluation.videos import read_video
from biflow.video import contact_sheet

WINDOW = 16
PROTOCOL = Protocol(name="extrapolation", frames=512, window=WINDOW, stride=WINDOW, frame_stride=WINDOW)
SHOWN = (0, 16, 32, 64, 128, 256, 384, 511)  # frames of the sheet


def row(metrics: dict[str, Any], frames: int) -> dict[str, Any]:
    """The numbers of the window that ends with the given number of frames."""
    index = frames // WINDOW - 1
    found: dict[str, Any] = {"frames": frames}
    for name in ("fvd", "kvd"):
        found[name] = metrics[name]["per_window"][index]
        found[f"{name}_interval"] = metrics[name]["per_window_intervals"][index]
    for name in ("motion", "contrast"):
        values = metrics["over_time"][name]
        part = [v for i, v in zip(values["frames"], values["generated"], strict=True) if frames - WINDOW <= i < frames]
        found[name] = sum(part) / len(part) / values["real"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="SET", help="a prepared set with short training and long test clips")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model of it")
    parser.add_argument("--out", type=Path, default=Path("runs/extrapolation"), help="the evaluation, which resumes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    trained = max(clip["frames"] for clip in Windows(options.data, "train").clips)
    if 16 * trained != PROTOCOL.frames:
        parser.error(f"The longest training clip of {options.data} has {trained} frames, but this is for 32.")
    metrics = evaluate(with_engine(load_model(options.model)), options.data, options.out, PROTOCOL)
    rows = [row(metrics, times * trained) for times in (1, 4, 16)]
    print(summary(metrics))
    names = ("fvd", "kvd", "motion", "contrast")
    print(record.table(rows, {"frames": "up to frame"}, {name: name for name in names}))
    slopes = {f"{name}_{key}": metrics[name][key] for name in ("fvd", "kvd") for key in ("slope", "slope_interval")}
    result = {"question": "a stream longer than the clips of its training", "set": options.data.name}
    result |= {"trained": trained, "windows": metrics["windows"], "protocol": metrics["protocol"], **slopes}
    result |= {"nfe": metrics["nfe"]["mean"], "past_and_actions": metrics["past_and_actions"]}
    record.write(options.json, {**result, "rows": rows})
    if options.sheet:
        strips = [list(read_video(options.out, sample)[list(SHOWN)]) for sample in range(6)]
        contact_sheet(strips, options.sheet, f"frames {', '.join(map(str, SHOWN))}")


if __name__ == "__main__":
    main()
