import errno

import av
import numpy as np
import pytest
import torch
from PIL import Image

from biflow import films, limits, video
from biflow.animation import AnimationWriter
from biflow.errors import UserError

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 100, 30)]


def plain(colour, height=32, width=48):
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


def test_uint8_and_float_are_inverses():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = video.to_float(levels)
    assert floats.dtype == torch.float32
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(video.to_uint8(floats), levels)
    beyond = torch.tensor([-3.0, 3.0, 0.0]).reshape(1, 1, 3)
    assert video.to_uint8(beyond).flatten().tolist() == [0, 255, 128]
    assert beyond.flatten().tolist() == [-3, 3, 0]  # the input is left alone


def test_resize_is_what_pillow_does():
    frames = torch.randint(0, 256, (2, 3, 45, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = video.resize(frames, (16, 16))
    image = Image.fromarray(frames[1].permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BICUBIC)
    theirs = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert (ours[1].int() - theirs.int()).abs().max() <= 1


def test_resize_squeezes_and_crop_keeps_the_aspect():
    frames = torch.zeros(1, 3, 20, 60, dtype=torch.uint8)
    frames[..., 20:40] = 255  # the middle third is a square
    assert (video.resize(frames, (10, 10), crop=True) == 255).all()
    squeezed = video.resize(frames, (10, 10))
    assert squeezed[0, 0, 5, 0] == 0
    assert squeezed[0, 0, 5, 5] == 255
    tall = video.resize(frames.transpose(-1, -2), (10, 10), crop=True)
    assert (tall == 255).all()


def test_images_of_all_kinds_become_rgb(tmp_path, caplog):
    grey, rgba = Image.new("L", (6, 4), 77), Image.new("RGBA", (6, 4), (200, 100, 50, 128))
    deep = Image.fromarray(np.full((4, 6), 130 * 256, np.uint16))
    for name, image in {"grey": grey, "rgba": rgba, "palette": grey.convert("P"), "deep": deep}.items():
        image.save(tmp_path / f"{name}.png")
    assert (video.read_image(tmp_path / "grey.png") == 77).all()
    assert "grey.png is grey; converted to RGB" in caplog.text
    assert video.read_image(tmp_path / "rgba.png")[:, 0, 0].tolist() == [100, 50, 25]  # over black
    assert "RGBA" in caplog.text
    assert (video.read_image(tmp_path / "palette.png") == 77).all()
    assert (video.read_image(tmp_path / "deep.png") == 130).all()
    Image.fromarray(np.full((4, 6), 130, np.uint16)).save(tmp_path / "dark.png")
    assert (video.read_image(tmp_path / "dark.png") == 0).all()
    assert "dark.png is 16-bit grey (black: no value is above 255)" in caplog.text
    half = np.zeros((600, 6), np.uint16)  # the last of its strips is black, and the picture is not
    half[:500] = 30_000
    Image.fromarray(half).save(tmp_path / "half.png")
    caplog.clear()
    video.read_image(tmp_path / "half.png")
    assert "half.png is 16-bit grey; converted" in caplog.text
    Image.new("RGB", (6, 4)).save(tmp_path / "rgb.png")
    caplog.clear()
    assert video.read_image(tmp_path / "rgb.png").shape == (3, 4, 6)
    assert not caplog.text
    assert video.read_image(tmp_path / "rgb.png", 8).shape == (3, 8, 8)
    assert video.read_image(tmp_path / "rgb.png", (2, 3)).shape == (3, 2, 3)


def test_images_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.jpg", "text.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read as an image"):
            video.read_image(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        video.read_image(tmp_path / "none.png")
    Image.new("1", (65_536, 1)).save(tmp_path / "long.png")
    with pytest.raises(UserError, match=r"long\.png has frames of 65536x1, longer than 65,535 pixels"):
        video.read_image(tmp_path / "long.png")
    monkeypatch.setattr(limits, "PIXELS", 1000)
    with pytest.raises(UserError, match="64x64, more than 1,000 pixels"):
        video.read_image(tmp_path / "whole.jpg")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_written_frames_come_back(tmp_path, suffix):
    path = tmp_path / f"colours{suffix}"
    with video.VideoWriter(path, fps=12.5, size=(32, 48)) as writer:
        for colour in COLOURS:
            writer.write(plain(colour))
        assert not path.exists()
    read = films.decode(path)
    frames = list(read.frames)
    assert read.fps == 12.5
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (3, 32, 48)
        assert (frame.int() - plain(colour).int()).abs().max() <= 3
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_odd_sides_are_padded_and_never_resampled(tmp_path):
    frame = torch.zeros(3, 33, 31, dtype=torch.uint8)
    frame[:, :, 15:] = 255
    with video.VideoWriter(tmp_path / "odd.mp4", fps=25, size=(33, 31)) as writer:
        writer.write(frame)
    (read,) = films.decode(tmp_path / "odd.mp4").frames
    assert read.shape == (3, 34, 32)
    assert (read[:, :, :14] < 20).all()
    assert (read[:, :, 16:] > 235).all()
    with video.VideoWriter(tmp_path / "big.mp4", fps=25, size=(33, 31), scale=4) as writer:
        writer.write(frame[:1])  # grey will do
    (read,) = films.decode(tmp_path / "big.mp4").frames
    assert read.shape == (3, 132, 124)
    assert (read[:, :, :58] < 20).all()
    assert (read[:, :, 62:] > 235).all()


def write(path, frames, fail=None):
    with video.VideoWriter(path, fps=25, size=(32, 48)) as writer:
        for frame in frames:
            writer.write(frame)
        if fail:
            raise fail


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "old.mp4").write_text("what was there")
    with pytest.raises(KeyError):
        write(tmp_path / "old.mp4", [plain((0, 0, 0))], KeyError())
    with pytest.raises(UserError, match="takes uint8 frames"):
        write(tmp_path / "new.mp4", [plain((0, 0, 0), 16, 16)])
    with pytest.raises(UserError, match="no frames"):
        write(tmp_path / "new.mp4", [])
    with pytest.raises(UserError, match=r"Name it \.mp4"):
        video.VideoWriter(tmp_path / "new.webm", fps=25, size=(32, 48))
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_text() == "what was there"


@pytest.mark.parametrize("name", ["mux", "close"])
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch, name):
    class Full:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, attribute):
            return self.fail if attribute == name else getattr(self.container, attribute)

        def fail(self, *packets):
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: Full(opened(*args, **options)))
    with pytest.raises(UserError, match=r"No space left to write .*a\.mp4\."):
        write(tmp_path / "a.mp4", [plain((0, 0, 0))])
    assert list(tmp_path.iterdir()) == []


def test_an_exception_of_the_body_is_passed_on_as_it_is(tmp_path):
    with pytest.raises(InterruptedError):
        write(tmp_path / "a.mp4", [plain((0, 0, 0))], InterruptedError())
    assert list(tmp_path.iterdir()) == []


def test_a_video_cannot_replace_a_folder_or_be_in_a_file(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match=r"folder\.mp4 cannot be written: it is a folder"):
        write(tmp_path / "folder.mp4", [plain((0, 0, 0))])
    with pytest.raises(UserError, match=r"a\.mp4 cannot be written: .*file is not a folder"):
        write(tmp_path / "file" / "a.mp4", [plain((0, 0, 0))])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_contact_sheet(tmp_path):
    rows = [[plain(colour, 8, 12) for colour in COLOURS[:3]], [plain((9, 9, 9), 8, 12)]]
    path = tmp_path / "sheet.png"
    video.contact_sheet(rows, path, ["a caption", "and another"], ["one", "two"], scale=3, gap=2)
    sheet = video.read_image(path)
    assert (sheet[:, -25:-1, -3:].min()) == 255  # the second row ends early and leaves white
    blue = (sheet[0] == 0) & (sheet[1] == 0) & (sheet[2] == 255)
    assert blue.sum() == 8 * 12 * 9
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(UserError, match="no frames"):
        video.contact_sheet([[]], path)


@pytest.mark.parametrize("pixels", [(1, 1), (4, 5), (8, 8)])
def test_resized_frames_are_contiguous(pixels):
    frames = torch.zeros(2, *pixels, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert video.resize(frames, (8, 8)).numpy().data.c_contiguous


@pytest.mark.parametrize("writer", [video.VideoWriter, AnimationWriter])
def test_a_picture_larger_than_the_formats_have_is_refused(tmp_path, writer):
    kind = "mp4" if writer is video.VideoWriter else "webp"
    with pytest.raises(
        UserError, match="would have 16640x128 at scale 32, and a side has at most 16383 pixels"
    ) as error:
        writer(tmp_path / f"wide.{kind}", 10, (4, 520), scale=32)
    assert error.value.setting == "scale"
    assert list(tmp_path.iterdir()) == []
