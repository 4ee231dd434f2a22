"""Who walks through the mazes: commands (move, turn) for every frame, drawn at random.

Both lie in [-1, 1]: move 1 is a full step forward, turn 1 the largest turn to the right. A walk alternates between
following corridors and looking around. It keeps to the middle of corridors and hardly ever touches a wall: a picture
that one wall fills does not show where the walker is, and what a small network learns of such pictures it lacks
elsewhere.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

CELL = 128  # side of a grid cell and height of a wall, in map units
STEP = 5.3  # map units per frame at move 1
MAX_TURN = 4.0  # degrees per frame at turn 1
CLEAR = 48  # map units: how near backing off may come to a wall
DIRECTIONS = EAST, NORTH, WEST, SOUTH = (1, 0), (0, 1), (-1, 0), (0, -1)
Cell = tuple[int, int]
Command = tuple[float, float]

BACK, STILL, LEFT, RIGHT = (-1.0, 0.0), (0.0, 0.0), (0.0, -1.0), (0.0, 1.0)


@dataclass
class Pose:
    """Where the walker is: map units, degrees counterclockwise from east, and how far the last step took it."""

    x: float
    y: float
    angle: float
    moved: float = 0.0

    @property
    def cell(self) -> Cell:
        return int(self.x // CELL), int(self.y // CELL)


def exits(open_cells: set[Cell], cell: Cell) -> list[Cell]:
    """Directions from a cell that are open."""
    return [d for d in DIRECTIONS if (cell[0] + d[0], cell[1] + d[1]) in open_cells]


def choose_way(rng: random.Random, open_cells: set[Cell], cell: Cell, heading: Cell) -> Cell:
    """Straight on, left or right, whichever are open, with equal chances; sometimes back, and always where it must."""
    back = (-heading[0], -heading[1])
    on = [way for way in exits(open_cells, cell) if way != back]
    return back if not on or (back in exits(open_cells, cell) and rng.random() < 0.02) else rng.choice(on)


def view(pose: Pose, open_cells: set[Cell], turned: float = 0) -> float:
    """How far the walker can see in a direction: `turned` degrees to the right of ahead, in map units."""
    angle = math.radians(pose.angle - turned)
    dx, dy = math.cos(angle), math.sin(angle)
    distance = 0
    while (int((pose.x + distance * dx) // CELL), int((pose.y + distance * dy) // CELL)) in open_cells:
        distance += 8
    return distance


def turn_to(pose: Pose, x: float, y: float) -> float:
    """Degrees to turn right so that the walker faces a place, from -180 to 180."""
    return (pose.angle - math.degrees(math.atan2(y - pose.y, x - pose.x)) + 180) % 360 - 180


def commands(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> Iterator[Command]:
    """Commands of a walk without end. The caller carries them out and keeps `pose` up to date."""
    shares = {follow: 0.75, look: 0.25}  # of frames
    spent = {kind: rng.uniform(0, 200) * share for kind, share in shares.items()}
    while True:
        kind = min(shares, key=lambda kind: spent[kind] / shares[kind])
        for command in kind(rng, pose, open_cells):
            spent[kind] += 1
            yield command


def follow(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> Iterator[Command]:
    """Follow corridors along their middle, with smooth steering or with full turns as keys give."""
    keys, stops = rng.random() < 0.5, rng.random() < 0.3  # whether it stands still for sharp turns
    cell = pose.cell
    way = min(
        exits(open_cells, cell),
        key=lambda way: abs(turn_to(pose, pose.x + way[0], pose.y + way[1])),
    )
    place, waits = None, False
    for _ in range(rng.randrange(60, 161)):
        if place is None or math.dist((pose.x, pose.y), place) < (0.2 if stops else 0.6) * CELL:
            if place is not None:
                way = choose_way(rng, open_cells, cell, way)
            cell = (cell[0] + way[0], cell[1] + way[1])
            place = ((cell[0] + 0.5) * CELL, (cell[1] + 0.5) * CELL)
        error = turn_to(pose, *place)
        turn = (0 if abs(error) < 3 else math.copysign(1, error)) if keys else 0.3 * error / MAX_TURN
        waits = abs(error) > (15 if stops or waits else 60)
        yield 0.0 if waits else 1.0, max(-1.0, min(1.0, turn))


def look(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> list[Command]:
    """Stop; look to a side and back, all around, back off, or wait."""
    kind = rng.choices(("aside", "around", "off", "wait"), (5, 0.7, 8, 3))[0]
    if kind == "aside":
        return look_aside(rng)
    if kind == "around":
        return [rng.choice((LEFT, RIGHT))] * round(360 / MAX_TURN)
    if kind == "off":  # not into a wall, where the command would not be visible
        free = min(view(pose, open_cells, turned) for turned in (150, 180, 210)) - CLEAR
        return [BACK] * min(rng.randrange(6, 26), max(0, int(free / STEP)))
    return [STILL] * rng.randrange(4, 20)


def look_aside(rng: random.Random) -> list[Command]:
    """Turn away by 30 to 180 degrees, wait or not, and turn back by as much."""
    rate = 1.0 if rng.random() < 0.7 else round(rng.uniform(0.4, 1), 3)
    turns = round(rng.uniform(30, 180) / (rate * MAX_TURN))
    rate *= rng.choice((-1, 1))
    return [(0.0, rate)] * turns + [STILL] * rng.randrange(0, 12) + [(0.0, -rate)] * turns
