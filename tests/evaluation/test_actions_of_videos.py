"""Under which actions the videos of an evaluation are generated."""

import numpy as np
import pytest

from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation import actions

from . import ring


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    return Windows(ring.make_set(tmp_path_factory.mktemp("ring")), split="test")


def test_own_actions_go_on_in_the_next_clips(test):
    every = [test.action_rows(clip)[:-1] for clip in range(6)]
    rows = actions.own(test, 4, 20, 3 + 23 + 23 + 1)
    np.testing.assert_array_equal(rows, np.concatenate([every[4][20:], every[5], every[0], every[1][:1]]))
    assert len(actions.own(test, 0, 5, 1000)) == 1000
    np.testing.assert_array_equal(actions.own(test, 0, 0, 139)[138], every[0][0])  # after all clips, from the start


def test_backward_own_actions_are_those_that_led_to_the_frame_and_before(test):
    every = [test.action_rows(clip)[:-1] for clip in range(6)]
    rows = actions.own(test, 0, 2, 4, backward=True)
    np.testing.assert_array_equal(rows, [every[0][1], every[0][0], every[5][-1], every[5][-2]])


def test_rows_are_those_of_the_setting(test):
    model, places = ring.model(), np.array([[0, 3], [2, 0]])
    how = {"model": model, "test": test, "places": places, "frames": 5, "backward": False}
    assert actions.rows(None, **{**how, "model": ring.model(actions=None)}) is None
    assert np.isnan(actions.rows("none", **how)).all()
    own = actions.rows("data", **how)
    np.testing.assert_array_equal(own[0], test.action_rows(0)[3:8])
    np.testing.assert_array_equal(own[1], test.action_rows(2)[:5])
    expected = [[0, 1], [0, 1], [1, 0], [0, 1], [0, 1]]
    np.testing.assert_array_equal(actions.rows("right*2 forward", **how), [expected, expected])
    assert (actions.rows("still", **how) == 0).all()


def test_no_setting_means_the_clip_s_own_actions_if_the_model_takes_them(test):
    other = ring.Actions(("steer",), ((-1.0, 1.0),))
    assert actions.settled(None, ring.model(), test) == "data"
    assert actions.settled(None, ring.model(actions=other), test) == "none"
    assert actions.settled(None, ring.model(actions=None), test) is None
    assert actions.settled("still", ring.model(), test) == "still"


def test_actions_that_do_not_fit_get_a_sentence(test):
    with pytest.raises(UserError, match="This model takes no actions") as error:
        actions.settled("still", ring.model(actions=None), test)
    assert error.value.setting == "actions"
    other = ring.Actions(("steer",), ((-1.0, 1.0),))
    with pytest.raises(UserError, match=r"The model's actions are steer, but .* has move, turn"):
        actions.settled("data", ring.model(actions=other), test)
    narrow = ring.Actions(("move", "turn"), ((0.0, 1.0), (-0.5, 0.5)))
    for asked in ("data", None):
        sentence = r"The action \d+ of the clip .* of .* has turn -?1, but its range is -0.5 to 0.5. Evaluate with a"
        with pytest.raises(UserError, match=sentence) as error:
            actions.settled(asked, ring.model(actions=narrow), test)
        assert error.value.setting == "actions"
    where = (ring.model(), test, np.array([[0, 3]]), 5)
    with pytest.raises(UserError, match="Did you mean left") as error:
        actions.rows("lefft*3", *where, backward=False)
    assert error.value.setting == "actions"
    with pytest.raises(UserError, match="There is no action") as error:
        actions.turn(ring.model(), "around*3")
    assert error.value.setting == "turn"


def test_the_usual_turn_is_made_of_left_and_right():
    assert actions.turn(ring.model(actions=None), None) is None
    assert actions.turn(ring.model(actions=ring.Actions(("gas",), ((0.0, 1.0),))), None) is None
    rows = actions.turn(ring.model(), None)
    assert (len(rows), rows[0].tolist(), rows[-1].tolist()) == (44, [0, -1], [0, 1])
    assert rows.sum() == 0


def test_a_file_has_a_row_per_frame_and_repeats_like_a_script(test, tmp_path):
    how = {"model": ring.model(), "test": test, "places": np.zeros((2, 2), int), "frames": 5, "backward": False}
    (tmp_path / "a.csv").write_text("turn,move\n1,0\n-1,1\n")
    (tmp_path / "b.json").write_text("[[0, 1], [1, -1]]")
    # A recording with a frame in between has each row twice; where nobody steered it has none.
    first = '{"actions": [[0, 1], [0, 1], [1, -1], [1, -1], null, null], "recording": {"in_between": 2}}'
    (tmp_path / "c.json").write_text(first)
    once = [[0, 1], [1, -1]]
    for name in ("a.csv", "b.json"):
        rows = actions.rows(str(tmp_path / name), **how)
        np.testing.assert_array_equal(rows, [[*once, *once, once[0]]] * 2)
    rows = actions.rows(str(tmp_path / "c.json"), **how)
    np.testing.assert_array_equal(rows, [[*once, [np.nan, np.nan], *once]] * 2)
    (tmp_path / "a.csv").write_text("turn,jump\n1,0\n")
    with pytest.raises(UserError, match=r"a\.csv has") as error:
        actions.rows(str(tmp_path / "a.csv"), **how)
    assert error.value.setting == "actions"


def test_the_record_of_a_file_depends_on_its_content(tmp_path):
    assert actions.file_record(None) is actions.file_record("still") is None
    (tmp_path / "a.csv").write_text("0,1\n")
    before = actions.file_record(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("0,0\n")
    after = actions.file_record(str(tmp_path / "a.csv"))
    assert before["name"] == after["name"] == "a.csv"
    assert before["sha256"] != after["sha256"]
    with pytest.raises(UserError, match="does not exist") as error:
        actions.file_record("nowhere.csv")
    assert error.value.setting == "actions"
