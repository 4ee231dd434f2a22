import random

import pytest

from biflow.data.names import gaps, hidden, in_order
from biflow.errors import shown


@pytest.mark.parametrize(
    "names",
    [
        ["f1b2", "f1b10", "f9", "f10", "g0"],
        ["1.png", "2.png", "10.png"],
        ["v_frame_9.jpg", "v_frame_0010.jpg"],
        ["0.5.png", "0.75.png", "1.0.png", "1.25.png", "1.5.png", "2.0.png", "2.5.png", "10.0.png"],
        ["t1.png", "t1.25.png", "t1.5.png", "t2.png"],
        ["0.95.png", "1.00.png", "1.05.png", "1.10.png"],  # all of two digits
        [f"shot_1.{i}.png" for i in range(1, 13)],  # counted, as 1.10 beside 1.9 shows
        ["1.2.9.png", "1.2.10.png", "1.10.1.png"],  # versions
        ["2024.01.09.png", "2024.01.10.png", "2024.02.01.png"],  # dates
        ["001.png", "01.png", "1.png", "2.png"],  # equal numbers are sorted as text
        ["x-1.png", "x-2.png", "x-10.png"],  # a minus is a hyphen
        ["1", "9" * 5000],  # more digits than Python makes an integer of
    ],
)
def test_natural_order(names):
    for seed in range(5):
        assert in_order(random.Random(seed).sample(names, len(names)), str) == names


def test_what_systems_add_is_hidden():
    added = ["._0.png", ".DS_Store", ".Trash-1000", ".Trashes", ".thumbnails", ".@__thumb", ".AppleDouble", "__MACOSX"]
    added += ["@eaDir", "@eadir", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"]
    added += ["lost+found", "Thumbs.db", "desktop.ini", "Desktop.ini"]
    assert [name for name in added if not hidden(name)] == []
    assert [name for name in ("0.png", "walk", "#1", "@alice", "..", "$5.mp4", "recycle") if hidden(name)] == []


def test_names_in_messages_stay_on_one_line():
    assert shown("a\nb\x1b[31m\udcff é😀 100%:") == "a\\nb\\x1b[31m\\udcff é😀 100%:"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.png", "2.png", "3.png", "50.png", "51.png"], 1),
        (["a_0.jpg", "a_2.jpg", "a_4.jpg", "a_8.jpg", "a_10.jpg"], 1),
        (["f1_01.png", "f1_02.png", "f1_03.png"], 0),
        (["1403636579763555584.png", "1403636579763555700.png", "1403636579763555999.png"], 0),  # times
        ([f"{round(i * 1000 / 30)}.png" for i in range(30)], 0),  # milliseconds
        ([f"{int(i * 12.5)}.png" for i in range(30)], 0),
        (["a.png", "b.png"], 0),
        (["7.png"], 0),
    ],
)
def test_gaps_in_numbers_that_count_in_equal_steps_are_counted(names, expected):
    assert gaps(names) == expected
