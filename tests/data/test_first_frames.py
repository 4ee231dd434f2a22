import numpy as np
import pytest
import torch
from PIL import Image

from biflow.data.starts import first_frames, starts
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.video import VideoWriter


def test_images_of_another_size_or_kind_are_converted_and_reported(tmp_path, caplog):
    Image.new("L", (40, 30), 200).save(tmp_path / "grey.png")
    frames = first_frames(tmp_path / "grey.png", (16, 16), None, 0)
    assert frames.shape == (1, 3, 16, 16)
    assert (frames == 200).all()
    assert "grey" in caplog.text
    assert "resized to 16x16" in caplog.text


def test_a_folder_gives_its_images_in_numerical_order(tmp_path):
    for number in (10, 2, 1):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("not an image")
    assert first_frames(tmp_path, (16, 16), None, 0)[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert first_frames(tmp_path, (16, 16), 4, 0)[:, 0, 0, 0].tolist() == [1, 2, 10, 1]
    assert first_frames(tmp_path, (16, 16), 2, 0)[:, 0, 0, 0].tolist() == [1, 2]


def test_hidden_files_are_no_images(tmp_path):
    for folder in ("0", "1", ".2", "@eaDir"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(tmp_path / folder / f"{i}.png")
            (tmp_path / folder / f"._{i}.png").write_bytes(b"\0\5\x16\7")
    assert first_frames(tmp_path / "0", (16, 16))[:, 0, 0, 0].tolist() == [0, 10]
    assert first_frames(tmp_path, (16, 16))[:, 0, 0, 0].tolist() == [10, 10]  # the last image of each folder


def test_at_most_8_images_are_taken_by_default(tmp_path):
    for number in range(9):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert first_frames(tmp_path, (16, 16), None, 0)[:, 0, 0, 0].tolist() == list(range(8))


def test_first_frames_of_a_prepared_set_come_from_its_test_split(prepared):
    test = Windows(prepared, split="test")
    known = torch.cat([test.clip(i) for i in range(len(test.clips))]).flatten(1)
    for frame in first_frames(prepared, (16, 16), 5, seed=1).flatten(1):
        assert (known == frame).all(1).any()


def test_the_draw_from_a_prepared_set_depends_on_the_seed_alone(prepared):
    test = Windows(prepared, split="test")
    order = np.random.default_rng(1).permutation(len(test))
    assert len(order) == 11
    frames = first_frames(prepared, (16, 16), 13, seed=1)  # the order repeats
    assert torch.equal(frames, torch.stack([test[i][1] for i in [*order.tolist(), *order[:2].tolist()]]))
    assert torch.equal(first_frames(prepared, (16, 16), None, seed=1), frames[:8])


def test_errors_name_the_setting(prepared, tmp_path):
    (tmp_path / "broken.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    sentences = {
        prepared: "holds 16x16 frames, but the model takes 8x8",
        tmp_path / "none": "does not exist. Give an image, a film, a folder of images or a prepared set",
        tmp_path / "empty": "There are no images in .*empty. Give an image",
        tmp_path / "broken.png": "cannot be read as an image",
    }
    for source, sentence in sentences.items():
        with pytest.raises(UserError, match=sentence) as refusal:
            first_frames(source, (8, 8), None, 0)
        assert refusal.value.setting == "first"
        assert "--" not in str(refusal.value)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of 5 frames of 32x32, whose grey values are 20, 60, 100, 140 and 180."""
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    with VideoWriter(path, 10, (32, 32), crf=0) as writer:
        for value in range(20, 200, 40):
            writer.write(torch.full((3, 32, 32), value, dtype=torch.uint8))
    return path


def grey(found) -> list:
    return found.float().mean((-3, -2, -1)).round(decimals=-1).tolist()


def test_a_film_gives_its_first_frame_and_with_a_past_those_that_follow_it(film, tmp_path, caplog):
    assert grey(first_frames(film, (32, 32))) == [20]
    assert grey(first_frames(film, (32, 32), 3)) == [20] * 3
    assert grey(starts(film, (32, 32), past=2).frames) == [[20, 60, 100]]
    assert grey(starts(film, (32, 32), 2, past=9).frames) == [[20, 60, 100, 140, 180]] * 2  # all that it has
    assert not caplog.text
    assert first_frames(film, (16, 24)).shape == (1, 3, 16, 24)
    assert "clip.mp4 is 32x32; resized to 24x16." in caplog.text
    colours = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    colours[0].save(tmp_path / "two.gif", save_all=True, append_images=colours[1:])
    assert starts(tmp_path / "two.gif", (8, 8), past=1).frames[0, :, :2, 0, 0].tolist() == [[255, 0], [0, 255]]


def test_an_image_without_a_telling_suffix_is_still_read(tmp_path):
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "photo", "PNG")
    assert first_frames(tmp_path / "photo", (8, 8))[0, :, 0, 0].tolist() == [9, 8, 7]


def test_what_is_neither_an_image_nor_a_film_is_refused(tmp_path):
    for name, sentence in {"notes.txt": "cannot be read as an image", "cut.mp4": "cannot be opened as a video"}.items():
        (tmp_path / name).write_text("neither")
        with pytest.raises(UserError, match=rf"{name} {sentence}") as refusal:
            first_frames(tmp_path / name, (8, 8))
        assert refusal.value.setting == "first"
