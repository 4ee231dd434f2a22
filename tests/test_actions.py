import numpy as np
import pytest

from biflow.actions import Actions, described, from_json, key_of, script
from biflow.errors import UserError


def actions(columns, ranges, keys=None):
    """Actions from whole numbers."""
    named = {key: {name: float(value) for name, value in values.items()} for key, values in (keys or {}).items()}
    return Actions(columns, tuple((float(low), float(high)) for low, high in ranges), named)


CAR = actions(("steer", "gas"), ((-1, 1), (0, 4)))
ODD = actions(("turn", "gear"), ((-2, 8), (1, 5)))


def test_columns_get_names_for_their_ends():
    assert CAR.keys == {"left": {"steer": -1}, "right": {"steer": 1}, "forward": {"gas": 4}}
    assert actions(("move",), ((-1, 2),)).keys == {"forward": {"move": 2}, "back": {"move": -1}}
    assert actions(("action_0", "Fire!"), ((-7, 7), (0, 1))).keys == {
        "action_0-down": {"action_0": -7},
        "action_0-up": {"action_0": 7},
        "fire_": {"Fire!": 1},
    }


def test_names_for_their_ends_differ_whatever_columns_are_called():
    assert actions(("still",), ((0, 1),)).keys == {"still_": {"still": 1}}
    assert actions(("a b", "a_b"), ((0, 1), (0, 1))).keys == {"a_b": {"a b": 1}, "a_b_": {"a_b": 1}}
    assert actions(("x", "left"), ((-1, 1), (0, 1))).keys == {
        "x-down": {"x": -1},
        "x-up": {"x": 1},
        "left": {"left": 1},
    }


def test_only_the_first_of_two_columns_is_called_left_and_right():
    keys = actions(("turn", "yaw"), ((-1, 1), (-1, 1))).keys
    assert keys["left"] == {"turn": -1}
    assert keys["yaw-up"] == {"yaw": 1}


def test_keys_that_are_given_are_the_only_ones():
    assert actions(("steer",), ((-1, 1),), {"hard-left": {"steer": -1}}).keys == {"hard-left": {"steer": -1}}


def test_neutral_is_zero_or_what_is_nearest_to_it():
    assert CAR.neutral.tolist() == [0, 0]
    assert ODD.neutral.tolist() == [0, 1]
    assert actions(("x",), ((-5, -2),)).neutral.tolist() == [-2]


def test_scaled_is_zero_at_neutral_and_one_at_the_far_end():
    assert CAR.scaled(np.array([[-1, 4], [0, 0], [0.5, 1]], np.float32)).tolist() == [[-1, 1], [0, 0], [0.5, 0.25]]
    assert ODD.scaled(ODD.neutral).tolist() == [0, 0]
    assert ODD.scaled(np.array([-2, 5], np.float32)).tolist() == [-0.25, 1]  # one scale for both sides
    assert np.isnan(CAR.scaled(np.full((1, 2), np.nan, np.float32))).all()


def test_clamped_rows_are_in_range():
    rows = np.array([[-3, 9], [np.nan, np.inf], [0.5, 2]], np.float32)
    assert ODD.clamped(rows).tolist() == [[-2, 5], [0, 1], [0.5, 2]]


def test_a_row_sets_columns_and_leaves_the_others_neutral():
    assert ODD.row(turn=3.0).tolist() == [3, 1]
    with pytest.raises(UserError, match="There is no action column 'tun'; the columns are turn, gear"):
        ODD.row(tun=3.0)


def test_check_names_the_row_and_the_column():
    assert CAR.check(np.array([[1.00001, 4]]), "x").tolist() == [[1, 4]]  # rounding
    for rows, message in [
        ([[0, 0], [1.5, 0]], r"The action 1 of a\.csv has steer 1\.5, but its range is -1 to 1\."),
        ([[0, np.nan]], r"The action 0 of a\.csv has gas nan, which is not a finite number\."),
        ([0, -1], r"The action of a\.csv has gas -1, but its range is 0 to 4\."),
        ([[0, 0, 0]], r"Each action of a\.csv has 3 numbers, but must have 2, for steer, gas\."),
        (0.5, r"Each action of a\.csv has 1 numbers, but must have 2"),
    ]:
        with pytest.raises(UserError, match=message):
            CAR.check(np.array(rows), "a.csv")


def test_a_script_is_named_actions_and_numbers_of_frames():
    assert script(CAR, "forward*2 left still*2").tolist() == [[0, 4], [0, 4], [-1, 0], [0, 0], [0, 0]]
    assert script(CAR, "forward+steer=0.5*2  right+forward").tolist() == [[0.5, 4], [0.5, 4], [1, 4]]
    assert script(CAR, "gas=1 left*0").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwad*3", r"no action 'forwad'; there are left, right, forward, still\. Did you mean forward\?"),
        ("forward*x", r"'forward\*x' is not an action"),
        ("forward*-1", "is not an action"),
        ("*3", "is not an action"),
        ("forward*99999999999999999999", "more than 1,000,000 frames"),
        ("forward*" + "9" * 5000, "more than 1,000,000 frames"),
        ("forward*999999 forward*2", "more than 1,000,000 frames"),
        ("steer=far", "'steer=far' does not set an action to a number"),
        ("steer=nan", "steer nan, which is not a finite number"),
        ("stear=1", "There is no action column 'stear'"),
        ("steer=3", "The action 0 of the script has steer 3, but its range is -1 to 1"),
        ("", "The actions are empty"),
    ],
)
def test_a_script_that_is_not_understood_gets_a_sentence(text, message):
    with pytest.raises(UserError, match=message):
        script(CAR, text)


@pytest.mark.parametrize(
    ("columns", "ranges", "keys", "message"),
    [
        ((), (), {}, "need names that differ"),
        (("a", "a"), ((0, 1), (0, 1)), {}, "need names that differ"),
        (("a",), (), {}, "There are 1 columns of actions, but 0 ranges"),
        (("a",), ((1, 1),), {}, "The range of the action a is 1 to 1; the second must be larger"),
        (("a",), ((0, np.inf),), {}, "The range of the action a is 0 to inf"),
        (("a",), ((0, 1),), {"still": {"a": 0}}, "'still' cannot name an action"),
        (("a",), ((0, 1),), {"go on": {"a": 0}}, "'go on' cannot name an action"),
        (("a",), ((0, 1),), {"go": {"b": 0}}, "There is no action column 'b'"),
        (("a",), ((0, 1),), {"go": {"a": 2}}, "The action go sets a to 2, but its range is 0 to 1"),
    ],
)
def test_descriptions_that_do_not_fit_together_are_refused(columns, ranges, keys, message):
    with pytest.raises(UserError, match=message):
        actions(columns, ranges, keys)


def test_json_round_trip():
    assert from_json(CAR.as_json(), "index.json") == CAR
    assert from_json({"columns": ["a"], "ranges": [[0, 1]]}, "x") == actions(("a",), ((0, 1),))
    assert described(None, "index.json") is None
    assert described(ODD.as_json(), "index.json") == ODD
    for content in ({"columns": ["a"]}, [], {"columns": ["a"], "ranges": [[0, "x"]]}, {"columns": 3, "ranges": []}):
        with pytest.raises(UserError, match=r"^index\.json does not describe actions: (ranges|columns|The content)"):
            from_json(content, "index.json")
    with pytest.raises(UserError, match=r"^index\.json: The range of the action a is 1 to 0"):
        from_json({"columns": ["a"], "ranges": [[1, 0]]}, "index.json")


@pytest.mark.parametrize(
    ("name", "key"),
    [("left", "left"), ("forward", "up"), ("gas", "up"), ("back", "down"), ("brake", "down"), ("turn-up", None)],
)
def test_arrow_keys(name, key):
    assert key_of(name) == key
