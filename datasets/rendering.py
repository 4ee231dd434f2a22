"""What renderers share: a command line, a pool that renders missing clips, folders of PNG and `actions.json`."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from biflow.documents import read_json
from biflow.errors import UserError, excepthook
from biflow.files import replacing, write_json

Clip = tuple[list[Image.Image], list[list[float]]]  # frames, and the actions between them


def render(
    clip: Callable[..., Clip],
    meaning: dict[str, Any] | None,
    dst: Path,
    *,
    clips: int,
    seed: int,
    **shape: int,
) -> None:
    """Write `clips` folders of PNG frames in `dst`, and `actions.json` beside them: `meaning` and the actions. Resumes.

    `clip(seed, **shape)` renders one. Clip i has the seed `seed * 100_000 + i`, so that more can be added later.
    Without a `meaning` there are no actions.
    """
    path = dst / "actions.json"
    names = {f"clip_{i:04d}": seed * 100_000 + i for i in range(clips)}
    actions = _recorded(path, meaning) if meaning else {name: [] for name in names if (dst / name).exists()}
    missing = {name: clip_seed for name, clip_seed in names.items() if name not in actions}
    # Spawned, not forked: a game engine does not survive a fork of its parent's threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(write_clip, clip, dst / name, s, **shape): name for name, s in missing.items()}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="rendering", unit="clip"):
            actions[jobs[job]] = job.result()
            if meaning:
                write_json(path, {**meaning, "actions": dict(sorted(actions.items()))}, indent=None)


def _recorded(path: Path, meaning: dict[str, Any]) -> dict[str, list[list[float]]]:
    """The actions of the clips that are there already."""
    if not path.exists():
        return {}
    content = read_json(path)
    actions = content.pop("actions", None)
    if actions is None or content != meaning:
        raise UserError(f"{path} describes other actions than this program records: render into another folder.")
    return actions


def write_clip(clip: Callable[..., Clip], folder: Path, seed: int, **shape: int) -> list[list[float]]:
    """Render a clip into a folder, which appears when it is complete. Returns its actions."""
    images, actions = clip(seed, **shape)
    with replacing(folder) as partial:
        partial.mkdir()
        for index, image in enumerate(images):
            image.save(partial / f"{index:06d}.png")
    return actions


def averaged(colours: Float[np.ndarray, "..."], size: int) -> Image.Image:
    """A picture of size² from the colours in [0, 1] of as many samples per pixel and side as there are, row by row."""
    side = math.isqrt(colours.size // 3) // size
    pixels = colours.reshape(size, side, size, side, 3).mean(axis=(1, 3))
    return Image.fromarray((255 * pixels).round().clip(0, 255).astype(np.uint8))


def main(
    clip: Callable[..., Clip],
    meaning: dict[str, Any] | None,
    doc: str,
    options: Sequence[tuple[str, int, str]],
) -> None:
    """The command line: `dst` and `options` (name, default, help)."""
    description, _, details = doc.partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=details, formatter_class=form)
    parser.add_argument("dst", type=Path, help="the folder to write")
    for name, default, text in options:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    sys.excepthook = excepthook
    render(clip, meaning, **vars(parser.parse_args()))
