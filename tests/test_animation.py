import numpy as np
import pytest
import torch
from PIL import Image

from biflow.animation import AnimationWriter
from biflow.errors import UserError


def frames(count, side=16):
    """A bright square that moves over a dark ground, uint8 (3, side, side) each."""
    pictures = torch.full((count, 3, side, side), 30, dtype=torch.uint8)
    for i in range(count):
        pictures[i, :, 4:8, i % 12 : i % 12 + 4] = torch.tensor([220, 180, 60], dtype=torch.uint8)[:, None, None]
    return pictures


def read(path):
    """The pictures of a file (n, h, w, 3), how long each stands in ms, and how often they repeat (0: for ever)."""
    with Image.open(path) as image:
        pictures, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            pictures.append(np.asarray(image.convert("RGB")))
            times.append(image.info["duration"])
        return np.stack(pictures), times, image.info["loop"]


@pytest.mark.parametrize(("kind", "near"), [("gif", 1), ("webp", 12)])
def test_an_animation_holds_the_frames_and_repeats_for_ever(kind, near, tmp_path):
    given = frames(12)
    with AnimationWriter(tmp_path / f"a.{kind}", 10, (16, 16), scale=4) as animation:
        for frame in given:
            animation.write(frame)
    pictures, times, loop = read(tmp_path / f"a.{kind}")
    assert (pictures.shape, times, loop) == ((12, 64, 64, 3), [100] * 12, 0)
    wanted = given.movedim(1, -1).numpy().repeat(4, 1).repeat(4, 2).astype(int)
    assert np.abs(pictures - wanted).mean() < near
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{kind}"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize("fps", [7.0, 17.5, 29.97, 60.0, 120.0])
def test_it_plays_at_the_rate_of_the_video(kind, fps, tmp_path):
    count = 36
    with AnimationWriter(tmp_path / f"a.{kind}", fps, (16, 16)) as animation:
        for frame in frames(count):
            animation.write(frame)
    _, times, _ = read(tmp_path / f"a.{kind}")
    assert sum(times) == pytest.approx(1000 * count / fps, abs=21)
    assert min(times) >= {"gif": 20, "webp": 8}[kind]  # browsers show shorter ones for 100 ms
    if fps < 50:
        assert len(times) == count


def test_each_picture_of_a_gif_has_its_own_colours(tmp_path):
    ramps = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    black = torch.zeros(16, 16, dtype=torch.uint8)
    given = [torch.stack([ramps[0], black, black]), torch.stack([black, black, ramps[0]])]
    with AnimationWriter(tmp_path / "a.gif", 10, (16, 16)) as animation:
        for frame in given:
            animation.write(frame)
    pictures, _, _ = read(tmp_path / "a.gif")
    for picture, frame in zip(pictures, given, strict=True):
        assert np.abs(picture.astype(int) - frame.movedim(0, -1).numpy()).max() <= 2


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_is_whole_or_absent(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), AnimationWriter(path, 10, (16, 16)) as animation:  # noqa: PT012
        animation.write(frames(1)[0])
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="got no frames"), AnimationWriter(path, 10, (16, 16)):
        pass
    with (
        pytest.raises(UserError, match=r"takes frames of \(16, 16\)"),
        AnimationWriter(path, 10, (16, 16)) as animation,
    ):
        animation.write(frames(1, 8)[0])
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"before", 1)


def test_what_cannot_be_an_animation_is_refused(tmp_path):
    for name, how, sentence in (
        ("a.png", {}, r"Name it \.webp or \.gif"),
        ("a.gif", {"scale": 0}, "scale of at least 1"),
        ("nowhere.txt/a.gif", {}, "cannot be written"),
    ):
        (tmp_path / "nowhere.txt").touch()
        with pytest.raises(UserError, match=sentence):
            AnimationWriter(tmp_path / name, 10, (16, 16), **how)


def test_an_animation_that_fails_is_discarded_and_its_error_passed_on_whatever_closing_does(tmp_path):
    def broken():
        raise OSError("closing fails as well")

    def write():
        with AnimationWriter(tmp_path / "a.gif", 10, (16, 16)) as animation:
            animation.write(frames(1)[0])
            animation._file.callback(broken)
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        write()
    assert list(tmp_path.iterdir()) == []
