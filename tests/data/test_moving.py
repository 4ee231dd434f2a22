from collections import Counter

import numpy as np
import pytest
from PIL import Image, features

from biflow.data.clips import find_clips
from biflow.errors import UserError
from tests.clips import clip, png, values, write

avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def animation(path, pictures, **options):
    first, *more = map(Image.fromarray, pictures)
    first.save(
        path, save_all=True, append_images=more, **({"lossless": True} if path.suffix == ".webp" else {}), **options
    )


def video(src):
    (item,) = find_clips(src)
    (found,) = item.read(Counter())
    return found


@pytest.mark.parametrize("ending", ["webp", "png", "apng", "tif", "tiff", pytest.param("avif", marks=avif)])
def test_each_moving_picture_is_a_clip(tmp_path, ending):
    for name in ("1", "2"):
        options = {"format": "PNG"} if ending == "apng" else {"quality": 100} if ending == "avif" else {}
        animation(tmp_path / f"{name}.{ending}", clip(1, 4), **options)
    got = values(tmp_path)
    assert got.keys() == {f"1.{ending}", f"2.{ending}"}
    assert np.abs(np.array(list(got.values())) - [40, 41, 42, 43]).max() <= (1 if ending == "avif" else 0)


def test_actions_of_a_moving_picture_lie_beside_it(tmp_path):
    animation(tmp_path / "walk.webp", clip(1, 4))
    (tmp_path / "walk.csv").write_text("turn\n0\n1\n0\n")
    (item,) = find_clips(tmp_path)
    assert item.actions is not None
    assert item.actions.rows.tolist() == [[0], [1], [0]]


def test_still_pictures_are_frames_of_their_folder(tmp_path):
    for name, options in {"0.webp": {"lossless": True}, "1.png": {}, "2.tif": {}}.items():
        Image.fromarray(clip(1)[int(name[0])]).save(tmp_path / name, **options)
    Image.fromarray(clip(1, 4)[3]).save(tmp_path / "3.png", save_all=True, append_images=[])
    pages = [Image.fromarray(clip(1, 5)[4]), Image.fromarray(clip(1, 5)[4]).resize((5, 4))]
    pages[0].save(tmp_path / "4.tif", save_all=True, append_images=pages[1:])  # a picture and a preview of it
    assert values(tmp_path) == {tmp_path.name: [40, 41, 42, 43, 44]}


@pytest.mark.parametrize("ending", ["webp", "png"])
@pytest.mark.parametrize(
    ("durations", "fps", "shown"),
    [
        ([100] * 4, 10, [100] * 4),
        ([33, 33, 34, 33], 4000 / 133, [33, 33, 34, 33]),  # whole milliseconds
        ([100, 300, 100, 200], 10, [100, 300, 100, 200]),
        ([50, 2000, 0, 50], 20, [50, 2000, 100, 50]),  # 0 is 100 ms
    ],
)
def test_pictures_are_held_as_long_as_the_file_says(tmp_path, ending, durations, fps, shown):
    animation(tmp_path / f"film.{ending}", clip(1, 4), duration=durations)
    found = video(tmp_path)
    assert found.fps == pytest.approx(fps, rel=1e-3)
    assert [int(frame[0, 0, 0]) for frame in found.frames] == [40, 41, 42, 43]
    assert found.times == pytest.approx(np.cumsum([0, *shown]) / 1000)


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_pictures_are_composed_over_black(tmp_path, ending):
    pictures = np.zeros((2, 8, 10, 4), np.uint8)
    pictures[0] = (200, 100, 50, 255)
    pictures[1, :, :5] = (200, 100, 50, 128)  # the right half is transparent
    disposal = {"disposal": 1, "blend": 0} if ending == "png" else {}
    animation(tmp_path / f"film.{ending}", pictures, duration=100, **disposal)
    first, second = video(tmp_path).frames
    assert first[:, 0, 9].tolist() == [200, 100, 50]
    assert second[:, 0, 0].tolist() == [100, 50, 25]
    assert second[:, 0, 9].tolist() == [0, 0, 0]


def test_pictures_blend_over_those_before(tmp_path):
    pictures = np.zeros((2, 8, 10, 4), np.uint8)
    pictures[0] = (200, 100, 50, 255)
    pictures[1, :, :5] = (0, 0, 250, 255)
    animation(tmp_path / "film.png", pictures, duration=100, disposal=0, blend=1)
    _, second = video(tmp_path).frames
    assert second[:, 0, 0].tolist() == [0, 0, 250]
    assert second[:, 0, 9].tolist() == [200, 100, 50]


def test_the_still_for_other_programs_is_no_frame(tmp_path):
    animation(tmp_path / "film.png", clip(1, 4), duration=100, default_image=True)
    assert values(tmp_path) == {"film.png": [41, 42, 43]}


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_damaged_moving_pictures_are_named_as_clips(tmp_path, ending):
    animation(tmp_path / f"film.{ending}", np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), np.uint8))
    data = (tmp_path / f"film.{ending}").read_bytes()
    for length in (len(data) // 2, len(data) - 100):
        (tmp_path / f"film.{ending}").write_bytes(data[:length])
        for name in ("0.png", "1.png"):
            write(tmp_path / "walk" / name, png(clip(1)[0]))
        items = {item.name: item for item in find_clips(tmp_path)}
        assert items.keys() == {f"film.{ending}", "walk"}
        with pytest.raises(UserError, match=rf"film\.{ending} cannot be read as an animation"):
            list(next(items[f"film.{ending}"].read(Counter())).frames)


def test_an_animation_among_many_frames_does_not_hide_them(tmp_path):
    animation(tmp_path / "all.webp", clip(1, 4))
    for i, picture in enumerate(clip(2, 5)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert values(tmp_path) == {"all.webp": [40, 41, 42, 43], tmp_path.name: [80, 81, 82, 83, 84]}


def test_every_page_of_a_tiff_has_to_be_of_a_possible_size(tmp_path):
    first, *others = map(Image.fromarray, clip(1, 2))
    long = Image.new("1", (65_536, 1))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[*others, long])
    with pytest.raises(UserError, match=r"pages\.tif has frames of 65536x1, longer than 65,535 pixels"):
        video(tmp_path)
