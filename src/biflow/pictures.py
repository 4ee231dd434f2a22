"""What images become as RGB, with Pillow alone: importing it loads neither NumPy nor PyTorch."""

from PIL import Image

from biflow.errors import UserError


def to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """An image over black, and which kind it was ("grey", "RGBA", ...) if it was not RGB, else None."""
    converted = None
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")  # the upper 8 bits
        converted = "16-bit grey" if image.getbbox() else "16-bit grey (black: no value is above 255)"
        image.info.pop("transparency", None)  # one of 65,536 levels
    elif image.mode != "RGB":
        converted = {"L": "grey", "1": "black and white", "P": "palette"}.get(image.mode, image.mode)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB"), converted


def check_mode(image: Image.Image, name: str, setting: str | None = None) -> None:
    """Raise UserError for an image whose values may mean anything."""
    if image.mode in ("I", "F"):
        raise UserError(
            f"{name} has {image.mode} pixels, whose range is unknown. Save it as 8-bit RGB.", setting=setting
        )
