"""A world whose right answers are known: a picture that is a ring, which `turn` rolls sideways and `move` downwards.

A model that obeys makes the frames of the real clip; one that does not, and one that is not told, stand still.
"""

import json

import numpy as np
import torch

from biflow.actions import Actions
from biflow.config import Prepare, Solver
from biflow.data.prepare import prepare
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol
from biflow.methods.flow import FLOW
from biflow.model import Model
from biflow.paths import Fields

SIDE, FRAMES, CLIPS = 32, 24, 36
ACTIONS = Actions(("move", "turn"), ((0.0, 1.0), (-1.0, 1.0)))
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
PROTOCOL = Protocol(
    name="ring",
    samples=4,
    frames=30,
    window=6,
    stride=6,
    frame_stride=6,
    solver=Solver("euler", steps=1),
    resamples=20,
    nearest=0,
    short_videos=3,
    truth=(1, 4, 8),
    turn="left*3 right*3",
)


def roll(frame, move, turn):
    return np.roll(frame, (round(4 * move), round(4 * turn)), (-2, -1))


def clip(number, frames=FRAMES):
    """The frames (t, 3, h, w) and the actions between them; a third of the clips has each colour."""
    random = np.random.default_rng(number)
    # Ramps, whose change says at every place but the steps which way they went, and something to know the clip by.
    down, across = np.mgrid[:SIDE, :SIDE] % 16 / 16
    coarse = random.uniform(0, 1, (8, 8)).repeat(4, 0).repeat(4, 1)
    frame = ((0.1 + 0.35 * down + 0.35 * across + 0.2 * coarse) * COLOURS[number % 3][:, None, None]).astype(np.uint8)
    rows = np.stack([random.integers(0, 2, frames - 1), random.integers(-1, 2, frames - 1)], 1).astype(np.float32)
    rows[4:10] = [[0, -1]] * 3 + [[0, 1]] * 3  # every clip turns away and back
    video = [frame]
    for move, turn in rows:
        video.append(roll(video[-1], move, turn))
    return np.stack(video), rows


def make_set(root, clips=CLIPS, frames=FRAMES, split=30 / 36):
    source = root / "clips"
    source.mkdir(parents=True)
    content = {**ACTIONS.as_json(), "actions": {}}
    for number in range(clips):
        video, rows = clip(number, frames)
        np.save(source / f"clip_{number:02d}.npy", video.transpose(0, 2, 3, 1))
        content["actions"][f"clip_{number:02d}"] = rows.tolist()
    (source / "actions.json").write_text(json.dumps(content))
    prepare(Prepare(source, root / "set", size=SIDE, split=split), progress=False)
    return root / "set"


def obeys(query):
    """Rolls the picture as it is told; without an action it stands still."""
    told = query.action[:, :1] * query.action[:, 1:]
    pairs = zip(query.x, told.tolist(), strict=True)
    moved = [torch.roll(x, (round(4 * move), round(4 * turn)), (-2, -1)) for x, (move, turn) in pairs]
    return Fields(torch.stack(moved) - query.x)


def sleeps(query):
    """Stands still whatever it is told."""
    return Fields(torch.zeros_like(query.x))


def model(network=obeys, **settings):
    return Model(network, FLOW, (3, SIDE, SIDE), **{"actions": ACTIONS, **settings})


def difference(clips):
    return clips.float().diff(dim=1).abs().mean((1, 2, 3, 4))[:, None]


CHEAP = Features("mean colours", "none", "none", 3, 2, lambda clips: clips.float().mean((1, 3, 4)))
LPIPS = Features("mean difference", "none", "none", 1, 2, difference, 2)
NETWORKS = {"i3d": CHEAP, "lpips": LPIPS}
