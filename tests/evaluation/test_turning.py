from dataclasses import replace

import numpy as np
import pytest

from biflow.actions import script
from biflow.data.windows import Windows
from biflow.evaluation import turning
from biflow.evaluation.turning import Turn, find_turns

from . import ring


class Clips(Windows):
    """The actions of clips, as a split has them."""

    actions = ring.ACTIONS

    def __init__(self, *texts):
        self.clips = texts

    def action_rows(self, clip):
        return np.concatenate([script(ring.ACTIONS, self.clips[clip]), np.full((1, 2), np.nan, np.float32)])


SCRIPT = script(ring.ACTIONS, "left*10 right*10")


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("left*10 right*10", [Turn(0, 0, 10, 20)]),
        ("forward*3 right*8 still*2 left*8 forward*3", [Turn(0, 3, 11, 21)]),
        ("turn=-0.5*20 turn=0.5*20", [Turn(0, 0, 20, 40)]),
        ("turn=0.1*80 right*2", []),  # does not come back
        ("left*10 forward right*10", []),  # moves in between
        ("left*5 right*5", []),  # not far
        ("left*30 right*30", [Turn(0, 10, 30, 50)]),  # the part of it that is not too far
        ("left*10 still*50 right*10", []),  # too long
        ("left*10 right*10 right*10 left*10", [Turn(0, 0, 10, 20), Turn(0, 20, 30, 40)]),
        ("still*30", []),
    ],
)
def test_turns_of_real_clips_are_found(text, turns):
    assert find_turns(Clips(text), SCRIPT, ring.ACTIONS) == turns


def test_a_script_of_two_columns_has_no_real_turns():
    text = "left+forward*10 right*10"
    assert find_turns(Clips(text), script(ring.ACTIONS, text), ring.ACTIONS) == []


def test_a_turn_is_farthest_where_it_begins_to_go_back():
    assert turning.farthest(SCRIPT) == 10
    assert turning.farthest(script(ring.ACTIONS, "right*4 still*3 left*4")) == 4


def test_unrelated_frames_are_of_two_clips(tmp_path):
    test = Windows(ring.make_set(tmp_path), split="test")
    seen = []

    def compute(pairs):
        seen.append(pairs)
        return ring.difference(pairs)

    value = turning.unrelated(replace(ring.LPIPS, compute=compute), test, seed=0)
    pairs = np.concatenate(seen)
    assert len(pairs) == turning.PAIRS
    assert value == pytest.approx(float(np.mean([ring.difference(part).mean() for part in seen])), rel=1e-6)
    # The brightest value of a frame of the ring is its clip's, whatever was done.
    assert all(sorted(a.ravel()) != sorted(b.ravel()) for a, b in pairs)
