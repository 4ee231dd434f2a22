"""Arrays and tensors in .npy, .npz and .pt files."""

import io

import numpy as np
import torch

from tests.clips import clip, npy
from tests.fuzz.archive import mend_zip
from tests.fuzz.reading import read


def seeds() -> list[bytes]:
    """Arrays of several shapes, kinds and orders of memory, alone and with others."""
    frames = clip(1)
    arrays = [frames, frames.transpose(0, 3, 1, 2), frames[..., 0], np.asfortranarray(frames), np.stack([frames] * 2)]
    found = [npy(array) for array in arrays]
    for kind in ("<f4", ">f2", ">f8", "g", "<i4", "?", "<c8"):
        found.append(npy((frames / 255).astype(kind)))
    for save in (np.savez, np.savez_compressed):
        data = io.BytesIO()
        save(data, video=frames, actions=np.zeros((3, 2)), labels=np.zeros(3))
        found.append(data.getvalue())
    tensor = torch.from_numpy(frames.copy())
    tensors = [tensor, tensor / 255, tensor[..., :1].expand(-1, -1, -1, 3), {"video": tensor}, [tensor, tensor[:2]]]
    for number, content in enumerate([*tensors, tensor.float().to_sparse()]):
        for zipped in (True, False)[: 1 + (number < 2)]:
            data = io.BytesIO()
            torch.save(content, data, _use_new_zipfile_serialization=zipped)
            found.append(data.getvalue())
    return found


def one(data: bytes) -> None:
    """Read it as each kind of file of arrays."""
    read({"x.npy": data, "x.pt": data})


def mend(data: bytes) -> bytes:
    """Checksums of a zip that fit its content."""
    return mend_zip(data)
