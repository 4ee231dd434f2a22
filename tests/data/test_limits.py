"""What a few bytes may claim: frames, pixels, files and text without end. Each is refused by name, and quickly."""

import contextlib
import gzip
import io
import os
import pickle
import random
import resource
import socket
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from biflow import films, limits
from biflow.config import Prepare
from biflow.data.clips import find_clips
from biflow.data.prepare import prepare
from biflow.data.starts import first_frames
from biflow.errors import UserError
from biflow.video import read_image
from tests.clips import clip, npy, png, write
from tests.fuzz.archive import WALK, packed, tar
from tests.making_films import quadrants, write_film


def skipped(src):
    """What `prepare` says of the clips that it skipped, by name; one clip among them must be read."""
    write(src / "good.npy", npy(clip(2)))
    index = prepare(Prepare(src, src.parent / "out", size=8), progress=False)
    assert [entry["name"] for entry in index["clips"]] == ["good.npy"]
    return {entry["name"]: entry["why"] for entry in index["skipped"]}


def gif(width, height):
    """66 bytes: two pictures of one pixel on a canvas of this size."""
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    return screen + 2 * frame + b"\x3b"


def moving(form, width, height):
    """An animation of 16x16 pixels whose header claims others."""
    pictures, data = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")], io.BytesIO()
    pictures[0].save(data, form, save_all=True, append_images=pictures[1:])
    content = bytearray(data.getvalue())
    if form == "PNG":
        from tests.fuzz.image import mend

        content[16:24] = struct.pack(">II", width, height)
        return mend(bytes(content))
    place = content.index(b"VP8X") + 12
    content[place : place + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def header(shape, kind="|u1"):
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": kind, "fortran_order": False, "shape": shape})
    return data.getvalue()


@pytest.mark.parametrize("side", [16000, 8900])
def test_canvases_that_a_file_cannot_fill_are_refused(tmp_path, side):
    src = tmp_path / "src"
    write(src / "a.gif", gif(side, side))
    write(src / "b.webp", moving("WEBP", side, side))
    write(src / "c.png", moving("PNG", side, side))
    found = skipped(src)
    assert found.keys() == {"a.gif", "b.webp", "c.png"}
    assert all("pixels" in why or "cannot hold" in why for why in found.values())


def test_a_film_whose_frames_grow_is_refused(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "JPEG")
    small = data.getvalue()
    large = bytearray(small)
    place = large.index(b"\xff\xc0") + 5
    large[place : place + 4] = struct.pack(">HH", 16000, 16000)
    write(tmp_path / "src" / "x.mjpeg", small * 3 + bytes(large) * 3)
    assert skipped(tmp_path / "src").keys() == {"x.mjpeg"}


@pytest.mark.skipif(limits.resource is None, reason="the system does not limit memory")
def test_an_index_of_frames_that_are_not_there_takes_little_memory(tmp_path):
    path = write_film(tmp_path / "x.mp4", [quadrants()] * 3)
    data, many = bytearray(path.read_bytes()), 500_000_000
    for tag, at, numbers in (("stsz", 8, (1, many)), ("stsc", 8, (1, 1, many, 1)), ("stts", 8, (1, many, 512))):
        place = data.index(tag.encode()) + at
        data[place : place + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UserError):  # FFmpeg may open it, and find nothing
        assert not list(films.decode(path).frames)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800_000  # KiB; all would take 12 GB
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits._DATA


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.npy", header((10**9, 1, 1, 1)) + bytes(200)),
        ("x.npy", header((2**40, 2**40, 2**40, 3))),
        ("x.npy", header((10**9, 8, 8, 3), "|V0")),
        ("x.npy", header((10**8, 0, 8, 8, 3))),
        ("x.npz", packed({"a.npy": header((10**9, 1, 1, 1)) + bytes(200)})),
        ("x.npz", packed({"a.npy": header((10**6, 1, 1, 3)) + bytes(3 * 10**6)})),
        ("x.npz", packed({"a.npy": header((10**6, 2, 1, 1, 1)) + bytes(2 * 10**6)})),
    ],
)
def test_arrays_of_more_than_a_file_holds(tmp_path, name, data):
    write(tmp_path / "src" / name, data)
    assert len(skipped(tmp_path / "src")) == 1


@pytest.mark.parametrize("axis", range(4))
def test_tensors_that_repeat_along_any_axis(tmp_path, axis):
    shape, large = [2, 4, 4, 3], [2, 4, 4, 3]
    shape[axis], large[axis] = 1, 3 * 10**5
    if axis == 3:
        large[axis] = 10**5
    (tmp_path / "src").mkdir()
    torch.save(torch.zeros(shape, dtype=torch.uint8).expand(large), tmp_path / "src" / "x.pt")
    torch.save(torch.zeros(2000, dtype=torch.uint8).as_strided((1900, 4, 4, 3), (1, 12, 3, 1)), tmp_path / "src/y.pt")
    found = skipped(tmp_path / "src")
    assert found.keys() == {"x.pt", "y.pt"}
    assert "which they repeat" in found["x.pt"]


def test_compressed_tensors_are_refused(tmp_path):
    data = io.BytesIO()
    torch.save(torch.zeros(1000, 3, 8, 8), data)
    with zipfile.ZipFile(data) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    write(tmp_path / "src" / "x.pt", packed(files))
    assert skipped(tmp_path / "src") == {
        "x.pt": f"{tmp_path / 'src' / 'x.pt'} is damaged, or compressed. Save it again."
    }


def test_text_of_too_many_bytes_is_skipped_by_name(tmp_path):
    write(tmp_path / "src" / "x.zip", packed({"test.csv": bytes(limits.TEXT + 1), "train.txt": b"x\n" * 9_000_000}))
    found = skipped(tmp_path / "src")
    assert found.keys() == {"x.zip/test.csv", "x.zip/train.txt"}
    assert "larger than 64 MiB" in found["x.zip/test.csv"]
    assert "more than 8,000,000 values" in found["x.zip/train.txt"]


def test_what_is_no_file_is_never_opened(tmp_path, monkeypatch):
    src = tmp_path / "src"
    src.mkdir()
    for name in ("a.mp4", "b.png", "c.zip", "test.txt"):
        os.mkfifo(src / name)
    for name in ("d.mp4", "e.npy", "f.zip", "g/0.png", "train.csv"):
        (src / name).parent.mkdir(exist_ok=True)
        (src / name).symlink_to("/dev/zero")
    monkeypatch.chdir(src)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("h.mp4")
    (src / "val.csv").symlink_to("nowhere")
    found = skipped(src)
    assert found.keys() == {"a.mp4", "c.zip", "d.mp4", "e.npy", "f.zip", "g", "h.mp4", "src", *TEXTS}
    assert "is a named pipe" in found["a.mp4"]
    assert "is a device" in found["g"]
    assert "is a socket" in found["h.mp4"]
    for name in ("a.mp4", "b.png", "d.mp4"):
        with pytest.raises(UserError, match=f"{name} is a (named pipe|device), not a file"):
            first_frames(src / name, (8, 8))
    with pytest.raises(UserError, match="is a device"):
        read_image(src / "g" / "0.png")


TEXTS = {"test.txt", "train.csv", "val.csv"}


@pytest.mark.parametrize(
    "text",
    [
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 0.0.0.0\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/9000\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:PORT/x.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile http://127.0.0.1:PORT/x.mp4\n",
        ";FFMETADATA1\ntitle=x\n",
        "<?xml version='1.0'?><MPD><Period><BaseURL>http://127.0.0.1:PORT/</BaseURL></Period></MPD>",
        "[playlist]\nFile1=http://127.0.0.1:PORT/x.mp4\n",
    ],
    ids=["sdp", "hls", "concat", "ffmeta", "dash", "pls"],
)
def test_films_reach_no_network(tmp_path, monkeypatch, text):
    import psutil

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        data = text.replace("PORT", str(server.getsockname()[1])).encode()
        opened, process = [], psutil.Process()
        sockets = len(process.net_connections())
        monkeypatch.setattr(films, "little_memory", lambda: _Watching(process, opened))
        write(tmp_path / "src" / "x.mp4", data)
        write(tmp_path / "src" / "y.zip", packed({"x.mp4": data}))
        assert skipped(tmp_path / "src").keys() == {"x.mp4", "y.zip/x.mp4"}
        with pytest.raises(UserError, match=r"x\.mp4"):
            first_frames(tmp_path / "src" / "x.mp4", (8, 8))
        assert len(opened) >= 3
        assert max(opened) == sockets
        with pytest.raises(BlockingIOError):
            server.accept()


class _Watching:
    """Counts the sockets of the process while FFmpeg opens a file."""

    def __init__(self, process, opened):
        self.process, self.opened = process, opened

    def __enter__(self):
        import threading

        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while True:
            last = self.done.is_set()
            self.opened.append(len(self.process.net_connections()))
            if last:
                return

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def test_pictures_are_of_known_formats(tmp_path):
    write(tmp_path / "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image"):
        read_image(tmp_path / "x.png")


def test_pictures_of_too_many_scans_are_refused(tmp_path):
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "JPEG", progressive=True)
    content = data.getvalue()
    last = content.rindex(b"\xff\xda")
    write(tmp_path / "x.jpg", content[:last] + content[last:-2] * (limits.SCANS + 1) + content[-2:])
    with pytest.raises(UserError, match=r"x\.jpg has more than 200 scans"):
        read_image(tmp_path / "x.jpg")
    write(tmp_path / "y.jpg", content)
    assert read_image(tmp_path / "y.jpg").shape == (3, 64, 64)


# Archives


def member(name, size, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf()


def overlapping():
    content = packed({"x.npy": bytes(10**6)})
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[start:end] * 1000
    return content[:start] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(entries), start, 0)


HALF = tar(WALK).rstrip(b"\0")
HALF += bytes(-len(HALF) % 512)  # without its end


def sparse(size):
    """A tar of one file of a single byte and holes."""
    entry = bytearray(member("x.npy", 512, b"S"))
    entry[386:410] = b"%011o\0%011o\0" % (0, 512)
    entry[483:495] = b"%011o\0" % size
    entry[148:156] = b" " * 8
    entry[148:156] = b"%06o\0 " % sum(entry)
    return bytes(entry) + bytes(512 + 1024)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("x.zip", packed(WALK, zipfile.ZIP_BZIP2), "compressed by bzip2, not by deflate"),
        ("x.zip", overlapping(), "files in it overlap"),
        ("x.npz", overlapping(), "files in it overlap"),
        ("x.tar.gz", gzip.compress(member("x", 1 << 30, b"x") + bytes(10**7)), "cannot be read as an archive"),
        ("x.tar.gz", gzip.compress(HALF + member("x", 1 << 30, b"L") + bytes(10**7)), "cannot be read"),
        ("x.tar.gz", gzip.compress(member("x.npy", 1 << 40) + bytes(10**7)), "unpacks to 1,099,511,629,312 bytes"),
        ("x.tar", sparse(7 << 30), "unpacks to 7,516,193,280 bytes"),
    ],
)
def test_archives_that_unpack_to_far_too_much(tmp_path, name, data, why):
    write(tmp_path / "src" / name, data)
    found = skipped(tmp_path / "src")
    assert found
    assert all(why in text for text in found.values())


def test_archives_of_more_files_than_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("biflow.data.archives.FEW_ENTRIES", 100)
    write(tmp_path / "src" / "x.tar.gz", gzip.compress(member("x.bin", 0) * 2000))
    assert "has more than" in skipped(tmp_path / "src")["x.tar.gz"]


def test_large_files_in_archives_are_unpacked_to_the_disk(tmp_path, monkeypatch):
    film = write_film(tmp_path / "x.mp4", [quadrants()] * 3).read_bytes()
    files = {"x.mp4": film, "a.npy": npy(clip(1)), "b.pt": b"", "c.npz": b"", "d.zip": packed(WALK), **WALK}
    for name, save in (("b.pt", torch.save), ("c.npz", lambda array, file: np.savez_compressed(file, a=array))):
        data = io.BytesIO()
        save(torch.from_numpy(clip(3).copy()), data)
        files[name] = data.getvalue()
    (tmp_path / "src").mkdir()
    write(tmp_path / "src" / "x.zip", packed(files))
    write(tmp_path / "src" / "y.tar.xz", tar(files, "w:xz"))

    def lengths():
        index = prepare(Prepare(tmp_path / "src", tmp_path / "out", size=8, force=True), progress=False)
        assert not index["skipped"]
        return np.load(tmp_path / "out" / "frames.npy"), [clip["name"] for clip in index["clips"]]

    frames, names = lengths()
    assert len(names) == 12
    for module in ("archives", "numpy_files"):
        monkeypatch.setattr(f"biflow.data.{module}.IN_MEMORY", 10)
    again, same = lengths()
    assert same == names
    assert np.array_equal(frames, again)
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(UserError, match="has 5 left to unpack it"):
        prepare(Prepare(tmp_path / "src", tmp_path / "out2", size=8), progress=False)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    "make", [packed, lambda files: packed(files, zipfile.ZIP_STORED), tar], ids=["zip", "stored", "tar"]
)
def test_no_damage_to_an_archive_loses_a_clip_in_silence(tmp_path, make, caplog):
    files = {f"{name}/{i}.png": png(frame[:4, :4]) for name in "ab" for i, frame in enumerate(clip(1, 2))}
    whole = make(files)
    suffix = "tar" if make is tar else "zip"
    path = tmp_path / f"x.{suffix}"
    lost = []
    for place in random.Random(0).sample(range(len(whole.rstrip(b"\0"))), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        caplog.clear()
        try:
            items = find_clips(tmp_path)
            read = [len(list(video.frames)) for item in items for video in item.read(Counter())]
        except UserError:
            continue  # it is named
        if read != [2, 2] and not caplog.records:
            lost.append((place, read))
    assert not lost


# One bad clip among good ones


def test_bad_clips_of_every_kind_are_skipped_by_name(tmp_path):
    src, frames = tmp_path / "src", clip(1)
    src.mkdir()
    film = write_film(src / "film.mp4", [quadrants()] * 3)
    film.write_bytes(film.read_bytes()[:600])
    for number, kind in enumerate((">i4", "<i8", "?", "<c8", "M8[s]", "S4", "U4", "V3", [("r", "u1"), ("g", "u1")])):
        np.save(src / f"{number}.npy", np.zeros((3, 8, 10, 3), kind))
    for number, shape in enumerate([(3, 0, 4, 3), (1, 1), (), (0,), (5, 0, 3, 4, 3)]):
        np.save(src / f"shape{number}.npy", np.zeros(shape, np.uint8))
    np.save(src / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(src / "empty.npz")
    tensors = [torch.zeros(3, 8, 10, 3, device="meta"), torch.zeros(3, 8, 10, 3).to_sparse(), None, {}, 5]
    tensors += [torch.zeros(3, 8, 10, 3, dtype=torch.complex64).conj(), torch.zeros(3, 8, 10, 3, dtype=torch.uint16)]
    for number, content in enumerate(tensors):
        torch.save(content, src / f"tensor{number}.pt")
    write(src / "picture" / "0.png", b"no image")
    write(os.fsdecode(bytes(src) + b"/\xff\xfe.gif") and Path(os.fsdecode(bytes(src) + b"/\xff\xfe.gif")), b"GIF89a")
    (src / "test.txt").symlink_to("nowhere")
    count = len(list(src.iterdir()))
    assert len(skipped(src)) == count
    for name, array in {
        "be": frames.astype(">u1"),
        "long": np.longdouble(frames) / 255,
        "one": frames[:, :1, :1],
    }.items():
        np.save(src / f"{name}.npy", array)
    index = prepare(Prepare(src, tmp_path / "more", size=8), progress=False)
    assert {entry["name"] for entry in index["clips"]} == {"be.npy", "good.npy", "long.npy", "one.npy"}


def test_a_source_of_bad_clips_alone_writes_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 0, 4, 3), np.uint8))
    os.mkfifo(tmp_path / "y.mp4")
    with pytest.raises(UserError, match="None of the 2 clips"):
        prepare(Prepare(tmp_path, tmp_path / "out"), progress=False)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_honest_files_are_far_below_the_limits(tmp_path):
    limits.check_pixels("a panorama", 12288, 6144, 10**6)
    limits.check_pixels("a black picture in 8K", 7680, 4320, 600)
    limits.Allowance("a black hour in 8K", 30 * 3600 * 150).take(4320, 7680, 30 * 3600)
    limits.Allowance("a day of film", 10**9).take(64, 64, 86400 * 60)
    limits.check_ratio("an archive of 100 GB", 100 * limits.GIB, 40 * limits.GIB)
    write_film(tmp_path / "long.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2000)
    assert len(values_of(tmp_path / "long.mp4")) == 2000


@pytest.mark.parametrize("hold", [59.0, 4e6])
def test_time_stamps_do_not_repeat_a_frame_without_end(tmp_path, hold):
    (tmp_path / "src").mkdir()
    for number in (1, 2):
        write_film(tmp_path / "src" / f"{number}.mp4", [quadrants(16, 16)] * 5, fps=60)
    times = [0.0, 0.02, *(0.02 + hold * n for n in range(1, 60))]
    write_film(tmp_path / "src" / "long.mkv", [np.zeros((16, 16, 3), np.uint8)] * len(times), times=times)
    index = prepare(Prepare(tmp_path / "src", tmp_path / "out", size=8), progress=False)
    kept = {clip["name"]: clip["frames"] for clip in index["clips"]}
    assert kept["1.mp4"] == 5
    assert kept.get("long.mkv", 0) < 200


def values_of(path):
    (item,) = find_clips(path)
    (video,) = item.read(Counter())
    return list(video.frames)


def test_pictures_that_are_held_for_hours_count_as_untimed(tmp_path):
    pictures = [Image.fromarray(frame) for frame in clip(1, 4)]
    (tmp_path / "src").mkdir()
    options = {"save_all": True, "append_images": pictures[1:], "lossless": True}
    for number, duration in ((1, 10_000_000), (2, 10), (3, 10)):
        pictures[0].save(tmp_path / "src" / f"{number}.webp", duration=duration, **options)
    index = prepare(Prepare(tmp_path / "src", tmp_path / "out", size=8), progress=False)
    assert [clip["frames"] for clip in index["clips"]] == [4, 4, 4]


def nested(depth):
    """A pickle of {key: 0} whose key is a tuple of a tuple twice, of a tuple twice, and so on."""
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))
    return b"\x80\x02}" + b")" + doubled + b"K\0s."


def lists(depth, *, late):
    """A pickle of a list that holds a list twice, and so on. With `late`, each is filled after it has become a part."""
    if late:
        made = b"".join(b"]q%c0" % i for i in range(depth))
        filled = b"".join(b"h%c(h%ch%ce0" % (i, i - 1, i - 1) for i in reversed(range(1, depth)))
        return b"\x80\x02" + made + filled + b"h%c." % (depth - 1)
    return b"\x80\x02]q\0" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, depth)) + b")R."


BOMBS = {
    "nested": nested(60),
    "lists": lists(60, late=False),
    "lists filled late": lists(60, late=True),
    "many": b"\x80\x02" + b"(" * 2 + b")" * 100_000 + b"t.",
    "hashed again and again": nested(14)[:-4] + b"q\xff0}" + b"h\xffK\0s" * 1000 + b".",
}


def torch_file(content, *, legacy=False):
    """A file of PyTorch with this pickle in the place of its own."""
    file = io.BytesIO()
    torch.save(torch.zeros(2), file, _use_new_zipfile_serialization=not legacy)
    if legacy:
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
        return head + content + pickle.dumps([], 2)
    packed = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w") as target:
        for entry in source.infolist():
            own = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, content if own else source.read(entry.filename))
    return packed.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_of_torch_that_take_for_ever_are_refused(bomb, legacy, tmp_path, monkeypatch):
    monkeypatch.setattr("biflow.data.pickles.OPERATIONS", 50_000)  # types are checked in tests, which takes time
    monkeypatch.setattr("biflow.data.pickles.PARTS", 1_000_000)
    content = BOMBS[bomb]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "bomb.pt").write_bytes(torch_file(content, legacy=legacy))
    assert "holds more Python objects than a file of tensors needs" in skipped(tmp_path / "src")["bomb.pt"]


def test_files_of_torch_before_version_1_6_are_read(tmp_path):
    torch.save(torch.from_numpy(clip(2)), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert prepare(Prepare(tmp_path, tmp_path / "out", size=8), progress=False)["clips"][0]["name"] == "old.pt"
