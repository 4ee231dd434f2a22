import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from biflow.data.clips import find_clips
from biflow.errors import UserError
from tests.clips import clip, npy, png, values, write


def test_nested_folders_hidden_files_and_links(tmp_path):
    for path in ("a/deep/er", "b/.cache", "__MACOSX"):
        (tmp_path / path).mkdir(parents=True)
        for frame in range(3):
            (tmp_path / path / f"{frame}.png").write_bytes(png(clip(1)[frame]))
    (tmp_path / "a" / "deep" / "er" / "._0.png").write_text("resource fork")
    (tmp_path / "a" / "notes.txt").write_text("words")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert values(tmp_path) == {"a/deep/er": [40, 41, 42]}


def film(path):
    """A moving picture, which is a film like any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *more = [Image.fromarray(frame) for frame in clip(2)]
    first.save(path, save_all=True, append_images=more, duration=100, lossless=True)


def frames(folder, names=("0.png", "1.png", "2.png")):
    for name, frame in zip(names, clip(1), strict=True):
        write(folder / name, png(frame))


def test_images_beside_videos_are_previews(tmp_path, caplog):
    """Beside films, in a folder of previews, and in one of frames, which is a clip."""
    for name in ("a", "b", "c"):
        film(tmp_path / f"{name}.webp")
    frames(tmp_path, ("a.png", "b.png", "cover.png"))
    frames(tmp_path / "thumbs", ("a.png", "b.png", "c.png"))
    frames(tmp_path / "frames")
    videos = {"a.webp": [80, 81, 82], "b.webp": [80, 81, 82], "c.webp": [80, 81, 82]}
    assert values(tmp_path) == {**videos, "frames": [40, 41, 42]}
    assert [record.message for record in caplog.records] == [
        '6 images beside videos were passed over. Set "images" to read them as clips.'
    ]
    caplog.clear()
    everything = {tmp_path.name: [40, 41, 42], **videos, "frames": [40, 41, 42], "thumbs": [40, 41, 42]}
    assert values(tmp_path, images=True) == everything
    assert not caplog.records


def test_images_alone_and_beside_arrays_are_a_clip(tmp_path, caplog):
    frames(tmp_path / "walk")
    write(tmp_path / "walk" / "depth.npy", npy(clip(2)))
    frames(tmp_path / "films.zip")  # a folder with the name of an archive
    assert values(tmp_path) == {
        "films.zip": [40, 41, 42],
        "walk": [40, 41, 42],
        "walk/depth.npy": [80, 81, 82],
    }
    assert not caplog.records


def test_what_storage_adds_is_no_content(tmp_path):
    film(tmp_path / "a.webp")
    for place in ("#recycle/b.webp", "@eaDir/a.webp/b.webp", ".Trash-1000/b.webp", "$RECYCLE.BIN/b.webp", "._a.webp"):
        film(tmp_path / place)
    write(tmp_path / "Thumbs.db", b"")
    assert values(tmp_path) == {"a.webp": [80, 81, 82]}


def test_files_of_other_kinds_are_counted_by_their_endings(tmp_path, caplog):
    film(tmp_path / "a.webp")
    names = ["a.rar", "b.RAR", "c.7z", "d.tar.lz4", "unknown", "x.braw"]
    names += ["a.info.json", "a.srt", "a.nfo", "a.txt", "LIST.csv", "._b.rar"]
    for name in names:
        write(tmp_path / name, b"")
    assert values(tmp_path) == {"a.webp": [80, 81, 82]}
    assert [record.message for record in caplog.records] == [
        "Passed over: 2 .rar, 1 without an ending, 1 .7z, 1 .braw, 1 .tar.lz4."
    ]


def test_a_source_without_clips_says_what_it_has(tmp_path):
    for name in ("a.rar", "b.rar", "c.txt"):
        write(tmp_path / "set" / name, b"")
    with pytest.raises(
        UserError, match=r"set holds no clips: it has 2 \.rar, 1 \.txt\. biflow reads .*zip, tar, tar\.gz"
    ):
        find_clips(tmp_path / "set")
    with pytest.raises(UserError, match=r"a\.rar holds no clips: it has 1 \.rar\."):
        find_clips(tmp_path / "set" / "a.rar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no clips: it has no files\."):
        find_clips(tmp_path / "empty")


def test_names_with_any_characters(tmp_path):
    names = ["a:b", "line\nbreak", "100%s %d {x}", "é 😀", "[0]", "-x", os.fsdecode(b"\xff\xfe")]
    for name in names:
        frames(tmp_path / name)
    assert values(tmp_path) == {name: [40, 41, 42] for name in names}
    write(tmp_path / "line\nbreak" / "1.png", b"")
    with pytest.raises(UserError, match=r"line\\nbreak/1\.png cannot be read"):
        values(tmp_path)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    frames(tmp_path / "walk")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nowhere")  # it describes clips, and is none
    items = {item.name: item for item in find_clips(tmp_path)}
    assert items.keys() == {"walk", "gone.mp4", "pipe.mp4"}
    for name, text in (("gone.mp4", "cannot be read: it is a link to nothing"), ("pipe.mp4", "is a named pipe")):
        with pytest.raises(UserError, match=f"{name} {text}"):
            next(items[name].read(Counter()))
    (tmp_path / "walk" / "3.png").symlink_to(tmp_path / "nowhere")  # a frame is missing, so there is no clip
    items = {item.name: item for item in find_clips(tmp_path)}
    assert items.keys() == {"walk", "gone.mp4", "pipe.mp4"}
    with pytest.raises(UserError, match=r"walk/3\.png cannot be read: it is a link to nothing"):
        list(next(items["walk"].read(Counter())).frames)


def test_a_gap_in_the_numbers_of_images_is_said(tmp_path):
    for frame in (1, 2, 3, 50, 51):
        (tmp_path / "walk").mkdir(exist_ok=True)
        (tmp_path / "walk" / f"{frame:03d}.png").write_bytes(png(clip(1)[0]))
    (item,) = find_clips(tmp_path)
    (video,) = item.read(Counter())
    assert video.changes == ["1 gap in the numbers of its images closed"]


def listed(root, **lists):
    """A folder of the clips a/1, a/2, b/1 and b/2, with lists of some of them."""
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", clip(0))
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines))
    return {item.name: item.split for item in find_clips(root)}


def test_a_list_names_clips_by_as_much_of_their_paths_as_it_has(tmp_path):
    splits = listed(tmp_path, train=["a/1.npy", "/data/set/a/2.npy", "b/2.npy"], test=["b/1.npy"])
    assert splits == {"a/1.npy": "train", "a/2.npy": "train", "b/1.npy": "test", "b/2.npy": "train"}


def test_a_list_that_leaves_open_which_clip_it_means_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"train\.txt names 1\.npy, which may be a/1\.npy or b/1\.npy: write its whole"):
        listed(tmp_path, train=["1.npy"])
    with pytest.raises(UserError, match=r"a/1\.npy is in a list of training clips and in one of test clips"):
        listed(tmp_path, train=["a/1.npy"], test=["a/1.npy"])
