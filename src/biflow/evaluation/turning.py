"""Turning away and back: how far the view is from where it began, by LPIPS, over that of two unrelated frames."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from biflow.actions import Actions
from biflow.data.windows import Windows
from biflow.evaluation.networks.features import Features
from biflow.evaluation.videos import Videos

PAIRS = 64  # of unrelated frames
AT_ONCE = 16  # pairs of frames to compare


class Turn(NamedTuple):
    """A turn away and back in a clip: the places of the frames where it begins, is farthest away, and ends."""

    clip: int
    begin: int
    away: int
    end: int


def compare(lpips: Features, pairs: list[tuple[Tensor, Tensor]]) -> Float[Tensor, " n"]:
    """LPIPS of pairs of frames."""
    both = [torch.stack(pair) for pair in pairs]
    parts = [torch.stack(both[low : low + AT_ONCE]) for low in range(0, len(both), AT_ONCE)]
    return torch.cat([torch.empty(0), *(lpips.compute(part)[:, 0] for part in parts)]).double()


def unrelated(lpips: Features, test: Windows, seed: int) -> float:
    """The mean LPIPS of random frames of two different clips; of one clip, if there is only one."""
    random, pairs = np.random.default_rng(seed), []
    for _ in range(PAIRS):
        clips = random.choice(len(test.clips), 2, replace=len(test.clips) == 1)
        places = [int(random.integers(test.clips[clip]["frames"])) for clip in clips]
        pairs.append(tuple(test.frame(int(clip), place) for clip, place in zip(clips, places, strict=True)))
    return float(compare(lpips, pairs).mean())


def generated(lpips: Features, videos: Videos, middle: int) -> Float[Tensor, "n 2"]:
    """LPIPS from the first frame of each video to frame `middle`, counted from 1, and to the last one."""
    pairs = []
    for sample in range(len(videos)):
        whole = videos.whole(sample)
        pairs += [(whole[0], whole[middle]), (whole[0], whole[-1])]
    return compare(lpips, pairs).view(-1, 2)


def real(lpips: Features, test: Windows, turns: list[Turn]) -> Float[Tensor, "n 2"]:
    """The same in real clips."""
    pairs = []
    for turn in turns:
        begin, away, end = (test.frame(turn.clip, place) for place in turn[1:])
        pairs += [(begin, away), (begin, end)]
    return compare(lpips, pairs).view(-1, 2)


def farthest(rows: Float[np.ndarray, "n k"]) -> int:
    """After how many rows of a turn away and back the view is farthest from where it began."""
    return int(np.abs(rows.cumsum(0)).sum(1).argmax()) + 1


def find_turns(test: Windows, script: Float[np.ndarray, "n k"], actions: Actions) -> list[Turn]:
    """The turns away and back in real clips that are like the script, none of which overlap.

    They use the same single column while the others are neutral, turn at least 3/4 and at most twice as far, come back
    to within 2 %, and take at most three times as long.
    """
    used = np.flatnonzero((script != actions.neutral).any(0))
    if len(used) != 1 or test.actions is None:
        return []
    column, found = int(used[0]), []
    reach = float(np.abs((script - actions.neutral)[:, column].cumsum()).max())
    for clip in range(len(test.clips)):
        rows = test.action_rows(clip) - actions.neutral
        only = (np.delete(rows, column, 1) == 0).all(1) & np.isfinite(rows[:, column])
        begin = 0
        while begin < len(rows):
            stop = begin + int(np.argmin(np.append(only[begin:], False)))
            turn = _turn(rows[begin : min(stop, begin + 3 * len(script)), column], reach)
            if turn:
                found.append(Turn(clip, begin, begin + turn[0], begin + turn[1]))
                begin += turn[1]
            else:
                begin += 1
    return found


def _turn(steps: Float[np.ndarray, " n"], reach: float) -> tuple[int, int] | None:
    """After how many steps a turn that begins with the first is farthest away, and is back; None if it is no turn."""
    if not len(steps) or steps[0] == 0:
        return None
    angle = steps.cumsum()
    near = np.abs(angle) <= 0.02 * reach
    back = np.flatnonzero(near & np.maximum.accumulate(~near))  # after it has been farther
    if not len(back):
        return None
    away = int(np.abs(angle[: back[0] + 1]).argmax())
    if not 0.75 * reach <= np.abs(angle[away]) <= 2 * reach:
        return None
    return away + 1, int(back[0]) + 1
