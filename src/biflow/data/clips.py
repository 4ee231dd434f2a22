"""Find the clips in a source.

A source is a folder, an archive (see `archives.ARCHIVE_SUFFIXES`; read in place) or a single file. In it, a clip is
- a video file, or an image file that holds several pictures, such as an animated WebP;
- the images of a folder without videos, in the natural order of their names (2.png before 10.png);
- an array in a `.pt`, `.npy` or `.npz` file, see `biflow.data.arrays`.

Files with the actions of clips are read by `biflow.data.actions`.
"""

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from biflow.data.actions import Table, find_tables
from biflow.data.archives import ARCHIVE_SUFFIXES
from biflow.data.arrays import read_arrays, spans
from biflow.data.floats import Floats
from biflow.data.readers import IMAGES, READERS, read_animation, read_images
from biflow.data.sources import File, faulty, source_files
from biflow.data.windows import is_prepared
from biflow.errors import UserError, shown
from biflow.films import Video

log = logging.getLogger("biflow")

SPLIT_NAME = re.compile(r"(?:.*_)?(?:(train)|test|val|validation)")  # of a folder sky_test/ or a list video_test.csv
# Endings of files that describe clips or the set, and of programs. Such files are passed over without a word.
BESIDE = {".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".xml", ".txt", ".md", ".rst", ".html", ".pdf"}
BESIDE |= {".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".lrc", ".nfo", ".description", ".url", ".xmp", ".thm"}
BESIDE |= {".md5", ".sha1", ".sha256", ".log", ".ini", ".cfg", ".py", ".sh", ".ipynb"}


@dataclass(frozen=True)
class Item:
    """A file or folder that holds a clip, or several in one array.

    Attributes:
        name: its path inside the source.
        source: where it is.
        split: "train" or "test" if the source says so.
        read: yields its clips, each to be read before the next is asked for. Images that have to be converted to RGB
            are counted by kind in the `Counter`. Raises UserError for damage, then or while frames are read.
        actions: what was done after each frame, if a file beside it says so.
        timed: whether its clips may say how many frames per second they have.
        size: the bytes of its files; 0 if unknown.
    """

    name: str
    source: str
    split: str | None
    read: Callable[[Counter], Iterator[Video]]
    actions: Table | None = None
    timed: bool = False
    size: int = 0


def find_clips(src: str | Path, *, images: bool = False, range: str | None = None) -> list[Item]:
    """All clips of a source, in the natural order of their names.

    Clips in a tar file come in its own order, because a compressed one cannot be read backwards. The logger "biflow"
    reports which files were passed over. A folder or an archive that cannot be read is an item that raises UserError.

    Args:
        src: the source.
        images: also take the images beside videos, which are previews most often.
        range: the range of floats in arrays, a key of `floats.RANGES`; by default it is found for the whole source.

    Raises:
        UserError: no clips, or a source that cannot be read.
    """
    src = Path(src)
    if not src.exists():
        raise UserError(f"{src} does not exist. Check the path.")
    if is_prepared(src):
        raise UserError(f"{src} is prepared already. Use it as it is, or prepare the clips that it was made from.")
    files = list(source_files(src))
    groups, other = _grouped(files)
    if len(files) == 1 and files[0].fault:
        raise files[0].fault
    beside = {} if images else _beside_videos(groups)
    groups = {path: group for path, group in groups.items() if path not in beside}
    if not groups:
        raise UserError(f"{src} holds no clips: {_nothing(other)}")
    _report(sum(map(len, beside.values())), other)
    unread: dict[PurePosixPath, UserError] = {}
    lists = _lists(files, groups, unread)
    splits: dict[PurePosixPath, str] = {}
    for listed in lists.values():
        if twice := [path for path, split in listed.items() if splits.get(path, split) != split]:
            raise UserError(f"{shown(str(twice[0]))} is in a list of training clips and in one of test clips.")
        splits |= listed
    actions = find_tables([file for file in files if file.path not in {*lists, *unread}], groups, unread)
    arrays = [group[-1] for group in groups.values() if _reader(group[-1]) is read_arrays]
    floats = Floats(lambda: spans(arrays), range)
    items = [_item(src, path, group, splits, actions.get(path), floats) for path, group in groups.items()]
    return items + [_refused(src, path, fault) for path, fault in unread.items()]


def _grouped(files: Iterable[File]) -> tuple[dict[PurePosixPath, list[File]], Counter[str]]:
    """The files of each clip by its path, and how many others there are by their endings."""
    groups: dict[PurePosixPath, list[File]] = {}
    other: Counter[str] = Counter()
    for file in files:
        suffix = file.path.suffix.lower()
        if _is_image(file):
            groups.setdefault(file.path.parent, []).append(file)
        elif file.moving or suffix in READERS or (file.fault and suffix not in BESIDE):
            groups.setdefault(file.path, []).append(file)
        else:
            other[_ending(file.path)] += 1
    return groups, other


def _item(
    src: Path,
    path: PurePosixPath,
    files: list[File],
    splits: dict[PurePosixPath, str],
    actions: Table | None,
    floats: Floats,
) -> Item:
    names = map(SPLIT_NAME.fullmatch, path.parts)  # relative to the source, whose own name says nothing
    split = splits.get(path) or next((_split(name) for name in names if name), None)
    reader = _reader(files[-1])
    if reader is read_arrays:
        read = partial(read_arrays, files[-1], floats=floats)
    else:
        read = partial(reader, files[-1]) if reader else partial(read_images, files)
    source = src if files[0].real == src else src / path
    timed = reader not in (None, read_arrays, _refuse)
    size = sum(file.size for file in files)
    return Item(str(path) if path.parts else src.name, str(source), split, read, actions, timed, size)


def _refused(src: Path, path: PurePosixPath, fault: UserError) -> Item:
    """A file beside the clips that cannot be read. It is skipped by name, as a clip is."""
    return Item(str(path), str(src / path), None, partial(_refuse, faulty(path, fault)))


def _reader(file: File) -> Callable[[File, Counter], Iterator[Video]] | None:
    """What reads a file that is a clip of its own; None for an image."""
    if _is_image(file):
        return None
    if file.fault:
        return _refuse
    return read_animation if file.moving else READERS[file.path.suffix.lower()]


def _is_image(file: File) -> bool:
    return file.path.suffix.lower() in IMAGES and not file.moving


def _refuse(file: File, conversions: Counter) -> Iterator[Video]:
    assert file.fault is not None
    raise file.fault


def _beside_videos(groups: dict[PurePosixPath, list[File]]) -> dict[PurePosixPath, list[File]]:
    """The images that belong to videos: beside them, or in a folder there in which all have the names of videos."""
    films: dict[PurePosixPath, set[str]] = {}
    animations: dict[PurePosixPath, set[str]] = {}
    for path, group in groups.items():
        if (reader := _reader(group[-1])) not in (None, _refuse, read_arrays):
            (animations if reader is read_animation else films).setdefault(path.parent, set()).add(path.stem)

    def beside(path: PurePosixPath, group: list[File]) -> bool:
        stems = films.get(path.parent, set()) | animations.get(path.parent, set())
        few = len(group) <= len(animations.get(path, ()))  # an animation among many frames is not their video
        return path in films or few or {file.path.stem for file in group} <= stems

    return {path: group for path, group in groups.items() if _reader(group[-1]) is None and beside(path, group)}


def _ending(path: PurePosixPath) -> str:
    """The ending of a name, also a double one such as .tar.lz4; nothing if it has none."""
    return "".join(path.suffixes[-2:]).lower() if path.suffixes[-2:-1] == [".tar"] else path.suffix.lower()


def _report(images: int, other: Counter[str]) -> None:
    """Say what was passed over and may have been meant as a clip."""
    if images:
        what = "1 image beside videos was" if images == 1 else f"{images} images beside videos were"
        log.warning('%s passed over. Set "images" to read them as clips.', what)
    if counts := _counts({ending: number for ending, number in other.items() if ending not in BESIDE}):
        log.warning("Passed over: %s.", counts)


def _counts(endings: dict[str, int]) -> str:
    """Numbers of files by their endings: "12 .txt, 3 .rar"."""
    ordered = sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{number} {shown(ending) or 'without an ending'}" for ending, number in ordered]
    more = [f"{sum(number for _, number in ordered[8:])} of other kinds"] if len(ordered) > 8 else []
    return ", ".join(parts[:8] + more)


def _nothing(other: Counter[str]) -> str:
    """What a source without clips has, and what it should have."""
    archives = ", ".join(suffix.removeprefix(".") for suffix in ARCHIVE_SUFFIXES)
    taken = f"images, videos (such as mp4), arrays (pt, npy, npz), or archives of them ({archives})"
    return f"it has {_counts(other) or 'no files'}. biflow reads {taken}."


def _split(name: re.Match) -> str:
    return name[1] or "test"


def _lists(
    files: Iterable[File], clips: Iterable[PurePosixPath], unread: dict[PurePosixPath, UserError]
) -> dict[PurePosixPath, dict[PurePosixPath, str]]:
    """Lists such as CARLA's video_train.csv, by path: the split of each clip of which they have a line.

    A line is a path, perhaps after an index. A file of such a name that names no clip is not a list: it may hold the
    actions of a clip of its own name. Why files could not be read is added to `unread`.
    """
    named: dict[str, list[PurePosixPath]] = {}
    for path in clips:
        named.setdefault(path.name, []).append(path)
    lists = {}
    for file in files:
        name = SPLIT_NAME.fullmatch(file.path.stem)
        if name and file.path.suffix.lower() in (".csv", ".txt"):
            lines = io.BytesIO(file.text(unread) or b"")
            paths = (line.decode(errors="replace").split(",")[-1].strip() for line in lines)
            listed = [_meant(PurePosixPath(path), named, file.path) for path in paths if path]
            lists[file.path] = dict.fromkeys(filter(None, listed), _split(name))
    return {path: splits for path, splits in lists.items() if splits}


def _meant(line: PurePosixPath, named: Mapping[str, list[PurePosixPath]], where: PurePosixPath) -> PurePosixPath | None:
    """The clip that a line of a list means: the one whose path ends as the line does, in as many parts as possible."""
    found = named.get(line.name, [])
    for count in range(2, len(line.parts) + 1):
        closer = [path for path in found if path.parts[-count:] == line.parts[-count:]]
        found = closer or found
    if len(found) > 1:
        several = f"{shown(str(found[0]))} or {shown(str(found[1]))}"
        raise UserError(f"{shown(str(where))} names {shown(str(line))}, which may be {several}: write its whole path.")
    return found[0] if found else None
