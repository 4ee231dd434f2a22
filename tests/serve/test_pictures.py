"""Which pictures of clients are read, and as what."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.errors import UserError
from biflow.serve.images import FORMATS, encode
from biflow.serve.reader import MAX_PIXELS, read


def decode(data, size):
    """The frame that a reader makes of a picture."""
    return torch.from_numpy(np.array(read(data, size))).permute(2, 0, 1)


def saved(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def test_pictures_are_encoded_in_every_format():
    picture = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)
    for form in FORMATS:
        assert decode(encode(picture, form), (16, 12)).shape == (3, 16, 12)
    assert torch.equal(decode(encode(picture, "png"), (8, 8)), picture)


def test_uploads_of_every_kind_and_bombs():
    assert decode(saved(Image.new("P", (9, 5)), "GIF"), (8, 8)).shape == (3, 8, 8)
    bomb = saved(Image.new("1", (14000, 14000)), "PNG")  # 196 million pixels in 24 kB
    smaller = saved(Image.new("1", (MAX_PIXELS // 1000, 1001)), "PNG")
    for data in (bomb, smaller):
        with pytest.raises(UserError, match="million pixels"):
            decode(data, (8, 8))
    for data in (b"", b"PK\x03\x04 zip", b"\x89PNG\r\n\x1a\n rest", saved(Image.new("RGB", (4, 4)), "BMP")):
        with pytest.raises(UserError, match=r"PNG, JPEG, WebP or GIF|cannot be read"):
            decode(data, (8, 8))


def photo(width, height, **options):
    """A JPEG whose left half is red, and whose right half is blue."""
    small = Image.new("RGB", (2, 1), (220, 30, 30))
    small.putpixel((1, 0), (30, 30, 220))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.NEAREST).save(file, "JPEG", quality=50, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "options"),
    [((4032, 3024), {}), ((8160, 6120), {}), ((3024, 4032), {"progressive": True}), ((90, 70), {})],
    ids=["12 million", "50 million", "progressive", "small"],
)
def test_a_photo_of_a_phone_is_made_smaller_while_it_is_read(size, options, monkeypatch):
    limits = []
    monkeypatch.setattr("biflow.serve.reader._limit", lambda image, most: limits.append(image.width * image.height))
    frame = decode(photo(*size, **options), (32, 32))
    red, blue = torch.tensor([220, 30, 30]), torch.tensor([30, 30, 220])
    assert (frame[:, 16, 4] - red).abs().max() < 12
    assert (frame[:, 16, 27] - blue).abs().max() < 12
    assert limits[0] == size[0] * size[1]
    assert limits[1] <= max(size[0] * size[1] / 64, 90 * 70)  # what is decoded


def test_photos_are_upright_and_of_any_colours():
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: the left of the file is the top of the picture
    frame = decode(photo(640, 480, exif=turned), (32, 32))
    assert frame[0, 4, 16] > 200 > 50 > frame[2, 4, 16]
    assert frame[2, 27, 16] > 200 > 50 > frame[0, 27, 16]
    assert decode(saved(Image.new("L", (40, 30), 99), "JPEG"), (8, 8)).float().mean() == pytest.approx(99, abs=1)
    assert decode(saved(Image.new("CMYK", (40, 30)), "JPEG"), (8, 8)).shape == (3, 8, 8)


def test_photos_that_cannot_be_read_are_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"HEIC.*JPEG"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100), (8, 8))
    for damaged in (photo(640, 480)[:2000], b"\xff\xd8\xff\xe0 rest", b"\xff\xd8"):
        with pytest.raises(UserError, match="damaged"):
            decode(damaged, (8, 8))
    with pytest.raises(UserError, match="more than 256 million pixels"):
        decode(_claims(photo(16, 16), 60000, 60000), (8, 8))
    with pytest.raises(UserError, match="more than 64 million pixels"):  # all of its content would be in memory
        decode(_claims(photo(16, 16, progressive=True), 9000, 9000), (8, 8))
    with pytest.raises(UserError, match="more than 16 million pixels"):  # so narrow that it cannot be made smaller
        decode(_claims(photo(16, 16), 65000, 300), (256, 256))


def _claims(data, width, height):
    """A JPEG that states another size."""
    at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    return data[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 9 :]
