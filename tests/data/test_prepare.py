import errno
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from biflow import films, video
from biflow.config import Prepare
from biflow.data import writer
from biflow.data.prepare import prepare
from biflow.data.readers import READERS
from biflow.data.windows import Windows, is_prepared
from biflow.errors import UserError
from tests.making_films import write_film


def clip(number, length, height=12, width=16):
    """uint8 (T, 3, h, w); the pixels are 40 x clip + frame, so that a frame tells where it is from."""
    return (40 * number + torch.arange(length, dtype=torch.uint8))[:, None, None, None].expand(-1, 3, height, width)


def write_frames(folder, frames, name="{}.png"):
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(folder / name.format(index))


def run(src, dst, *, shape=None, **settings):
    return prepare(Prepare(src, dst, **{"size": 8, **settings}), shape=shape, progress=False)


def values(root, split="all"):
    """The value of each frame of each clip. Checks that each frame has a single value."""
    windows = Windows(root, split)
    frames = {entry["name"]: windows.clip(i) for i, entry in enumerate(windows.clips)}
    assert all((f == f[:, :1, :1, :1]).all() for f in frames.values())
    return {name: f[:, 0, 0, 0].tolist() for name, f in frames.items()}


@pytest.fixture
def folders(tmp_path):
    for number, length in enumerate([5, 4, 12, 3, 6]):
        write_frames(tmp_path / "src" / f"group{number % 2}" / f"clip{number}", clip(number, length))
    return tmp_path / "src"


def test_folders_of_frames(tmp_path, folders):
    index = run(folders, tmp_path / "out")
    assert index == json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["size"] == [8, 8]
    assert index["skipped"] == []
    got = values(tmp_path / "out")
    assert got["group0/clip2"] == list(range(80, 92))  # 10.png after 9.png
    assert got["group1/clip3"] == [120, 121, 122]
    assert len(got) == 5
    array = np.load(tmp_path / "out" / "frames.npy", mmap_mode="r")
    assert array.shape == (30, 3, 8, 8)
    assert array.dtype == np.uint8
    windows = Windows(tmp_path / "out", "all")
    both = windows.batch(range(len(windows)))[:, :, 0, 0, 0].int()
    assert len(windows) == 30 - 5
    assert (both[:, 1] - both[:, 0] == 1).all()


def test_stride_takes_every_nth_frame(tmp_path, folders):
    index = run(folders, tmp_path / "out", stride=3, fps=30.0)
    assert values(tmp_path / "out")["group0/clip2"] == [80, 83, 86, 89]
    assert [entry["fps"] for entry in index["clips"]] == [10.0] * 4
    assert [entry["name"] for entry in index["skipped"]] == ["group1/clip3"]  # 3 frames at stride 3: one


def test_split_is_by_clip_seeded_and_80_20(tmp_path, folders):
    splits = []
    for seed in (0, 0, 1, 2):
        out = tmp_path / f"out{len(splits)}"
        run(folders, out, seed=seed)
        train, test = values(out, "train"), values(out, "test")
        assert len(train) == 4
        assert len(test) == 1
        assert not set(train) & set(test)
        splits.append(set(test).pop())
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1
    run(folders, tmp_path / "all", split=1.0)
    assert len(values(tmp_path / "all", "train")) == 5


@pytest.mark.parametrize("names", [("train", "test"), ("sky_train", "sky_test"), ("train", "val")])
def test_split_of_the_source_is_kept(tmp_path, names):
    for number in range(4):
        write_frames(tmp_path / "src" / names[0] / f"v{number}", clip(number, 3))
    write_frames(tmp_path / "src" / names[1] / "v9", clip(4, 3))
    run(tmp_path / "src", tmp_path / "out")
    assert list(values(tmp_path / "out", "test")) == [f"{names[1]}/v9"]
    run(tmp_path / "src" / names[0], tmp_path / "half")  # a half alone is split anew
    assert len(values(tmp_path / "half", "test")) == 1


def test_the_end_of_a_single_clip_becomes_its_test_split(tmp_path, caplog):
    write_frames(tmp_path / "src", clip(1, 20))
    run(tmp_path / "src", tmp_path / "out")
    assert values(tmp_path / "out", "train") == {"src": list(range(40, 56))}
    assert values(tmp_path / "out", "test") == {"src[end]": list(range(56, 60))}
    assert "last 4 frames become the test split" in caplog.text
    write_frames(tmp_path / "short", clip(1, 3))
    run(tmp_path / "short", tmp_path / "short_out")
    assert values(tmp_path / "short_out", "train") == {"short": [40, 41, 42]}


def test_damaged_and_short_clips_are_named_skipped_and_counted(tmp_path, folders, caplog):
    broken = folders / "group0" / "clip2" / "7.png"
    broken.write_bytes(broken.read_bytes()[:45])
    write_frames(folders / "lonely", clip(0, 1))
    (folders / "bad.mp4").write_text("no video")
    np.save(folders / "actions.npy", np.zeros((7, 2)))
    index = run(folders, tmp_path / "out")
    assert {entry["name"] for entry in index["skipped"]} == {"group0/clip2", "lonely", "bad.mp4", "actions.npy"}
    for text in ("clip2/7.png cannot be read", "lonely has 1 frame at", "bad.mp4 cannot", "Skipped 4 of 8 clips"):
        assert text in caplog.text
    got = values(tmp_path / "out")  # what a broken clip had written before is gone
    assert got["group0/clip4"] == list(range(160, 166))
    assert got["group1/clip1"] == list(range(40, 44))
    assert len(got) == 4
    assert len(np.load(tmp_path / "out" / "frames.npy")) == 5 + 4 + 3 + 6
    with pytest.raises(UserError, match=r"clip2/7\.png|bad\.mp4|actions|lonely"):
        run(folders, tmp_path / "strict", strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "src"]


def test_more_clips_than_an_index_can_hold_are_refused_first(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("biflow.data.prepare.MOST_CLIPS", 4)
    with pytest.raises(UserError, match=r"has 5 clips, and a set at most 4\. Prepare a part of them"):
        run(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_without_clips_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    write_frames(tmp_path / "short", clip(0, 1))
    for src, text in (("empty", "holds no clips"), ("none", "does not exist"), ("short", "None of the 1 clips")):
        with pytest.raises(UserError, match=text):
            run(tmp_path / src, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "short"]


def test_sides_that_the_usual_network_cannot_take_are_told(tmp_path, folders, caplog):
    run(folders, tmp_path / "out", size=24)
    assert not caplog.text
    run(folders, tmp_path / "other", size=20)
    assert "needs sides that are multiples of 8, and these are 20x20" in caplog.text


def test_nothing_but_a_prepared_folder_is_replaced(tmp_path, folders):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match="not a prepared set"):
        run(folders, tmp_path / "mine", force=True)
    (tmp_path / "out").mkdir()
    run(folders, tmp_path / "out")
    with pytest.raises(UserError, match=r"prepared already\. .*replace it") as refusal:
        run(folders / "group1", tmp_path / "out")
    assert refusal.value.setting == "force"
    assert len(values(tmp_path / "out")) == 5
    run(folders / "group1", tmp_path / "out", force=True)
    assert len(values(tmp_path / "out")) == 2
    (tmp_path / "out" / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match=r"out also holds other files, such as thesis\.txt\."):
        run(folders, tmp_path / "out", force=True)
    (tmp_path / "out" / "thesis.txt").unlink()
    with pytest.raises(UserError, match="prepared already"):
        run(tmp_path / "out", tmp_path / "again")
    run(folders, folders / "inside")
    assert len(run(folders, folders / "inside", force=True)["clips"]) == 5  # it does not read itself
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out", "src"]


def test_clips_keep_their_split_where_a_set_is_made_anew_from_more_of_them(tmp_path, folders):
    def splits(**settings):
        return {entry["name"]: entry["split"] for entry in run(folders, tmp_path / "out", **settings)["clips"]}

    before = splits()
    for number in range(5, 15):
        write_frames(folders / "group2" / f"clip{number}", clip(number, 4))
    drawn_anew = {entry["name"]: entry["split"] for entry in run(folders, tmp_path / "other")["clips"]}
    assert {name: drawn_anew[name] for name in before} != before
    after = splits(force=True)
    assert {name: after[name] for name in before} == before
    assert list(after.values()).count("test") == 3
    assert splits(force=True, seed=1) != after
    shutil.rmtree(folders / "group2")
    assert splits(force=True, seed=0) == before
    (tested,) = (name for name, split in before.items() if split == "test")
    shutil.rmtree(folders / tested)
    assert list(splits(force=True).values()).count("test") == 1  # one of those that are left
    write_frames(folders / tested, clip(9, 6))
    (tmp_path / "out" / "index.json").write_text("{}")
    assert splits(force=True) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_run_that_is_cut_short_leaves_what_was_there(tmp_path, folders, monkeypatch, error):
    run(folders / "group1", tmp_path / "out")
    calls = []

    def resize(*args, **options):
        calls.append(1)
        if len(calls) == 20:
            raise error
        return video.resize(*args, **options)

    monkeypatch.setattr(writer, "resize", resize)
    expected = (
        pytest.raises(UserError, match="No space left")
        if isinstance(error, OSError)
        else pytest.raises(KeyboardInterrupt)
    )
    with expected:
        run(folders, tmp_path / "out", force=True)
    assert len(values(tmp_path / "out")) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "src"]


def test_what_a_killed_run_left_is_cleared(tmp_path, folders):
    (tmp_path / ".out.12345678.partial").mkdir()
    for name in (".lock", "frames.npy"):
        (tmp_path / ".out.12345678.partial" / name).write_text("half")
    run(folders, tmp_path / "out")
    assert is_prepared(tmp_path / "out")
    assert not (tmp_path / ".out.12345678.partial").exists()


def test_every_nth_frame_of_a_film_and_its_rate(tmp_path):
    (tmp_path / "src").mkdir()
    for number in range(2):
        pictures = [np.full((64, 64, 3), 8 * (20 * number + i), np.uint8) for i in range(6)]
        write_film(tmp_path / "src" / f"v{number}.mp4", pictures, fps=24, options={"crf": "1"})
    index = run(tmp_path / "src", tmp_path / "out", stride=2)
    assert [entry["fps"] for entry in index["clips"]] == [12.0, 12.0]
    windows = Windows(tmp_path / "out", "all")
    means = torch.stack([windows.clip(i).float().mean((1, 2, 3)) for i in range(2)])
    assert means.flatten().tolist() == pytest.approx([0, 16, 32, 160, 176, 192], abs=2)


def test_conversions_are_reported_once(tmp_path, caplog):
    for number in range(3):
        write_frames(tmp_path / "src" / str(number), clip(number, 4))
    for path in (tmp_path / "src" / "1").iterdir():
        Image.open(path).convert("L").save(path)
    run(tmp_path / "src", tmp_path / "out")
    assert values(tmp_path / "out")["1"] == [40, 41, 42, 43]
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == ["Converted to RGB: 4 grey frames."]


def test_size_and_crop(tmp_path):
    frames = torch.zeros(2, 3, 20, 60, dtype=torch.uint8)
    frames[..., 20:40] = 255
    write_frames(tmp_path / "src", frames)
    run(tmp_path / "src", tmp_path / "crop", crop=True)
    assert (Windows(tmp_path / "crop").clip(0) == 255).all()
    run(tmp_path / "src", tmp_path / "oblong", shape=(4, 12))
    assert Windows(tmp_path / "oblong").clip(0).shape == (2, 3, 4, 12)
    for name, value in (("size", 0), ("stride", 0), ("split", 0.0), ("split", 1.5)):
        with pytest.raises(UserError, match=f"{name} is {value}, but must be"):
            run(tmp_path / "src", tmp_path / "bad", **{name: value})


def test_images_beside_videos_and_the_range_of_floats_are_settings(tmp_path):
    write_frames(tmp_path / "src", clip(1, 3))
    with video.VideoWriter(tmp_path / "src" / "film.mp4", 25, (16, 16)) as writer:
        for _ in range(3):
            writer.write(torch.zeros(3, 16, 16, dtype=torch.uint8))
    np.save(tmp_path / "src" / "floats.npy", np.zeros((3, 8, 8, 3), np.float32))
    run(tmp_path / "src", tmp_path / "out")
    assert values(tmp_path / "out") == {"film.mp4": [0, 0, 0], "floats.npy": [0, 0, 0]}
    run(tmp_path / "src", tmp_path / "all", images=True, range="-1,1")
    assert values(tmp_path / "all") == {"film.mp4": [0] * 3, "floats.npy": [128] * 3, "src": [40, 41, 42]}


def test_arrays_that_cannot_be_used_are_skipped_by_name(tmp_path):
    good = clip(1, 3).permute(0, 2, 3, 1).contiguous().numpy()
    arrays = {"good": good, "big_endian": (good / 255).astype(">f8"), "small": good[:, :1, :1], "grey": good[0]}
    arrays |= {"none": good[:, :0], "nan": np.full((3, 8, 8, 3), np.nan), "flat": good[0, ..., 0]}
    (tmp_path / "src").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "src" / f"{name}.npy", array)
    np.save(tmp_path / "src" / "objects.npy", np.array([{}], object), allow_pickle=True)
    index = run(tmp_path / "src", tmp_path / "out")
    assert values(tmp_path / "out") == {f"{name}.npy": [40, 41, 42] for name in ("big_endian", "good", "small")}
    assert [entry["name"][:-4] for entry in index["skipped"]] == ["flat", "grey", "nan", "none", "objects"]
    assert all(entry["name"] in entry["why"] for entry in index["skipped"])


def test_readers_can_be_added(tmp_path, monkeypatch):
    def read(file, conversions):
        with file.open() as content:
            values = list(content.read())
        yield films.Video((torch.full((3, 8, 8), value, dtype=torch.uint8) for value in values), 5.0, len(values))

    monkeypatch.setitem(READERS, ".grey", read)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "clip.grey").write_bytes(bytes([1, 2, 3]))
    index = run(tmp_path / "src", tmp_path / "out", split=1.0)
    assert values(tmp_path / "out") == {"clip.grey": [1, 2, 3]}
    assert index["clips"][0]["fps"] == 5
