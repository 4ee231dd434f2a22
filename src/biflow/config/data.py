"""Settings of the commands that bring clips in."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from biflow.config.checks import RATES, as_plain, check, check_seed, check_sides


@dataclass(frozen=True)
class Prepare:
    """Turn your videos into the form that training reads.

    Actions are read too, from files beside the clips: actions.json, or a CSV or JSON file with the name of the clip.

    Attributes:
        src: A folder of clips in any mix of forms (videos, folders of frames, arrays, archives), or a single file.
        dst: The folder to write. It appears whole or not at all.
        size: Side of the square frames.
        stride: Take every n-th frame.
        crop: Cut out the largest centred square before resizing, instead of squeezing the whole frame.
        split: Share of the clips that is used for training, where the source has no split of its own. Clips of a set
            that is replaced keep their split, if this share and the seed are the same.
        seed: Seed of the split.
        fps: Frames per second that all clips are brought to, by their time stamps. By default the rate of most clips;
            "native" keeps every frame. Clips that do not state their rate, such as images, are taken to have it.
        images: Also read images beside videos as clips. They are passed over otherwise, since most are previews.
        range: The range of floats in arrays: "0,1", "-1,1" or "0,255". By default, it is found once for all arrays of
            the source.
        strict: Stop at a damaged or too short clip instead of skipping it.
        force: Replace a prepared set at DST.

    Examples:
        biflow prepare my_clips datasets/mine
        biflow prepare holiday.mp4 datasets/holiday --size 128 --crop
    """

    src: Path
    dst: Path
    _: KW_ONLY
    size: int = 64
    stride: int = 1
    crop: bool = False
    split: float = 0.8
    seed: int = 0
    fps: float | Literal["native"] | None = None
    images: bool = False
    range: Literal["0,1", "-1,1", "0,255"] | None = None
    strict: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        as_plain(self)
        check(self, "be at least 1", lambda n: n >= 1, "stride")
        check_sides(self)
        low, high = RATES
        must = f'be from {low:g} to {high:g}, or "native"'
        check(self, must, lambda fps: fps == "native" or low <= fps <= high, "fps")
        check(self, "be above 0 and at most 1", lambda value: 0 < value <= 1, "split")
        check_seed(self)


@dataclass(frozen=True)
class FetchData:
    """Download one of the paper's datasets. Its terms are shown first.

    Attributes:
        name: The dataset: sky, biking, riding, carla, mazes or minerl.
        out: The folder for downloads; the set gets a folder in it.

    Examples:
        biflow data fetch mazes
        biflow prepare datasets/mazes datasets/mazes-64
    """

    name: str
    _: KW_ONLY
    out: Path = Path("datasets")
