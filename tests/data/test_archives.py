import io
import tarfile
import zipfile
from collections import Counter

import pytest
import torch

from biflow.data.clips import find_clips
from biflow.errors import UserError
from tests.clips import clip, npy, png, read, values


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


def tar(files, mode="w"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def test_of_a_frame_that_was_put_into_a_tar_again_the_last_counts(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, level in (("v/0.png", 0), ("v/1.png", 1), ("v/2.png", 2), ("v/1.png", 5)):
            content = png(clip(0, 6)[level])
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "set.tar").write_bytes(data.getvalue())
    assert [levels for _, levels in read(tmp_path / "set.tar").values()] == [[0, 5, 2]]


def packed(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


WALK = {f"walk/{i}.png": png(frame) for i, frame in enumerate(clip(1))}
FRAMES = [40, 41, 42]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "TAR.GZ", "tar.bz2", "tbz2", "tar.xz", "txz"])
def test_every_compression_of_tar(tmp_path, ending):
    kind = {"tgz": "gz", "tbz2": "bz2", "txz": "xz"}.get(ending.lower(), ending.lower().removeprefix("tar").strip("."))
    (tmp_path / f"set.{ending}").write_bytes(tar(WALK, f"w:{kind}"))
    assert values(tmp_path) == {f"set.{ending}/walk": FRAMES}


def test_archives_in_archives(tmp_path):
    inner = packed(WALK)
    (tmp_path / "days.zip").write_bytes(packed({f"day_{i}.zip": inner for i in range(20)} | {"tars/x.tar.gz": b""}))
    (tmp_path / "deep.tar").write_bytes(tar({"a/b.tar.gz": tar({"c.zip": inner}, "w:gz")}))
    got = values(tmp_path / "deep.tar")
    assert got == {"a/b.tar.gz/c.zip/walk": FRAMES}
    items = find_clips(tmp_path / "days.zip")
    assert [item.name for item in items] == [*(f"day_{i}.zip/walk" for i in range(20)), "tars/x.tar.gz"]
    assert items[20].source == str(tmp_path / "days.zip" / "tars" / "x.tar.gz")
    for _ in range(2):  # each is closed by then, as others were opened
        assert [len(list(next(item.read(Counter())).frames)) for item in items[:20]] == [3] * 20
    with pytest.raises(UserError, match=r"days\.zip/tars/x\.tar\.gz cannot be read as an archive"):
        next(items[20].read(Counter()))


def test_archives_in_too_many_others_are_refused_by_name(tmp_path):
    content = packed(WALK)
    for number in range(4):
        content = packed({f"{number}.zip": content})
    (tmp_path / "deep.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"deep\.zip/3\.zip/2\.zip/1\.zip/0\.zip lies in 4 other archives"):
        values(tmp_path)


def test_names_of_members_are_only_names(tmp_path):
    frames = list(WALK.values())
    names = ["walk\\0.png", "walk\\1.png", "../out/0.png", "../out/1.png", "/etc/x/0.png", "/etc/x/1.png", "dir\\"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "set.zip").write_bytes(packed(dict(zip(names, [*frames[:2] * 3, b""], strict=True))))
    got = values(tmp_path / "in")
    assert got == {"set.zip/../out": [40, 41], "set.zip/etc/x": [40, 41], "set.zip/walk": [40, 41]}
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "set.zip"]


def test_encrypted_archives_are_refused(tmp_path):
    data = bytearray(packed(WALK))
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = data.index(signature)
        data[at + flags] |= 1
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip is encrypted\. Unpack it first"):
        values(tmp_path)


def damaged(data, place):
    data = bytearray(data)
    data[place] ^= 0xFF
    return bytes(data)


TAR = tar({"a.npy": npy(clip(1, 200)), "b.npy": npy(clip(2, 200))})
COMPRESSED = {kind: tar({"a.npy": npy(clip(1, 200)), "b.npy": npy(clip(2, 200))}, f"w:{kind}") for kind in ("gz", "xz")}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.tar", TAR[: len(TAR) // 4]),
        ("cut_between.tar", TAR[: 512 * (1 + (len(npy(clip(1, 200))) + 511) // 512)]),
        ("second_header.tar", damaged(TAR, 512 * (1 + (len(npy(clip(1, 200))) + 511) // 512) + 3)),
        ("first_header.tar", damaged(TAR, 3)),
        ("cut.tar.gz", COMPRESSED["gz"][:-20]),
        ("checksum.tar.gz", damaged(COMPRESSED["gz"], -8)),
        ("bit.tar.gz", damaged(COMPRESSED["gz"], len(COMPRESSED["gz"]) // 2)),
        ("cut.tar.xz", COMPRESSED["xz"][:-20]),
        ("bit.tar.xz", damaged(COMPRESSED["xz"], len(COMPRESSED["xz"]) // 2)),
        ("cut.zip", packed(WALK)[:-40]),
        ("empty.tar.gz", b""),
    ],
)
def test_damage_in_an_archive_is_named_and_others_are_read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} (cannot be read as an archive|is cut short|is damaged)"):
        find_clips(tmp_path)
    (tmp_path / "whole.zip").write_bytes(packed(WALK))
    items = {item.name: item for item in find_clips(tmp_path)}
    assert items.keys() == {name, "whole.zip/walk"}
    assert [int(frame[0, 0, 0]) for frame in next(items["whole.zip/walk"].read(Counter())).frames] == FRAMES
    with pytest.raises(UserError, match=name):
        next(items[name].read(Counter()))
