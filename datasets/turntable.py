"""Render objects on a turntable: a set whose axis is an angle instead of time.

    python datasets/turntable.py datasets/turntable-frames --clips 60 --frames 73 --size 64 --seed 0

Each clip is an object of three to five coloured solids, as it turns once around, counterclockwise as seen from above,
at a constant rate, from a random angle. The last frame is the first one again: how far a stream has drifted after a
turn can be measured exactly. With --objects 12, clips show the same 12 objects, each from other angles: what a model
has to know of the far sides, it can learn. The same command resumes a run that was interrupted, and a larger --clips
adds clips.
"""

import math

from rendering import Clip, main
from solids import around, object_of, picture

LIGHT = math.radians(-50)  # from the camera; table and object turn beneath it


def turn(seed: int, frames: int, size: int, objects: int = 0) -> Clip:
    """One object: `frames` RGB images of size²."""
    solids, rng = object_of(seed, objects)
    start = rng.uniform(0, 2 * math.pi)
    views = [-angle for angle in around(-start, frames)]  # the camera goes the other way
    return [picture(solids, view, view + LIGHT, size) for view in views], []


OPTIONS = (
    ("clips", 60, "number of clips"),
    ("objects", 0, "number of objects, if clips shall share them; 0 for one of its own in each clip"),
    ("frames", 73, "frames of a turn; the last one is the first one again"),
    ("size", 64, "side of the square frames"),
    ("seed", 0, "seed of the objects, or of their angles alone where clips share objects"),
)

if __name__ == "__main__":
    main(turn, None, str(__doc__), OPTIONS)
