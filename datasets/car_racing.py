"""Render drives around random race tracks, seen from above: gymnasium's CarRacing-v3.

    python datasets/car_racing.py datasets/car-frames --clips 60 --frames 200 --size 64 --seed 0

Each drive becomes a folder of PNG frames. `actions.json` describes the actions and records them: row i of a drive is
the command given after frame i and before frame i+1, so that a drive has one row fewer than frames. Its columns are
steer (-1 is left, 1 right), gas and brake (0 to 1). The same command resumes a run that was interrupted, and a larger
--clips adds drives. It needs Box2D: pip install "biflow[car]"

The driver follows the track near or off its middle, at changing paces, with smooth pedals or as one does with keys. At
times it steers hard, brakes, coasts, or leaves the track and comes back.
"""

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rendering import Clip, main

from biflow.errors import UserError

RATE = 50  # steps of the simulation per second
SKIP = 3  # steps of the simulation per frame, with one command; at 1, hardly anything moves between frames
MEANING = {
    "columns": ["steer", "gas", "brake"],
    "ranges": [[-1, 1], [0, 1], [0, 1]],
    "keys": {"left": {"steer": -1}, "right": {"steer": 1}, "gas": {"gas": 1}, "brake": {"brake": 1}},
    "fps": round(RATE / SKIP, 3),
}
SQUARE = 700  # pixels of the screen's height above the dashboard
VERGE = 20 / 3  # from the middle of the track to its edge, in the simulation's units
Command = tuple[float, float, float]
# What interrupts the drive at times: hard steering, full gas, coasting, braking.
MISHAPS = ((-1, 0, 0), (1, 0, 0), (-1, 1, 0), (1, 1, 0), (0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0.5))


@dataclass
class Car:
    """Where the car is, its direction in radians counterclockwise from east, and its speed in units per second."""

    x: float
    y: float
    angle: float
    speed: float


def drive(rng: random.Random, car: Car, track: np.ndarray) -> Iterator[Command]:
    """Commands without end. `track` holds points (x, y) along a closed track; the caller keeps `car` up to date."""
    while True:
        keys, pace = rng.random() < 0.5, rng.uniform(20, 50)
        offset = rng.uniform(-0.7, 0.7) * VERGE
        if rng.random() < 0.1:
            offset = rng.choice((-1, 1)) * rng.uniform(1, 1.6) * VERGE  # on the grass
        for _ in range(rng.randrange(20, 80)):
            yield pursue(car, track, offset, pace, keys)
        if rng.random() < 0.5:
            mishap = rng.choice(MISHAPS)
            for _ in range(rng.randrange(3, 10)):
                yield mishap


def pursue(car: Car, track: np.ndarray, offset: float, pace: float, keys: bool) -> Command:
    """Steer to a point ahead, `offset` units right of the middle of the track, and slow down for a bend."""
    nearest = int(np.hypot(*(track - (car.x, car.y)).T).argmin())
    ahead = nearest + 3 + int(car.speed / 12)
    direction = _direction(track, ahead)
    x, y = track[ahead % len(track)] + offset * np.array((math.sin(direction), -math.cos(direction)))
    error = _wrapped(car.angle - math.atan2(y - car.y, x - car.x))  # to the right
    bend = abs(_wrapped(_direction(track, ahead + 6) - _direction(track, nearest)))
    wanted = pace * max(0.4, 1 - 0.5 * bend) if abs(error) < 1 else 12  # slow where it must turn around
    if keys:
        steer = 0.0 if abs(error) < 0.12 else math.copysign(1, error)
        # Gas spins the car in a bend, and it would circle on the grass.
        return steer, float(car.speed < (min(wanted, 18) if steer else wanted)), float(car.speed > wanted + 15)
    steer = _clip(1.5 * error, -1, 1)
    gas = _clip((wanted - car.speed) / 15, 0, 1) * (1 - 0.5 * abs(steer))
    return steer, gas, _clip((car.speed - wanted - 5) / 20, 0, 0.8)


def _direction(track: np.ndarray, index: int) -> float:
    dx, dy = track[(index + 1) % len(track)] - track[index % len(track)]
    return math.atan2(dy, dx)


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _clip(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def _game() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window
    try:
        import gymnasium  # pyright: ignore[reportMissingImports]  # an extra
        import pygame  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('Rendering races needs gymnasium and Box2D: pip install "biflow[car]"') from error
    # Without its wrappers, which end an episode after a time or a lap.
    return gymnasium.make("CarRacing-v3", render_mode="rgb_array").unwrapped


def race(seed: int, frames: int, size: int) -> Clip:
    """One drive: `frames` RGB images of size², and the commands between them."""
    rng = random.Random(seed)
    game = _game()
    game.reset(seed=seed)
    game.t = 1.0  # second; in the first one, the camera approaches the car
    track = np.array([point[2:4] for point in game.track])
    car = Car(*_seen(game))
    orders = drive(rng, car, track)
    skip = rng.randrange(20, 80)  # frames, to start anywhere
    images, actions = [], []
    for step in range(skip + frames):
        if step >= skip:
            images.append(_picture(game.surf, size))
        command = [round(value, 3) for value in next(orders)]
        _act(game, command)
        car.x, car.y, car.angle, car.speed = _seen(game)
        if step >= skip:
            actions.append(command)
    game.close()
    return images, actions[: frames - 1]


def _act(game: Any, command: list[float]) -> None:
    """SKIP steps under one command. Only the last one draws, which is most of the work of `game.step`."""
    steer, gas, brake = command
    for _ in range(SKIP - 1):  # what `game.step` does before it draws
        game.car.steer(-steer)
        game.car.gas(gas)
        game.car.brake(brake)
        game.car.step(1 / RATE)
        game.world.Step(1 / RATE, 180, 60)
    game.step(np.array(command))


def _seen(game: Any) -> tuple[float, float, float, float]:
    hull = game.car.hull
    x, y = hull.position
    return x, y, hull.angle + math.pi / 2, hull.linearVelocity.length


def _picture(surface: Any, size: int) -> Image.Image:
    """The square around the car above the dashboard, averaged down to `size`.

    It is cut from the surface that the simulation draws on: its rendered arrays are scaled differently in x and y.
    """
    import pygame  # pyright: ignore[reportMissingImports]  # an extra

    screen = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    left = (screen.shape[1] - SQUARE) // 2
    return Image.fromarray(screen[:SQUARE, left : left + SQUARE]).resize((size, size), Image.Resampling.BOX)


OPTIONS = (
    ("clips", 60, "number of drives, each on a track of its own"),
    ("frames", 200, "frames per drive"),
    ("size", 64, "side of the square frames"),
    ("seed", 0, "seed of the tracks and drives"),
)

if __name__ == "__main__":
    main(race, MEANING, str(__doc__), OPTIONS)
