"""What was prepared, for people: a sheet of frames, and a table of what was skipped, resampled and converted."""

from pathlib import Path

import numpy as np
import torch

from biflow.config import Prepare
from biflow.data.rates import most_common, same
from biflow.data.windows import read_index
from biflow.errors import shown
from biflow.video import contact_sheet

SHOWN = 8  # clips on the sheet, evenly among all
ROWS = 12  # lines of the table
NAMES = 4  # clips that a sentence names
ENOUGH = 10 * 60  # seconds of footage below which a word about more is due
SIDE = 128  # pixels of a frame on the sheet, at least


def write_sheet(root: Path) -> None:
    """Write `root`/sheet.png: the first, the middle and the last frame of some clips of a prepared set."""
    frames, index = np.load(root / "frames.npy", mmap_mode="r"), read_index(root)
    clips = index["clips"]
    chosen = [clips[i] for i in sorted(set(np.linspace(0, len(clips) - 1, SHOWN).round().astype(int).tolist()))]
    rows, labels = [], []
    for clip in chosen:
        first, last = clip["start"], clip["start"] + clip["frames"] - 1
        rows.append([torch.from_numpy(np.array(frames[i])) for i in (first, (first + last) // 2, last)])
        labels.append(f"{_short(clip['name'])}  {_rate(clip['fps'])}, {clip['split']}")
    caption = [f"{len(chosen)} of {len(clips)} clips as the model will see them: first, middle and last frame"]
    contact_sheet(rows, root / "sheet.png", caption, labels, scale=max(1, round(SIDE / max(index["size"]))))


def rates_line(clips: list[dict], settings: Prepare) -> str | None:
    """One line about the clips that were resampled, or that were not although their rates differ; None for none."""
    originals = {shown(clip["name"]): clip["original"] for clip in clips if "original" in clip}
    if settings.fps == "native":
        usual = most_common([original["fps"] for original in originals.values()])
        odd = {
            name: original
            for name, original in originals.items()
            if original["uneven"] or (usual and original["fps"] and not same(original["fps"], usual))
        }
        what = f"Clips keep their own frame rates. Most have {_rate(usual)}, but {len(odd)} of {len(originals)} differ"
        return f"{what}: {_listed(odd)}. Motion in them has another speed." if odd else None
    odd = {name: original for name, original in originals.items() if original["resampled"]}
    if not odd:
        return None
    fps = clips[0]["fps"] * settings.stride
    line = f"All clips were brought to {_rate(fps)}; {len(odd)} of {len(originals)} were resampled: {_listed(odd)}."
    lowest = min(original["fps"] for original in odd.values())
    if lowest < fps and not same(lowest, fps):
        line += f" Slower ones repeat frames, which looks like a stutter; at {lowest:g} none would be repeated."
    return line


def summary(index: dict, settings: Prepare) -> list[str]:
    """What was prepared, in lines for the command line, after a table of what was done to clips."""
    clips, (height, width), dst = index["clips"], index["size"], settings.dst
    frames, test = sum(clip["frames"] for clip in clips), sum(clip["split"] == "test" for clip in clips)
    lasting = sum(clip["frames"] / clip["fps"] for clip in clips if clip["fps"])
    time = f" ({_duration(lasting)} at {_rates(clips)})" if lasting else ""
    counts = f"{frames} frames of {height}x{width}{time} in {len(clips)} clips, {test} of them for testing"
    actions = f", with actions {', '.join(index['actions']['columns'])}" if "actions" in index else ""
    lines = [*_table(index), f"{dst}: {counts}; {len(index['skipped'])} skipped{actions}."]
    shapes = [clip["original"]["size"] for clip in clips if "original" in clip]
    if squeezed := sum(abs(w / h * height / width - 1) > 0.1 for h, w in shapes):
        done = "cut to their middle" if settings.crop else "squeezed into it; --crop would cut out their middle instead"
        lines.append(f"{squeezed} of {len(shapes)} clips have frames of another shape, which were {done}.")
    if 0 < lasting < ENOUGH:
        lines.append(
            "A few minutes of one kind of motion teach a model to move. To keep a scene for long it needs more."
        )
    return [*lines, f"Look at {dst / 'sheet.png'} before you train: it shows the frames as the model will see them."]


def _table(index: dict) -> list[str]:
    """Lines about each clip that was skipped, resampled or converted, as in index.json."""
    lines = [f"skipped    {shown(clip['name'])}: {clip['why']}" for clip in index["skipped"]]
    for clip in (clip for clip in index["clips"] if "original" in clip):
        original, name = clip["original"], shown(clip["name"])
        if original["resampled"]:
            was = f"{original['frames']} frames at {_rate(original['fps'])}{' (uneven)' * original['uneven']}"
            lines.append(f"resampled  {name}: {was}, now {original['kept']} at {_rate(clip['fps'])}")
        if original["changes"]:
            lines.append(f"converted  {name}: {', '.join(original['changes'])}")
    more = len(lines) - ROWS
    return lines if more <= 1 else [*lines[:ROWS], f"… and {more} more, in index.json"]


def _rates(clips: list[dict]) -> str:
    rates = sorted({clip["fps"] for clip in clips if clip["fps"]})
    return _rate(rates[0]) if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g} frames per second"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _listed(originals: dict[str, dict]) -> str:
    names = [
        f"{name} ({'uneven, ' * original['uneven']}{_rate(original['fps'])})" for name, original in originals.items()
    ]
    more = len(names) - NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMES])} and {more} more"


def _rate(fps: float | None) -> str:
    return f"{fps:g} frames per second" if fps else "an unknown rate"


def _short(name: str) -> str:
    name = shown(name)
    return name if len(name) <= 28 else f"…{name[-27:]}"
