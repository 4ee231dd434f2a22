"""The six published sets, as small files of the form in which their owners ship them."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import Prepare
from biflow.data.fetch import DATASETS
from biflow.data.prepare import prepare
from biflow.data.windows import Windows
from biflow.video import VideoWriter


def jpeg(value, height=36, width=64):
    data = io.BytesIO()
    Image.new("RGB", (width, height), (value, value, value)).save(data, "JPEG", quality=95)
    return data.getvalue()


def mp4(path, values):
    with VideoWriter(path, fps=20, size=(64, 64), crf=1) as writer:
        for value in values:
            writer.write(torch.full((3, 64, 64), value, dtype=torch.uint8))
    return path.read_bytes()


def prepared(src, dst):
    """The split of each clip and the mean of each of its frames."""
    prepare(Prepare(src, dst, size=16, strict=True), progress=False)
    windows = Windows(dst, "all")
    return {
        entry["name"]: (entry["split"], windows.clip(i).float().mean((1, 2, 3)).round().int().tolist())
        for i, entry in enumerate(windows.clips)
    }


def test_every_set_says_where_it_is_and_under_which_terms():
    assert list(DATASETS) == ["sky", "biking", "riding", "carla", "mazes", "minerl"]
    for published in DATASETS.values():
        assert published.licence
        assert published.page.startswith("https://")
        assert published.size in (64, 128)
        assert bool(published.files) + bool(published.listing) + bool(published.manual) == 1


def test_sky(tmp_path):
    with zipfile.ZipFile(tmp_path / "sky_timelapse.zip", "w") as archive:
        for split, video, start in (("train", "rM7aPu9WV2Q", 100), ("train", "x2", 50), ("test", "_yaA0", 10)):
            for i in range(4):
                name = f"sky_timelapse/sky_{split}/{video}/{video}_1/{video}_frames_{86552 + i:08d}.jpg"
                archive.writestr(name, jpeg(start + 5 * i))
    assert prepared(tmp_path / "sky_timelapse.zip", tmp_path / "out") == {
        "sky_timelapse/sky_test/_yaA0/_yaA0_1": ("test", [10, 15, 20, 25]),
        "sky_timelapse/sky_train/rM7aPu9WV2Q/rM7aPu9WV2Q_1": ("train", [100, 105, 110, 115]),
        "sky_timelapse/sky_train/x2/x2_1": ("train", [50, 55, 60, 65]),
    }


@pytest.mark.parametrize("name", ["biking", "riding"])
def test_biking_and_riding(tmp_path, name):
    folder = tmp_path / name / "0144x0256"
    folder.mkdir(parents=True)
    for shard in range(2):
        with zipfile.ZipFile(folder / f"partition_{shard:04d}.zip", "w", zipfile.ZIP_STORED) as archive:
            for part in range(3):
                for i in range(3):
                    frame = f"vid{shard}/0_0{part}-0_1{part}/frame_{i:06d}.jpg"
                    archive.writestr(frame, jpeg(100 * shard + 20 * part + 5 * i, 144, 256))
            archive.writestr("frame_paths.json", "{}")
    got = prepared(tmp_path / name, tmp_path / "out")
    assert got["0144x0256/partition_0001.zip/vid1/0_02-0_12"][1] == [140, 145, 150]
    assert sorted(split for split, _ in got.values()) == ["test"] + 5 * ["train"]


def test_carla(tmp_path):
    def add(archive, name, data):
        info = tarfile.TarInfo(f"no-traffic/{name}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    with tarfile.open(tmp_path / "no-traffic.tar.gz", "w:gz") as archive:
        for number in (10, 2, 3):
            data = io.BytesIO()
            frames = torch.arange(4, dtype=torch.uint8) + 20 * number
            torch.save(frames[:, None, None, None].expand(4, 128, 128, 3).contiguous(), data)
            add(archive, f"video_{number}.pt", data.getvalue())
        add(archive, "video_train.csv", b",path\n0,/home/owner/video_2.pt\n1,/home/owner/video_3.pt\n")
        add(archive, "video_test.csv", b",path\n2,/home/owner/video_10.pt\n")
    expected = {f"no-traffic/video_{n}.pt": ("train", [20 * n + i for i in range(4)]) for n in (2, 3)}
    expected["no-traffic/video_10.pt"] = ("test", [200, 201, 202, 203])
    assert prepared(tmp_path / "no-traffic.tar.gz", tmp_path / "out") == expected
    with tarfile.open(tmp_path / "no-traffic.tar.gz") as archive:  # or unpacked, as its owners' script does
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert prepared(tmp_path / "unpacked", tmp_path / "out2") == expected


@pytest.mark.parametrize(("name", "top"), [("gqn_mazes", ""), ("minerl_navigate", "minerl_navigate/")])
def test_mazes_and_minerl(tmp_path, name, top):
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
        for split, number in (("train", 1), ("train", 2), ("test", 1)):
            values = [100 * (split == "test") + 30 * number + i * 8 for i in range(3)]
            archive.writestr(f"{top}{split}/{number}.mp4", mp4(tmp_path / "clip.mp4", values))
            archive.writestr(f"{top}{split}/{number}.json", "{}")
    got = prepared(tmp_path / f"{name}.zip", tmp_path / "out")
    assert {key: split for key, (split, _) in got.items()} == {
        f"{top}test/1.mp4": "test",
        f"{top}train/1.mp4": "train",
        f"{top}train/2.mp4": "train",
    }
    assert np.abs(np.array(got[f"{top}test/1.mp4"][1]) - [130, 138, 146]).max() <= 2
    assert Windows(tmp_path / "out").fps == 20
