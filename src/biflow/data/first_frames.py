"""The frames that streams start from."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from biflow.data.readers import natural
from biflow.data.windows import Windows, is_prepared
from biflow.errors import UserError
from biflow.video import IMAGE_SUFFIXES, read_image, resize

log = logging.getLogger("biflow")
DEFAULT = 8  # first frames, where a source has as many and nobody says how many


def first_frames(
    source: Path | str, size: tuple[int, int], samples: int | None = None, seed: int = 0
) -> UInt8[Tensor, "b 3 h w"]:
    """First frames for `samples` videos: an image, the images of a folder, or frames of a prepared set's test split.

    Images of another size are resized, which the logger "biflow" reports. If there are fewer images than `samples`,
    they repeat. From a prepared set, `seed` draws the second frames of random pairs, as the paper's code does.

    Args:
        source: an image, a folder of images, or a prepared folder.
        size: (h, w) that the model takes.
        samples: number of frames; by default one per image, at most 8, or 8 from a prepared set.
        seed: seed of the draw from a prepared set.

    Raises:
        UserError: nothing to start from, or a prepared set of another size. Its `setting` is "first".
    """
    source = Path(source)
    try:
        return _from_prepared(source, size, samples, seed) if is_prepared(source) else _images(source, size, samples)
    except UserError as error:
        raise UserError(str(error), setting="first") from error


def _from_prepared(source: Path, size: tuple[int, int], samples: int | None, seed: int) -> Tensor:
    test = Windows(source, split="test")
    if test.size != tuple(size):
        held, taken = ("x".join(map(str, sides)) for sides in (test.size, size))
        raise UserError(f"{source} holds {held} frames, but the model takes {taken}.")
    order = np.random.default_rng(seed).permutation(len(test))
    return test.batch(np.resize(order, samples or DEFAULT))[:, 1]


def _images(source: Path, size: tuple[int, int], samples: int | None) -> Tensor:
    what = "Give an image, a folder of images or a prepared set."
    if not source.exists():
        raise UserError(f"{source} does not exist. {what}")
    files = [source]
    if source.is_dir():
        files = [file for file in source.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        files.sort(key=lambda file: natural(file.name))
    if not files:
        raise UserError(f"There are no images in {source}. {what}")
    samples = samples or min(len(files), DEFAULT)
    frames = []
    for file in files[:samples]:
        frame = read_image(file)
        if frame.shape[-2:] != tuple(size):
            log.warning("%s is %dx%d; resized to %dx%d.", file, *frame.shape[-2:], *size)
            frame = resize(frame[None], size)[0]
        frames.append(frame)
    return torch.stack([frames[i % len(frames)] for i in range(samples)])
