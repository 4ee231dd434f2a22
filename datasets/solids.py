"""Objects of a few coloured solids on a round table, drawn by sphere tracing (Hart 1996) in NumPy.

Units: the table has radius 1 and lies at height 0. Angles are in radians, counterclockwise as seen from above.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from rendering import averaged

Vectors = Float[np.ndarray, "n 3"]
Values = Float[np.ndarray, " n"]

DISTANCE, ELEVATION, VIEW = 3.4, math.radians(28), 0.32  # of the camera, which looks at LOOK; half the picture at 1
LOOK = np.array([0.0, 0.0, 0.2], np.float32)
LIGHT, AMBIENT = math.radians(48), 0.35  # the light's elevation; brightness in the shade
BACKGROUND = np.array([0.58, 0.62, 0.68], np.float32)
STEPS, NEAR, FAR = 64, 1e-3, 6.0  # of a ray
SAMPLES = 2  # rays per pixel and side
COLOURS = (
    (0.82, 0.27, 0.24),
    (0.92, 0.63, 0.20),
    (0.94, 0.84, 0.35),
    (0.35, 0.67, 0.35),
    (0.27, 0.51, 0.78),
    (0.51, 0.35, 0.67),
    (0.92, 0.92, 0.90),
)


@dataclass(frozen=True)
class Solid:
    """A "sphere", an upright "cylinder" or a "box".

    Attributes:
        kind: which of these.
        centre: its middle (x, y, z), z upwards.
        size: half of its extent in x, y and z; a sphere and a cylinder have the radius size[0].
        angle: by which a box is turned around its own vertical axis.
        colour: (r, g, b) in [0, 1].
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    angle: float
    colour: tuple[float, float, float]

    def distance(self, points: Vectors) -> Values:
        """From the surface, negative inside."""
        p = turned(points - np.array(self.centre, np.float32), -self.angle)
        if self.kind == "sphere":
            return np.linalg.norm(p, axis=1) - self.size[0]
        if self.kind == "cylinder":
            sides = np.stack([np.hypot(p[:, 0], p[:, 1]) - self.size[0], np.abs(p[:, 2]) - self.size[2]], axis=1)
        else:
            sides = np.abs(p) - np.array(self.size, np.float32)
        return np.linalg.norm(np.maximum(sides, 0), axis=1) + np.minimum(sides.max(axis=1), 0)


TABLE = Solid("cylinder", (0, 0, -0.03), (1, 1, 0.03), 0, (0.83, 0.8, 0.74))


def turned(points: Vectors, angle: float) -> Vectors:
    """Points turned around the vertical axis."""
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y, z = points.T
    return np.stack([c * x - s * y, s * x + c * y, z], axis=1)


def object_of(seed: int, objects: int) -> tuple[list[Solid], random.Random]:
    """The object of a clip, one of `objects` or, if that is 0, its own, and what else about the clip is drawn from."""
    rng = random.Random(seed)
    return random_object(random.Random(seed % objects) if objects else rng), rng


def random_object(rng: random.Random) -> list[Solid]:
    """Three to five solids that stand around the middle of the table, some of them on top of another."""
    solids: list[Solid] = []
    colours = rng.sample(COLOURS, 5)
    for number in range(rng.randint(3, 5)):
        kind = rng.choice(("sphere", "cylinder", "box"))
        width, height = rng.uniform(0.17, 0.36), rng.uniform(0.16, 0.42)
        size = (width, width, width) if kind == "sphere" else (width, rng.uniform(0.17, 0.36), height)
        below = rng.choice(solids) if solids and rng.random() < 0.3 else None
        if below and below.kind != "sphere":
            x, y, floor = below.centre[0], below.centre[1], below.centre[2] + below.size[2]
        else:
            away, around = rng.uniform(0.1, 0.6), rng.uniform(0, 2 * math.pi)
            x, y, floor = away * math.cos(around), away * math.sin(around), 0.0
        solids.append(Solid(kind, (x, y, floor + size[2]), size, rng.uniform(0, math.pi), colours[number]))
    return solids


def around(start: float, frames: int) -> list[float]:
    """Angles from `start` counterclockwise at a constant rate. The last one is the first one again, after a round."""
    steps = max(frames - 1, 1)
    return [start + 2 * math.pi * (i % steps) / steps for i in range(frames)]


def picture(solids: list[Solid], view: float, light: float, size: int) -> Image.Image:
    """The object from a camera at the angle `view`, under a light at the angle `light`, in size² pixels."""
    side = size * SAMPLES
    eye, rays = _camera(view, side)
    towards = _direction(light, LIGHT)
    colours = np.broadcast_to(BACKGROUND, rays.shape).copy()
    points, hit = _march(solids, np.broadcast_to(eye, rays.shape), rays)
    seen = points[hit]
    normals, lit = _normals(solids, seen), np.zeros(len(seen), np.float32)
    facing = normals @ towards
    front = facing > 0
    start = seen[front] + 20 * NEAR * normals[front]
    _, shaded = _march(solids, start, np.broadcast_to(towards, start.shape))
    lit[front] = np.where(shaded, 0, facing[front])
    colours[hit] = _colours(solids, seen) * (AMBIENT + (1 - AMBIENT) * lit[:, None])
    return averaged(colours, size)


def _direction(angle: float, elevation: float) -> Float[np.ndarray, "3"]:
    flat = math.cos(elevation)
    return np.array([flat * math.cos(angle), flat * math.sin(angle), math.sin(elevation)], np.float32)


def _camera(view: float, side: int) -> tuple[Float[np.ndarray, "3"], Vectors]:
    """Where the camera is, and the direction of the ray through each of side² points, row by row."""
    back = _direction(view, ELEVATION)
    right = np.array([-math.sin(view), math.cos(view), 0], np.float32)
    up = np.cross(back, right)
    across = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
    x, y = np.meshgrid(across, -across)
    rays = VIEW * (x.reshape(-1, 1) * right + y.reshape(-1, 1) * up) - back
    return LOOK + DISTANCE * back, (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


def _distances(solids: list[Solid], points: Vectors) -> Float[np.ndarray, "n k"]:
    """From every solid and, last, from the table."""
    return np.stack([solid.distance(points) for solid in (*solids, TABLE)], axis=1)


def _march(solids: list[Solid], starts: Vectors, rays: Vectors) -> tuple[Vectors, Bool[np.ndarray, " n"]]:
    """Where rays end, and which of them at a surface."""
    points, gone = starts.astype(np.float32), np.zeros(len(starts), np.float32)
    hit, alive = np.zeros(len(starts), bool), np.arange(len(starts))
    for _ in range(STEPS):
        step = _distances(solids, points[alive]).min(axis=1)
        hit[alive] = step < NEAR
        points[alive] += step[:, None] * rays[alive]
        gone[alive] += step
        alive = alive[(step >= NEAR) & (gone[alive] < FAR)]
        if not len(alive):
            break
    return points, hit


def _normals(solids: list[Solid], points: Vectors) -> Vectors:
    """Gradients of the distance, by central differences."""
    step = np.float32(2e-3)
    each = [step * axis for axis in np.eye(3, dtype=np.float32)]
    nearest = [_distances(solids, points + d).min(axis=1) - _distances(solids, points - d).min(axis=1) for d in each]
    normals = np.stack(nearest, axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)


def _colours(solids: list[Solid], points: Vectors) -> Vectors:
    """Of the nearest solid. The table has a darker sector, so that its turning shows."""
    palette = np.array([solid.colour for solid in (*solids, TABLE)], np.float32)
    nearest = _distances(solids, points).argmin(axis=1)
    colours = palette[nearest]
    angle = np.arctan2(points[:, 1], points[:, 0])
    sector = (nearest == len(solids)) & (np.abs(angle) < math.pi / 8)
    colours[sector] *= 0.75
    return colours
