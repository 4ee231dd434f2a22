"""Read clips from the files of a source: videos, images and arrays.

`READERS` has a function for each file suffix. To read another format, add its suffix and a function of the same form.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from biflow import films, video
from biflow.data.arrays import read_arrays
from biflow.data.moving import MOVING, read_moving
from biflow.data.names import gaps, in_order
from biflow.data.sources import File

IMAGES = video.IMAGE_SUFFIXES | MOVING


def read_video(file: File, conversions: Counter) -> Iterator[films.Video]:
    """The clip of a video file."""
    yield films.decode(file.content, file.name)


def read_images(files: list[File], conversions: Counter) -> Iterator[films.Video]:
    """The clip of a folder of images, in the natural order of their names."""
    files = in_order(files, lambda file: file.path.name)
    skipped = gaps(file.path.name for file in files)
    changes = [f"{skipped} gap{'s' * (skipped > 1)} in the numbers of its images closed"] if skipped else []

    def frames() -> films.Frames:
        for file in files:
            frame, converted = video.parse_image(file.content, file.name)
            if converted:
                conversions[converted] += 1
            yield frame

    yield films.Video(frames(), None, len(files), changes=changes)


def read_animation(file: File, conversions: Counter) -> Iterator[films.Video]:
    """The clip of an image file that holds several pictures."""
    yield from read_moving(file.open, file.name, conversions)


READERS: dict[str, Callable[[File, Counter], Iterator[films.Video]]] = {
    **dict.fromkeys(films.VIDEO_SUFFIXES, read_video),
    **dict.fromkeys((".pt", ".pth", ".npy", ".npz"), read_arrays),
}
"""By suffix, a function that takes a file and yields its clips, each to be read before the next is asked for.

It raises UserError for a damaged file, and counts images that it converts to RGB by kind in the `Counter`.
"""
