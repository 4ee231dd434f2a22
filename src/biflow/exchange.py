"""Between the frames of a stream and the images, arrays and tensors that other libraries hand around."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from biflow.errors import UserError
from biflow.model import Model
from biflow.pictures import check_mode
from biflow.video import pixels_of, resize, to_float


def as_frames(image: Any, size: tuple[int, int]) -> Float[Tensor, "b *j 3 h w"]:
    """Images of any kind as frames of `size` in [-1, 1]. Raises UserError for what is none."""
    if isinstance(image, list | tuple):
        if not image:
            raise UserError("image is an empty list.", setting="image")
        parts = [as_frames(one, size) for one in image]
        if len({part.shape[1:] for part in parts}) > 1:
            raise UserError(
                "image is a list of frames with and without others before them; give one kind.", setting="image"
            )
        return torch.cat(parts)
    if isinstance(image, Image.Image):
        check_mode(image, "image", setting="image")
        image = pixels_of(ImageOps.exif_transpose(image))[0]
    if isinstance(image, np.ndarray) and image.ndim in (3, 4, 5) and image.shape[-1] == 3:
        image = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, -3)
    if not isinstance(image, Tensor) or image.ndim not in (3, 4, 5) or image.shape[-3] != 3:
        kind = f"of shape {tuple(image.shape)}" if hasattr(image, "shape") else f"a {type(image).__name__}"
        forms = "a PIL image, an array (h, w, 3), a tensor (3, h, w), a batch of these, or a list"
        raise UserError(f"image is {kind}, but must be {forms}.", setting="image")
    if not image.numel():
        raise UserError(f"image is empty, of shape {tuple(image.shape)}.", setting="image")
    image = image[None] if image.ndim == 3 else image
    flat = image.flatten(0, -4)
    if image.dtype != torch.uint8:
        must = "but must be uint8, or floats in [0, 1]"
        if not image.is_floating_point():
            raise UserError(f"image is {image.dtype}, {must}.", setting="image")
        if not (image.min() >= 0 and image.max() <= 1):
            found = f"{image.dtype} from {image.min():g} to {image.max():g}"
            raise UserError(f"image is {found}, {must}.", setting="image")
        frames = F.interpolate(flat.float(), size, mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1
    else:
        frames = to_float(resize(flat, size))
    return frames.unflatten(0, image.shape[:-3])


def check_weights(model: Model, why: str) -> None:
    """Raise UserError for a model that holds no weights, since an engine evaluates it."""
    if not isinstance(model.network, torch.nn.Module):
        raise UserError(f"{model.engine} cannot be {why}, then choose its engine.")


def as_type(frames: list[Tensor], output_type: str) -> Any:
    """Frames, each (b, 3, h, w), as videos of the type that was asked for."""
    videos = torch.stack(frames, dim=1)
    if output_type == "pil":
        pictures = videos.movedim(-3, -1).numpy()
        return [[Image.fromarray(picture) for picture in video] for video in pictures]
    videos = (videos.float() / 2 + 0.5).clamp(0, 1)
    return videos if output_type == "pt" else videos.movedim(-3, -1).numpy()
