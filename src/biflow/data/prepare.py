"""Turn a source of clips into a prepared set: one memory-mapped array of small frames, and an index."""

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from biflow.config import NetworkConfig, Prepare
from biflow.data.action_set import ActionSet
from biflow.data.clips import Item, find_clips
from biflow.data.overview import rates_line, write_sheet
from biflow.data.rates import most_common
from biflow.data.windows import FORMAT, is_prepared, read_index
from biflow.data.writer import Writer
from biflow.errors import UserError, shown
from biflow.files import replacing, write_array, write_json

log = logging.getLogger("biflow")


DIVISOR = NetworkConfig().divisor
MOST_CLIPS = 350_000  # whose index can be read
OF_A_SET = {"frames.npy", "actions.npy", "index.json", "sheet.png", "made_from.json"}


def prepare(
    settings: Prepare, *, shape: tuple[int, int] | None = None, progress: bool = True, earlier: Path | None = None
) -> dict:
    """Write the prepared set `settings.dst` from the clips of `settings.src`, and return its index.

    The form of the folder is described in `biflow.data.windows`. It appears whole or not at all, and nothing but a
    prepared set is ever replaced. Memory does not grow with the length of the clips.

    Args:
        settings: what to prepare and how.
        shape: (h, w) of frames that are not square, in place of `settings.size`.
        progress: show a progress bar if stderr is a terminal.
        earlier: the set whose clips keep their split, where that is not the one at `settings.dst`.

    Raises:
        UserError: `dst` exists, `src` holds no clip that can be used, or the disk is full.
    """
    src, dst = settings.src, settings.dst
    shape = shape or (settings.size, settings.size)
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        if not is_prepared(dst):
            raise UserError(f"{dst} exists and is not a prepared set. Choose another one.")
        if others := sorted(path.name for path in dst.iterdir() if path.name not in OF_A_SET and path.name[0] != "."):
            raise UserError(f"{dst} also holds other files, such as {others[0]}. Choose another folder.")
        if not settings.force:
            raise UserError(f"{dst} is prepared already. Train with it, or choose to replace it.", setting="force")
    items = find_clips(src, images=settings.images, range=settings.range)
    with replacing(dst) as partial:
        partial.mkdir()
        writer = _write_frames(partial / "frames.npy", items, shape, settings, progress)
        before = _earlier_splits(earlier or dst, settings)
        clips, skipped = _assign_splits(writer.clips, settings.split, settings.seed, before), writer.skipped
        index = {"format": FORMAT, "size": list(shape), "channels": 3, "stride": settings.stride}
        index |= {"crop": settings.crop, "source": str(src), "seed": settings.seed, "train_share": settings.split}
        index |= _write_actions(partial / "actions.npy", writer.actions, clips)
        index |= {"clips": clips, "skipped": skipped}
        write_json(partial / "index.json", index)
        write_sheet(partial)
    _warn(index, writer.conversions, settings)
    return index


def _warn(index: dict, conversions: Counter[str], settings: Prepare) -> None:
    """Say what was done to clips that their owner may not expect."""
    clips, skipped = index["clips"], index["skipped"]
    if kinds := sorted(conversions.items()):
        log.warning("Converted to RGB: %s.", ", ".join(f"{number} {kind} frames" for kind, number in kinds))
    if line := rates_line(clips, settings):
        log.warning("%s", line)
    if any(side % DIVISOR for side in index["size"]):
        sides = f"{index['size'][1]}x{index['size'][0]}"
        log.warning(
            "A network of the usual shape needs sides that are multiples of %d, and these are %s.", DIVISOR, sides
        )
    if skipped:
        log.warning("Skipped %d of %d clips. index.json lists them.", len(skipped), len(skipped) + len(clips))


def _write_frames(path: Path, items: list[Item], shape: tuple[int, int], settings: Prepare, progress: bool) -> Writer:
    if len(items) > MOST_CLIPS:
        what = f"{settings.src} has {len(items):,} clips, and a set at most {MOST_CLIPS:,}"
        raise UserError(f"{what}. Prepare a part of them.")
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    quiet = None if progress else True  # None: if stderr is not a terminal
    fps = settings.fps or _usual_rate(tqdm(items, desc="reading rates", leave=False, disable=quiet))
    bar = tqdm(total=len(items), desc="preparing", bar_format=form, disable=quiet)
    with open(path, "wb") as file, bar:
        writer = Writer(file, shape, settings, None if fps == "native" else fps, bar)
        for item in items:
            writer.add(item)
        if not writer.clips:
            why = writer.skipped[0]["why"]
            raise UserError(f"None of the {len(items)} clips in {settings.src} can be used. The first: {why}")
        writer.write_header()
    return writer


def _usual_rate(items: Iterable[Item]) -> float | None:
    """The rate of most clips. Clips that cannot be read have none."""
    rates = []
    for item in items:
        own = item.actions and item.actions.fps
        if item.timed:
            with contextlib.suppress(UserError):
                for video in item.read(Counter()):
                    video.frames.close()
                    rates.append(video.fps or own)
        else:
            rates.append(own)
    return most_common(rates)


def _write_actions(path: Path, actions: ActionSet, clips: list[dict]) -> dict:
    """Write a row per frame, if there are actions, and mark the clips that have some. Return entries of the index."""
    described = actions.meaning()
    if described is None:
        return {}
    meaning, rules = described
    rows = actions.rows(rules)
    for clip in clips:
        last = clip["start"] + clip["frames"] - 1
        rows[last] = np.nan  # also where a single clip was cut in two
        clip["actions"] = bool(np.isfinite(rows[clip["start"]]).all())
    if none := sum(not clip["actions"] for clip in clips):
        log.warning("There are no actions for %d of %d clips.", none, len(clips))
    write_array(path, rows)
    return {"actions": {**meaning.as_json(), "resample": rules}}


def _earlier_splits(dst: Path, settings: Prepare) -> dict[str, str]:
    """The splits of clips in the set that is replaced, by name, if it was split by the same share and seed."""
    with contextlib.suppress(UserError):  # a damaged one
        if is_prepared(dst):
            index = read_index(dst)
            if (index.get("train_share"), index.get("seed")) == (settings.split, settings.seed):
                return {clip["name"]: clip["split"] for clip in index["clips"]}
    return {}


def _assign_splits(clips: list[dict], share: float, seed: int, before: Mapping[str, str]) -> list[dict]:
    """Keep the source's own split if it has both parts. Otherwise draw one by clip, or cut a single clip in two.

    Clips with a split `before` keep it, so that what a model was trained on does not become a test clip.
    """
    if {"train", "test"} <= {clip["split"] for clip in clips}:
        return [{**clip, "split": clip["split"] or "train"} for clip in clips]
    tests = 0 if share == 1 else min(len(clips) - 1, max(1, round(len(clips) * (1 - share))))
    kept: list[str | None] = [before.get(clip["name"]) for clip in clips]
    if len(clips) == 1 or "train" not in kept or (tests and not {"test", None} & set(kept)):  # of each, one is left
        kept = [None] * len(clips)
    new = [index for index, split in enumerate(kept) if split is None]
    drawn = set(random.Random(seed).sample(new, min(max(0, tests - kept.count("test")), len(new))))
    splits = [split or ("test" if index in drawn else "train") for index, split in enumerate(kept)]
    clips = [{**clip, "split": split} for clip, split in zip(clips, splits, strict=True)]
    if len(clips) > 1 or share == 1:
        return clips
    (clip,) = clips
    last = max(2, round(clip["frames"] * (1 - share)))
    if clip["frames"] < last + 2:
        log.warning("The only clip, %s, is too short for a test split. All of it is for training.", clip["name"])
        return clips
    log.warning("There is one clip, %s, so its last %d frames become the test split.", shown(clip["name"]), last)
    first = clip["frames"] - last
    test = {"name": f"{clip['name']}[end]", "start": clip["start"] + first, "frames": last, "split": "test"}
    whole = {key: value for key, value in clip.items() if key != "original"}  # of which the first part tells
    return [{**clip, "frames": first}, {**whole, **test}]
