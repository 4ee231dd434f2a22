"""What `biflow sample` and `demo` say of the videos that they have written."""

from collections import Counter
from pathlib import Path


def summary(out: Path, stats: dict) -> str:
    """What `sample` has written into `out`, and what it cost, in a few lines."""
    videos = [f"sample_{sample:03d}.mp4" for sample in sorted({0, stats["samples"] - 1})]
    lines = [f"{counts(stats)}: {' to '.join(str(out / video) for video in videos)}"]
    if kinds := [kind for kind in ("webp", "gif") if stats["settings"][kind]]:
        lines[0] += f", and as {' and '.join(kinds)}"
    if stats["settings"]["png"]:
        lines[0] += f", and each frame as a PNG in {' to '.join(str(out / Path(video).stem) for video in videos)}"
    lines.append(f"Contact sheet: {out / 'sheet.png'}. Numbers: {out / 'stats.json'}.")
    return "\n".join([*lines, cost(stats), f"To watch, open {out / videos[0]} in a video player or a browser."])


def demo_summary(out: Path, stats: dict) -> str:
    """What `demo` has written into `out`, and what it cost, in a few lines."""
    used = stats["settings"]
    names = {f"demo.{kind}": "the first video" for kind in ("mp4", "webp", "gif") if used.get(kind, True)}
    names |= {"demo.png": counts(stats), "demo.json": cost(stats)}
    width = max(len(str(out / name)) for name in names)
    return "\n".join(f"{out / name!s:{width}}  {what}" for name, what in names.items())


def counts(stats: dict) -> str:
    """How many frames there are, and of how many if that is not all: "37 of 200 frames, interrupted"."""
    if "asked" not in stats:
        samples, frames = stats["samples"], stats["frames"]
        return f"{samples} video{'s' * (samples > 1)} of {frames} frame{'s' * (frames > 1)}"
    samples, frames = stats["asked"]["samples"], stats["asked"]["frames"]
    parts = [
        f"{videos} of {samples} videos with {length} of {frames} frames"
        if samples > 1
        else f"{length} of {frames} frames"
        for length, videos in Counter(map(len, stats["nfe"])).items()
    ]
    return f"{' and '.join(parts)}, interrupted"


def cost(stats: dict) -> str:
    """What a frame has cost, and on what."""
    how = f"{stats['settings']['hardware']}, {stats['settings']['batch']} at once"
    return f"{stats['nfe_per_frame']:.1f} network evaluations per frame, {stats['fps']:.1f} frames/s on {how}."
