"""Render objects under a light that moves around them: a set whose axis is the angle of a light instead of time.

    python datasets/moving_light.py datasets/light-frames --clips 60 --frames 73 --size 64 --seed 0

Each clip is an object as of turntable.py, seen from a random angle. The light goes once around it at a constant rate,
counterclockwise as seen from above, from a random angle. The last frame is the first one again. The same command
resumes a run that was interrupted, and a larger --clips adds clips. With the same seed the objects are those of
turntable.py, and with --objects 12 clips show the same 12 objects, each from other angles.
"""

import math

from rendering import Clip, main
from solids import around, object_of, picture


def shine(seed: int, frames: int, size: int, objects: int = 0) -> Clip:
    """One object: `frames` RGB images of size²."""
    solids, rng = object_of(seed, objects)
    view, start = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    return [picture(solids, view, angle, size) for angle in around(start, frames)], []


OPTIONS = (
    ("clips", 60, "number of clips"),
    ("objects", 0, "number of objects, if clips shall share them; 0 for one of its own in each clip"),
    ("frames", 73, "frames of a round; the last one is the first one again"),
    ("size", 64, "side of the square frames"),
    ("seed", 0, "seed of the objects, or of their angles alone where clips share objects"),
)

if __name__ == "__main__":
    main(shine, None, str(__doc__), OPTIONS)
