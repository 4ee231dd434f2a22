"""What streams start from: frames, with those before them and the actions that followed, where there are any."""

import contextlib
import logging
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.data.names import hidden, in_order
from biflow.data.readers import IMAGES
from biflow.data.windows import Windows, is_prepared
from biflow.errors import UserError
from biflow.films import VIDEO_SUFFIXES, decode
from biflow.video import read_image, resize

log = logging.getLogger("biflow")

DEFAULT_SAMPLES = 8  # where a source has as many and nobody says how many


class Starts(NamedTuple):
    """Where b streams start.

    frames: the frame to start from, the newest, after j - 1 frames before it.
    actions: what followed in its clip, in the units of the set; None if that was not asked for.
    places: the number of its clip in the test split and its place in that; None for images.
    columns: names of the columns of actions.
    """

    frames: UInt8[Tensor, "b j 3 h w"]
    actions: Float[np.ndarray, "b n k"] | None = None
    places: Int[np.ndarray, "b 2"] | None = None
    columns: tuple[str, ...] = ()


def first_frames(
    source: Path | str, size: tuple[int, int], samples: int | None = None, seed: int = 0
) -> UInt8[Tensor, "b 3 h w"]:
    """First frames for `samples` videos: of an image, a film, a folder of images, or a prepared set's test split.

    Images of another size are resized, which the logger "biflow" reports. If there are fewer images than `samples`,
    they repeat. From a prepared set, `seed` draws the second frames of random pairs, as the paper's code does.

    Args:
        source: an image, a film, a folder of images or of folders of images, or a prepared set.
        size: (h, w) that the model takes.
        samples: number of frames; by default one per image, at most 8, or 8 from a prepared set.
        seed: seed of the draw from a prepared set.

    Raises:
        UserError: nothing to start from, or a prepared set of another size. Its `setting` is "first".
    """
    return starts(source, size, samples, seed).frames[:, -1]


def starts(
    source: Path | str,
    size: tuple[int, int],
    samples: int | None = None,
    seed: int = 0,
    *,
    past: int = 0,
    actions: int = 0,
    fewer: bool = False,
    backward: bool = False,
) -> Starts:
    """`first_frames`, with at most `past` frames before each, as many for all, and the next `actions` actions of it.

    In a folder of folders, each folder holds a frame to start from, which is its last image, and those before it. Of a
    film, these are its first frames, so that the stream continues them.
    `backward` takes the actions before the frame instead, the latest first. With `fewer`, there are fewer actions if
    not enough clips have so many.

    Raises:
        UserError: as `first_frames`; and a source without actions, or whose clips are shorter than that.
    """
    source = Path(source)
    if samples is not None and samples < 1:
        raise UserError(f"samples is {samples}, but must be at least 1.", setting="samples")
    try:
        if is_prepared(source):
            return _from_prepared(source, size, samples or DEFAULT_SAMPLES, seed, past, actions, fewer, backward)
        if actions:
            raise UserError(f"{source} has no actions. Give a set that was prepared from clips with actions.")
        return _from_images(source, size, samples, past)
    except UserError as error:
        raise UserError(str(error), setting="first") from error


def held_out(source: Path, *, say: bool = True) -> Windows:
    """The pairs of a set's test split; of its training split, which the logger reports, where that has none."""
    clips = Windows(source, split="all").clips
    if any(clip["split"] == "test" and clip["frames"] > 1 for clip in clips):
        return Windows(source, split="test")
    if say:
        log.warning("%s has no test split, so streams start from frames of its training split.", source)
    return Windows(source, split="train")


def _from_prepared(
    source: Path, size: tuple[int, int], samples: int, seed: int, past: int, actions: int, fewer: bool, backward: bool
) -> Starts:
    test = held_out(source)
    if test.size != tuple(size):
        held, taken = ("x".join(map(str, sides)) for sides in (test.size, size))
        raise UserError(f"{source} holds {held} frames, but the model takes {taken}.")
    before = test.places[:, 1] + 1  # frames before the second one of a pair
    past = min(past, int(before.max()))
    fits = before >= past
    rows = [test.action_rows(clip) for clip in range(len(test.clips))] if actions else []
    if actions:
        found = np.concatenate([_runs(part, backward)[1:] for part in rows if len(part) > 1])  # of each second frame
        if fewer:
            clips = test.places[fits, 0]
            longest = sorted((found[fits][clips == clip].max() for clip in np.unique(clips)), reverse=True)
            actions = min(actions, max(1, int(longest[min(samples, len(longest)) - 1])))
        if not (fits & (found >= actions)).any():
            what = "precede" if backward else "follow"
            most = f"at most {found[fits].max()} actions {what} a frame in its test split, but {actions} are needed"
            raise UserError(f"{source} has too few: {most}. Ask for fewer frames.")
        fits &= found >= actions
    order = np.random.default_rng(seed).permutation(len(test))
    picks = np.resize(order[fits[order]], samples)
    frames = test.with_past(picks, max(0, past - 1)).frames[:, -past - 1 :]
    places = test.places[picks] + (0, 1)
    if not actions or test.actions is None:
        return Starts(frames, places=places)
    taken = [rows[c][i - actions : i][::-1] if backward else rows[c][i : i + actions] for c, i in places]
    return Starts(frames, np.stack(taken), places, test.actions.columns)


def _runs(rows: Float[np.ndarray, "n k"], backward: bool) -> Int[np.ndarray, " n"]:
    """For each frame of a clip, how many actions in a row are known after it, or before it if `backward`."""
    known = np.isfinite(rows).all(axis=1)
    unknown = np.where(known, -1, np.arange(len(rows)))
    if backward:
        last = np.maximum.accumulate(np.concatenate([[-1], unknown[:-1]]))  # the last unknown one before each frame
        return np.arange(len(rows)) - 1 - last
    return np.where(known, _runs(rows[::-1], True)[::-1] + 1, 0)


def _from_images(source: Path, size: tuple[int, int], samples: int | None, past: int) -> Starts:
    what = "Give an image, a film, a folder of images or a prepared set."
    if not source.exists():
        raise UserError(f"{source} does not exist. {what}")
    if source.is_file() and source.suffix.lower() not in IMAGES:
        frames = _read_film(source, size, past + 1)
        return Starts(frames.expand(samples or 1, *frames.shape))
    found = [[file] for file in _images(source)] if source.is_dir() else [[source]]
    if not found:
        folders = filter(Path.is_dir, _content(source))
        found = [images for images in map(_images, folders) if images]
    if not found:
        raise UserError(f"There are no images in {source}. {what}")
    samples = samples or min(len(found), DEFAULT_SAMPLES)
    length = min(past + 1, *(len(files) for files in found[:samples])) if past else 1
    each = [torch.stack([_read(file, size) for file in files[-length:]]) for files in found[:samples]]
    return Starts(torch.stack([each[i % len(each)] for i in range(samples)]))


def _images(folder: Path) -> list[Path]:
    return [file for file in _content(folder) if file.suffix.lower() in IMAGES and file.is_file()]


def _content(folder: Path) -> list[Path]:
    return in_order((path for path in folder.iterdir() if not hidden(path.name)), lambda path: path.name)


def _read_film(file: Path, size: tuple[int, int], count: int) -> UInt8[Tensor, "j 3 h w"]:
    """The first frames of a film, at most `count`, or an image whose suffix does not say that it is one."""
    try:
        with contextlib.closing(decode(file).frames) as film:
            frames = list(islice(film, count))
    except UserError:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            raise
        return _read(file, size)[None]
    if not frames:
        raise UserError(f"{file} has no frames.")
    return _resized(torch.stack(frames), size, file)


def _read(file: Path, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    return _resized(read_image(file)[None], size, file)[0]


def _resized(frames: UInt8[Tensor, "n 3 _ _"], size: tuple[int, int], file: Path) -> UInt8[Tensor, "n 3 h w"]:
    if frames.shape[-2:] != tuple(size):
        log.warning("%s is %dx%d; resized to %dx%d.", file, *frames.shape[:-3:-1], *size[::-1])
    return resize(frames, size)
