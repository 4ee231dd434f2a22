"""Small clips in the forms that people have, and what is read from them."""

import io
from collections import Counter

import numpy as np
import torch
from PIL import Image

from biflow.data.clips import find_clips


def clip(number, length=3, channels=3):
    """uint8 (T, H, W, C); the pixels are 40 x clip + frame."""
    values = (40 * number + np.arange(length)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values[:, None, None, None], (length, 8, 10, channels)))


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read(src, **options):
    """Name, split and frame values of each clip; all frames must come as uint8 (3, 8, 10)."""
    out = {}
    for item in find_clips(src, **options):
        for video in item.read(Counter()):
            frames = list(video.frames)
            assert all(frame.shape == (3, 8, 10) and frame.dtype == torch.uint8 for frame in frames)
            assert video.length == len(frames)
            out[item.name + video.part] = (item.split, [int(frame[1, 4, 5]) for frame in frames])
    return out


def values(src, **options):
    """The frame values of each clip, by name."""
    return {name: frames for name, (_, frames) in read(src, **options).items()}
