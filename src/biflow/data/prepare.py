"""Turn any source of clips into a prepared folder: one memory-mapped array of small frames and an index."""

import contextlib
import errno
import io
import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from biflow.data.clips import Item, find_clips
from biflow.data.pairs import FORMAT, is_prepared
from biflow.errors import UserError
from biflow.video import Video, resize

log = logging.getLogger("biflow")

HEADER = 128  # bytes before the first frame in frames.npy
CHUNK = 32  # frames that are resized and written at once


def prepare(
    src: str | Path,
    dst: str | Path,
    *,
    size: int | tuple[int, int],
    stride: int = 1,
    crop: bool = False,
    split: float | int = 0.8,
    seed: int = 0,
    strict: bool = False,
    limit: int | None = None,
    fps: float | int | None = None,
    force: bool = False,
    progress: bool = True,
) -> dict:
    """Write the prepared folder `dst` from the clips of `src`, and return its index (see `biflow.data.pairs`).

    size: side of the square frames, or (h, w); frames are squeezed to it, or cut to its aspect first with `crop`.
    stride: take every n-th frame; the frame rate in the index is that of the frames taken.
    split: share of the clips that becomes the train split, drawn with `seed`, unless the source has a split of its own.
    strict: a clip that cannot be used is an error; otherwise it is named in the log and skipped.
    limit: stop after this many clips.
    fps: frames per second of clips whose files do not say.
    force: replace `dst` if it is a prepared folder. Nothing else is ever replaced.

    One chunk of frames is in memory at a time. `dst` appears whole or not at all. Raises UserError.
    """
    src, dst = Path(src), Path(dst)
    shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(shape) < 1 or stride < 1 or not 0 < split <= 1 or (limit is not None and limit < 1):
        raise UserError("Preparing needs a size, stride and limit of at least 1, and a split above 0 and up to 1.")
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        if not is_prepared(dst):
            raise UserError(f"{dst} exists and is no prepared folder; name another one.")
        if not force:
            raise UserError(f"{dst} is prepared already; use it, name another folder, or replace it with --force.")
    items = find_clips(src)
    partial = dst.with_name(f".{dst.name}.partial")  # beside dst, so that a rename makes it dst
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
        partial.mkdir(parents=True)
        with open(partial / "frames.npy", "wb") as out:
            out.write(_header(0, shape))
            clips, skipped, notes = _write_clips(items, out, shape, stride, crop, fps, strict, limit, progress)
            if not clips:
                raise UserError(f"None of the {len(items)} clips in {src} can be used; the first: {skipped[0]['why']}")
            frames = sum(clip["frames"] for clip in clips)
            out.seek(0)
            out.write(_header(frames, shape))
        clips = _assign_splits(clips, split, seed)
        index = {"format": FORMAT, "size": list(shape), "channels": 3, "stride": stride, "crop": crop}
        index |= {"source": str(src), "seed": seed, "train_share": split, "clips": clips, "skipped": skipped}
        (partial / "index.json").write_text(json.dumps(index, indent=1))
        _swap(partial, dst)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise UserError(f"{dst} cannot be written ({error}).") from error
        raise UserError(f"No space left to write {dst}; free some, or write elsewhere.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if notes:
        log.warning("Converted to RGB: %s.", ", ".join(f"{n} {kind} frames" for kind, n in sorted(notes.items())))
    if skipped:
        log.warning("Skipped %d of %d clips; index.json says which and why.", len(skipped), len(skipped) + len(clips))
    return index


def _write_clips(
    items: list[Item],
    out: io.BufferedWriter,
    shape,
    stride: int,
    crop: bool,
    fps: float | int | None,
    strict: bool,
    limit,
    progress,
) -> tuple[list[dict], list[dict], Counter]:
    """Append the frames of each clip to `out`; one that fails is cut off again. Returns clips, skipped, conversions."""
    clips, skipped, notes, start = [], [], Counter(), 0
    frame_bytes = 3 * shape[0] * shape[1]
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} to go{postfix}"
    quiet = None if progress else True  # None: unless stderr is a terminal
    bar = tqdm(total=min(len(items), limit or len(items)), desc="preparing", bar_format=form, disable=quiet)
    with bar:
        for done, item in enumerate(items):
            videos = item.read(notes)
            while limit is None or len(clips) < limit:
                name = item.name
                try:
                    video = next(videos)
                    name = item.name + video.part
                    frames = _write_frames(video, out, shape, stride, crop, bar, done)
                    if frames < 2:
                        raise UserError(
                            f"{name} has {frames} frame{'s' * (frames != 1)} at stride {stride}; pairs need 2."
                        )
                except StopIteration:
                    break
                except UserError as error:
                    if strict:
                        raise
                    out.seek(HEADER + start * frame_bytes)
                    out.truncate()
                    bar.clear()
                    log.warning("Skipped: %s", error)
                    skipped.append({"name": name, "why": str(error)})
                    continue
                rate = video.fps or fps
                clips.append({"name": name, "source": item.source, "start": start, "frames": frames})
                clips[-1] |= {"fps": rate and rate / stride, "split": item.split}
                start += frames
                bar.set_postfix_str(f"{len(clips)} clips, {start} frames", refresh=False)
            bar.update(done + 1 - bar.n if done + 1 <= bar.total else 0)
    return clips, skipped, notes


def _write_frames(video: Video, out: io.BufferedWriter, shape, stride: int, crop: bool, bar: tqdm, done: int) -> int:
    count, chunk = 0, []
    with contextlib.closing(video.frames):  # type: ignore[arg-type]  # a generator, whose file is closed even on failure
        for number, frame in enumerate(video.frames):
            if number % stride == 0:
                chunk.append(resize(frame[None], shape, crop=crop))
                count += 1
            if len(chunk) == CHUNK:
                out.write(torch.cat(chunk).numpy().data)
                chunk.clear()
                if video.length:
                    bar.update(max(0.0, done + min(1.0, (number + 1) / video.length) - bar.n))
    if chunk:
        out.write(torch.cat(chunk).numpy().data)
    return count


def _header(frames: int, shape: tuple[int, int]) -> bytes:
    """The header of an .npy file (version 1.0), as long for any number of frames, which is known only at the end."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, 3, {shape[0]}, {shape[1]}), }}"
    return b"\x93NUMPY\x01\x00" + np.uint16(HEADER - 10).tobytes() + text.ljust(HEADER - 11).encode() + b"\n"


def _assign_splits(clips: list[dict], share: float | int, seed: int) -> list[dict]:
    """Keep the split of the source if it has both parts; otherwise draw one by clip, or cut a single clip in two."""
    if {"train", "test"} <= {clip["split"] for clip in clips}:
        return [{**clip, "split": clip["split"] or "train"} for clip in clips]
    tests = 0 if share == 1 else min(len(clips) - 1, max(1, round(len(clips) * (1 - share))))
    drawn = set(random.Random(seed).sample(range(len(clips)), tests))
    clips = [{**clip, "split": "test" if index in drawn else "train"} for index, clip in enumerate(clips)]
    if len(clips) > 1 or share == 1:
        return clips
    (clip,) = clips
    last = max(2, round(clip["frames"] * (1 - share)))
    if clip["frames"] < last + 2:
        log.warning("The only clip, %s, is too short for a test split; all of it is for training.", clip["name"])
        return clips
    log.warning("There is one clip, %s, so its last %d frames become the test split.", clip["name"], last)
    first = clip["frames"] - last
    test = {"name": f"{clip['name']}[end]", "start": clip["start"] + first, "frames": last, "split": "test"}
    return [{**clip, "frames": first}, {**clip, **test}]


def _swap(partial: Path, dst: Path) -> None:
    """Put `partial` in the place of `dst`, which is empty, prepared or not there."""
    if not is_prepared(dst):
        if dst.exists():
            dst.rmdir()
        partial.rename(dst)
        return
    old = dst.with_name(f".{dst.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    dst.rename(old)
    partial.rename(dst)
    shutil.rmtree(old, ignore_errors=True)
