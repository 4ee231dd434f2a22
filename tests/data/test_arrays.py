import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from biflow.data.clips import find_clips
from biflow.errors import UserError
from tests.clips import clip, read, values


def test_arrays_of_every_layout(tmp_path):
    np.save(tmp_path / "1_thwc.npy", clip(1))
    np.save(tmp_path / "2_tchw.npy", clip(2).transpose(0, 3, 1, 2))
    np.save(tmp_path / "3_grey.npy", clip(3, 5)[..., 0])
    torch.save(torch.from_numpy(clip(4)), tmp_path / "4.pt")
    torch.save(torch.from_numpy(np.stack([clip(0), clip(5)])), tmp_path / "5_batch.pt")
    np.savez(tmp_path / "6.npz", a=clip(1), b=clip(2), labels=np.zeros(3))
    torch.save({"video": torch.from_numpy(clip(3)), "fps": 4}, tmp_path / "7_dict.pt")
    np.save(tmp_path / "8_unit.npy", clip(2).astype(np.float32) / 255)
    torch.save(torch.from_numpy(clip(1)).bfloat16() / 256, tmp_path / "9_bfloat16.pt")
    assert values(tmp_path) == {
        "1_thwc.npy": [40, 41, 42],
        "2_tchw.npy": [80, 81, 82],
        "3_grey.npy": [120, 121, 122, 123, 124],
        "4.pt": [160, 161, 162],
        "5_batch.pt[0]": [0, 1, 2],
        "5_batch.pt[1]": [200, 201, 202],
        "6.npz[a]": [40, 41, 42],
        "6.npz[b]": [80, 81, 82],
        "7_dict.pt[video]": [120, 121, 122],
        "8_unit.npy": [80, 81, 82],
        "9_bfloat16.pt": [40, 41, 42],  # 40/256 of 255, rounded
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
        ("g.npy", lambda path: np.save(path, 100 * clip(1).astype(np.float32)), "from 4000 to 4200"),
        ("h.npy", lambda path: np.save(path, np.full((3, 8, 10, 3), np.nan)), "nan"),
        ("i.npz", lambda path: np.savez(path, labels=np.zeros(3)), "no array of frames"),
    ],
)
def test_arrays_that_are_refused(tmp_path, name, write, text):
    write(tmp_path / name)
    with pytest.raises(UserError, match=text):
        read(tmp_path)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((48, 64, 3), "one picture of 48x64, not a film"),
        ((3, 48, 64), "one picture of 48x64, not a film"),
        ((48, 64, 4), "one picture of 48x64, not a film"),
        ((4, 48, 64), "one picture of 48x64, not a film"),
        ((48, 64, 1), "one picture of 48x64, not a film"),
        ((48, 64), "one picture or table of 48x64, not a film"),
        ((5, 0, 64, 3), "no pixels"),
        ((0, 48, 64, 3), "no pixels"),
        ((0, 5, 48, 64, 3), "not .T, H, W, C."),
        ((5, 48, 64, 2), "with 1, 3 or 4 channels"),
    ],
)
def test_arrays_that_are_no_films_are_refused_by_name(tmp_path, shape, text):
    np.save(tmp_path / "alone.npy", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=rf"alone\.npy .*{text}"):
        values(tmp_path)


def test_a_bad_array_does_not_take_the_others_with_it(tmp_path):
    np.savez(tmp_path / "set.npz", bad=clip(1).astype(np.int64), good=clip(1), mean=clip(1)[0])
    (item,) = find_clips(tmp_path)
    got, refused = {}, []
    for video in item.read(Counter()):
        try:
            got[video.part] = len(list(video.frames))
        except UserError as error:
            refused.append(str(error))
    assert got == {"[good]": 3}
    assert ["int64" in refused[0], "one picture of 8x10" in refused[1]] == [True, True]


@pytest.mark.parametrize("kind", [">f4", "<f2", ">f8", np.longdouble])
def test_floats_of_any_kind_and_byte_order(tmp_path, kind):
    np.save(tmp_path / "film.npy", (clip(2) / 255).astype(kind))
    assert values(tmp_path) == {"film.npy": [80, 81, 82]}


def test_arrays_in_any_order_of_memory(tmp_path):
    np.save(tmp_path / "fortran.npy", np.asfortranarray(clip(2)))
    torch.save(torch.from_numpy(clip(2)).permute(0, 3, 1, 2), tmp_path / "strided.pt")
    torch.save(torch.from_numpy(clip(2)[..., :1].copy()).expand(-1, -1, -1, 3), tmp_path / "expanded.pt")
    torch.save(torch.nn.Parameter(torch.from_numpy(clip(2) / np.float32(255))), tmp_path / "parameter.pt")
    assert {tuple(frames) for frames in values(tmp_path).values()} == {(80, 81, 82)}
    assert len(values(tmp_path)) == 4


def test_tensors_that_are_no_films_in_memory_are_refused(tmp_path):
    torch.save(torch.zeros(1, 8, 10, 3, dtype=torch.uint8).expand(10**12, -1, -1, -1), tmp_path / "endless.pt")
    with pytest.raises(UserError, match=r"endless\.pt has tensors of 240,000,000,000,000 bytes, but holds 240"):
        values(tmp_path)
    torch.save(torch.zeros(1, 3, 8, 10, 3, dtype=torch.uint8).expand(10**12, -1, -1, -1, -1), tmp_path / "endless.pt")
    with pytest.raises(UserError, match=r"endless\.pt holds 1,000,000,000,000 clips, more than 100,000"):
        values(tmp_path)
    torch.save(torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(2, 10**6, 10**6, 3), tmp_path / "endless.pt")
    with pytest.raises(UserError, match=r"endless\.pt has tensors of 6,000,000,000,000 bytes, but holds 3"):
        values(tmp_path)
    torch.save(torch.zeros(5, 8, 10, 3).to_sparse(), tmp_path / "endless.pt")
    with pytest.raises(UserError, match=r"endless\.pt"):
        values(tmp_path)
