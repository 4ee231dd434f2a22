import io
import pickle
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.data.clips import find_clips
from biflow.data.names import in_order
from biflow.errors import UserError


def clip(number, length=3, channels=3):
    """uint8 (T, H, W, C); the pixels are 40 x clip + frame."""
    values = (40 * number + np.arange(length)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values[:, None, None, None], (length, 8, 10, channels)))


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def read(src):
    """Name, split and frame values of each clip; all frames must come as uint8 (3, 8, 10)."""
    out = {}
    for item in find_clips(src):
        for video in item.read(Counter()):
            frames = list(video.frames)
            assert all(frame.shape == (3, 8, 10) and frame.dtype == torch.uint8 for frame in frames)
            assert video.length == len(frames)
            out[item.name + video.part] = (item.split, [int(frame[1, 4, 5]) for frame in frames])
    return out


def test_natural_order():
    names = ["f10", "f9", "f1b2", "f1b10", "g0"]
    assert in_order(names, str) == ["f1b2", "f1b10", "f9", "f10", "g0"]
    assert in_order(["2.png", "10.png", "1.png"], str) == ["1.png", "2.png", "10.png"]
    assert in_order(["v_frame_0010.jpg", "v_frame_9.jpg"], str) == ["v_frame_9.jpg", "v_frame_0010.jpg"]


def test_arrays_of_every_layout(tmp_path):
    np.save(tmp_path / "1_thwc.npy", clip(1))
    np.save(tmp_path / "2_tchw.npy", clip(2).transpose(0, 3, 1, 2))
    np.save(tmp_path / "3_grey.npy", clip(3)[..., 0])
    torch.save(torch.from_numpy(clip(4)), tmp_path / "4.pt")
    torch.save(torch.from_numpy(np.stack([clip(0), clip(5)])), tmp_path / "5_batch.pt")
    np.savez(tmp_path / "6.npz", a=clip(1), b=clip(2), labels=np.zeros(3))
    torch.save({"video": torch.from_numpy(clip(3)), "fps": 4}, tmp_path / "7_dict.pt")
    np.save(tmp_path / "8_unit.npy", clip(2).astype(np.float32) / 255)
    torch.save((torch.from_numpy(clip(1)).float() / 127.5 - 1).bfloat16().float(), tmp_path / "9_signed.pt")
    got = {name: values for name, (_, values) in read(tmp_path).items()}
    assert got.pop("9_signed.pt") == pytest.approx([40, 41, 42], abs=1)  # bfloat16 keeps 8 bits
    assert got == {
        "1_thwc.npy": [40, 41, 42],
        "2_tchw.npy": [80, 81, 82],
        "3_grey.npy": [120, 121, 122],
        "4.pt": [160, 161, 162],
        "5_batch.pt[0]": [0, 1, 2],
        "5_batch.pt[1]": [200, 201, 202],
        "6.npz[a]": [40, 41, 42],
        "6.npz[b]": [80, 81, 82],
        "7_dict.pt[video]": [120, 121, 122],
        "8_unit.npy": [80, 81, 82],
    }


def test_alpha_lies_over_black_and_conversions_are_counted(tmp_path):
    rgba = clip(5, channels=4).copy()
    rgba[..., 3] = 128
    np.save(tmp_path / "rgba.npy", rgba)
    notes = Counter()
    (item,) = find_clips(tmp_path / "rgba.npy")
    (video,) = item.read(notes)
    assert [int(frame[0, 0, 0]) for frame in video.frames] == [100, 101, 101]
    assert notes == {"RGBA": 3}
    assert item.name == "rgba.npy"
    assert item.source == str(tmp_path / "rgba.npy")


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


@pytest.mark.parametrize(
    ("name", "write", "text"),
    [
        ("a.pt", lambda path: torch.save(Payload(), path), "more than tensors"),
        ("b.pt", lambda path: path.write_bytes(pickle.dumps(Payload(), 2)), "more than tensors"),
        ("a.npy", lambda path: np.save(path, np.array([Payload()], object), allow_pickle=True), "Python objects"),
        ("c.pt", lambda path: path.write_bytes(b"not a tensor"), "cannot be read|more than tensors"),
        ("d.npy", lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read"),
        ("e.npy", lambda path: np.save(path, np.zeros((4, 5, 6, 7), np.uint8)), r"shape \(4, 5, 6, 7\)"),
        ("f.npy", lambda path: np.save(path, clip(0).astype(np.int64)), "int64"),
        ("g.npy", lambda path: np.save(path, clip(1).astype(np.float32)), "from 40 to 42"),
        ("h.npy", lambda path: np.save(path, np.full((3, 8, 10, 3), np.nan)), "nan"),
        ("i.npz", lambda path: np.savez(path, labels=np.zeros(3)), "no array of frames"),
    ],
)
def test_arrays_that_are_refused(tmp_path, name, write, text):
    write(tmp_path / name)
    with pytest.raises(UserError, match=text):
        read(tmp_path)


def test_nested_folders_hidden_files_and_links(tmp_path):
    for path in ("a/deep/er", "b/.cache", "__MACOSX"):
        (tmp_path / path).mkdir(parents=True)
        for frame in range(3):
            (tmp_path / path / f"{frame}.png").write_bytes(png(clip(1)[frame]))
    (tmp_path / "a" / "deep" / "er" / "._0.png").write_text("resource fork")
    (tmp_path / "a" / "notes.txt").write_text("words")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert read(tmp_path) == {"a/deep/er": (None, [40, 41, 42])}


def test_archives_are_read_in_place(tmp_path):
    frames = {f"train/v/{i}.png": png(clip(1, 12)[i]) for i in (10, 11, 2, 3, 1)}
    array = io.BytesIO()
    torch.save(torch.from_numpy(clip(2)), array)
    frames |= {"test/w.pt": array.getvalue(), "__MACOSX/train/v/._1.png": b"x"}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in frames.items():
            archive.writestr(name, data)
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        for name, data in frames.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    expected = {"train/v": ("train", [41, 42, 43, 50, 51]), "test/w.pt": ("test", [80, 81, 82])}
    assert read(tmp_path / "set.zip") == read(tmp_path / "set.tar.gz") == expected
    inside = {f"{name}/{key}": value for name in ("set.tar.gz", "set.zip") for key, value in expected.items()}
    assert read(tmp_path) == inside
    (item, *_) = find_clips(tmp_path / "set.zip")
    assert item.source == str(tmp_path / "set.zip" / "test/w.pt")


def test_damaged_archives_are_refused(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "text.tar.gz").write_text("no archive")
    for name in ("text.zip", "text.tar.gz"):
        with pytest.raises(UserError, match="cannot be read as an archive"):
            find_clips(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "hurt.zip", "w") as archive:
        archive.writestr("v/0.png", bytes(1000))
    data = bytearray((tmp_path / "hurt.zip").read_bytes())
    data[500] = 1
    (tmp_path / "hurt.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"v/0\.png cannot be unpacked"):
        read(tmp_path / "hurt.zip")
