import numpy as np
import pytest

from biflow.data.windows import Windows
from biflow.errors import UserError
from tests.action_clips import NAN, STEPS, run, write

TWO = {"columns": ["gas", "turn"], "actions": {"walk": STEPS}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"actions.json": {"walk": STEPS[:3]}}, r"walk has 5 frames, but .*actions\.json\[walk\] has 3 actions\."),
        ({"actions.json": {"walk": STEPS * 2}}, "walk has 5 frames, but .* has 8 actions"),
        ({"actions.json": {"wakl": STEPS}}, r"has actions of a clip wakl, which does not exist\. Did you mean walk\?"),
        (
            {"actions.json": {"walk": [[1], [NAN], [0], [0]]}},
            r"action 1 of .*\[walk\] has action_0 nan, which is",
        ),
        (
            {"walk.csv": "turn\n0\n0\n0\ninf\n"},
            r"The action 3 of .*walk\.csv has turn inf, which is not a finite",
        ),
        ({"walk.csv": "turn,gear\n0,up\n"}, "walk.csv has 'up' for gear in row 0, which is not a number"),
        (
            {"walk.csv": "turn;gear\n0,5;1\n"},
            r"has '0,5' for turn in row 0, which is not a number\. Write a decimal point",
        ),
        ({"walk.csv": "turn,gear\n0,1\n1\n"}, r"walk\.csv: row 1 has 1 numbers, but the first row has 2"),
        ({"walk.csv": "turn,\n0,1\n"}, r"rows of 2 numbers, but its columns are named \['turn', ''\]"),
        ({"walk.csv": "turn,turn\n0,1\n"}, "need names that differ"),
        ({"walk.csv": ""}, r"walk\.csv holds no rows of actions"),
        ({"walk.csv": "frame,turn\n"}, r"walk\.csv holds no rows of actions"),
        ({"walk.json": "{"}, r"walk\.json is not valid JSON"),
        (
            {"walk.json": {"title": "A walk"}},
            r"walk\.json has the name of a clip, but does not hold",
        ),
        (
            {"walk.json": {"columns": ["gas", "turn"], "actions": [[1, "left"]]}},
            "row 0 has 'left' for turn, which",
        ),
        ({"actions.json": {**TWO, "range": [[0, 1]]}}, r"unknown key 'range'\. Did you mean ranges\?"),
        (
            {"actions.json": {**TWO, "ranges": [[0, 1], [0, 1]]}},
            r"action 1 of .* has turn -0\.5, but its range is 0",
        ),
        ({"actions.json": {**TWO, "ranges": [[0, 1]]}}, "There are 2 columns of actions, but 1 ranges"),
        ({"actions.json": {**TWO, "keys": {"jump": {"up": 1}}}}, "There is no action column 'up'"),
        (
            {"actions.json": {**TWO, "resample": ["hold"]}},
            r"resample is \['hold'\]\. Write hold or mean for each",
        ),
        ({"actions.json": {**TWO, "fps": 0}}, "fps is 0, not a number from 0.1 to 480"),
        ({"actions.json": {**TWO, "fps": 10**400}}, "fps is 10{39}, not a number from 0.1 to 480"),
        (
            {"actions.json": {**TWO, "ranges": [[0, 10**400], [-1, 1]]}},
            r"does not describe actions: ranges\[0\]\[1\] must be a smaller number, not 10+\.\.\.0+\.",
        ),
        ({"walk.json": [[1, 10**400]]}, r"walk\.json: row 0 has an integer for column 1 that is too large\."),
        ({"walk.json": [[1, 2], None]}, r"walk\.json: row 1 is null, which is not a row of numbers\."),
        ({"walk.json": [1, None, "x"]}, r"walk\.json: row 1 is null"),
        (
            {"walk.json": "[" * 100_000 + "]" * 100_000},
            r"walk\.json is not valid JSON \(.* are nested too deeply\)\.",
        ),
        ({"walk.json": "[" * 100 + "]" * 100}, r"walk\.json: row 0 has \[{40} for column 0, which is not a number"),
        (
            {"walk.json": {"columns": ["gas"], "actions": [[1], None], "recording": {"index": 3}, "fps": 10}},
            r"walk\.json belongs to a recording of biflow serve, whose rows come before .*Play it back with biflow",
        ),
        ({"actions.csv": "turn\n1\n"}, r"does not name the clip .* it may be ride\.npy or walk\."),
        (
            {"walk.csv": "turn\n1\n1\n1\n1\n", "ride.csv": "gas\n1\n1\n1\n1\n"},
            r"columns of .*csv are .* those of .*csv",
        ),
        ({"walk.csv": "turn\n1\n1\n1\n1\n", "walk.json": [1, 1, 1, 1]}, "are actions of the same clip. Remove one"),
    ],
)
def test_actions_that_cannot_be_used_stop_in_one_sentence(src, files, message):
    for name, content in files.items():
        write(src / name, content)
    with pytest.raises(UserError, match=message):
        run(src)
    assert not (src.parent / "out").exists()


def test_arrays_whose_actions_do_not_fit_stop(tmp_path):
    (tmp_path / "src").mkdir()
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    for more, message in [
        ({"actions": np.zeros((2, 4, 1))}, r"actions of shape \(2, 4, 1\)"),
        ({"actions": np.zeros((3, 1))}, r"5 frames, but .*1\.npz\[frames\] has 3 actions"),
        ({"actions": np.full((4, 1), np.inf)}, r"action 0 of .*1\.npz\[frames\] has action_0 inf"),
        ({"actions": np.zeros((4, 1)), "again": frames}, "several arrays of frames: frames, again"),
    ]:
        np.savez(tmp_path / "src" / "1.npz", frames=frames, **more)
        with pytest.raises(UserError, match=message):
            run(tmp_path / "src")


def test_one_file_for_several_clips_of_a_batch_stops(tmp_path):
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src" / "two.npy", np.zeros((2, 5, 8, 8, 3), np.uint8))
    write(tmp_path / "src" / "two.csv", "turn\n1\n1\n1\n1\n")
    with pytest.raises(UserError, match=r"two\.csv has actions for one clip, but .*two\.npy holds several"):
        run(tmp_path / "src")


def test_a_damaged_prepared_set_is_refused(src):
    write(src / "walk.json", [1, 1, 1, 1])
    run(src)
    np.save(src.parent / "out" / "actions.npy", np.zeros((3, 1), np.float32))
    with pytest.raises(UserError, match=r"actions\.npy does not match index\.json"):
        Windows(src.parent / "out", "all")
