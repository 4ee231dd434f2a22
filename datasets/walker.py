"""Who walks through the mazes: commands (move, turn) for every frame, drawn at random.

Both lie in [-1, 1]: move 1 is a full step forward, turn 1 the largest turn to the right. A walk alternates between
following corridors along their middle, holding keys as a player does, also into walls, looking around, and pauses.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

CELL = 128  # side of a grid cell and height of a wall, in map units
STEP = 5.3  # map units per frame at move 1
MAX_TURN = 4.0  # degrees per frame at turn 1
CLEAR = 48  # map units: how near backing off may come to a wall
EARLY = 0.7  # cells before the middle of a cell: where a walker turns to the next one
DIRECTIONS = EAST, NORTH, WEST, SOUTH = (1, 0), (0, 1), (-1, 0), (0, -1)
Cell = tuple[int, int]
Command = tuple[float, float]

FORWARD, BACK, STILL, LEFT, RIGHT = (1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (0.0, -1.0), (0.0, 1.0)
KEYS = {  # how often a player holds them
    FORWARD: 8,
    (1.0, -1.0): 4,
    (1.0, 1.0): 4,
    LEFT: 3,
    RIGHT: 3,
    BACK: 2,
    STILL: 1,
    (-1.0, -1.0): 1,
    (-1.0, 1.0): 1,
}
STARES = 12  # frames of a wall that stops the player, before it turns away


@dataclass
class Pose:
    """Where the walker is: map units, and degrees counterclockwise from east."""

    x: float
    y: float
    angle: float

    @property
    def cell(self) -> Cell:
        return int(self.x // CELL), int(self.y // CELL)


def exits(open_cells: set[Cell], cell: Cell) -> list[Cell]:
    """Directions from a cell that are open."""
    return [d for d in DIRECTIONS if (cell[0] + d[0], cell[1] + d[1]) in open_cells]


def choose_way(rng: random.Random, open_cells: set[Cell], cell: Cell, heading: Cell) -> Cell:
    """Straight on, left or right, whichever are open, with equal chances; back where it must."""
    back = (-heading[0], -heading[1])
    on = [way for way in exits(open_cells, cell) if way != back]
    return rng.choice(on) if on else back


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
    shares = {follow: 0.5, play: 0.3, look: 0.15, pause: 0.05}  # of frames
    spent = {kind: rng.uniform(0, 200) * share for kind, share in shares.items()}
    while True:
        kind = min(shares, key=lambda kind: spent[kind] / shares[kind])
        for command in kind(rng, pose, open_cells):
            spent[kind] += 1
            yield command


def follow(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> Iterator[Command]:
    """Follow corridors along their middle, with smooth steering or with full turns as keys give."""
    keys, cell, place = rng.random() < 0.5, pose.cell, None
    way = min(exits(open_cells, cell), key=lambda way: abs(turn_to(pose, pose.x + way[0], pose.y + way[1])))
    for _ in range(rng.randrange(60, 181)):
        if place is None or math.dist((pose.x, pose.y), place) < EARLY * CELL:
            if place is not None:
                way = choose_way(rng, open_cells, cell, way)
            cell = (cell[0] + way[0], cell[1] + way[1])
            place = ((cell[0] + 0.5) * CELL, (cell[1] + 0.5) * CELL)
        error = turn_to(pose, *place)
        turn = (0 if abs(error) < 3 else math.copysign(1, error)) if keys else 0.3 * error / MAX_TURN
        yield 1.0, max(-1.0, min(1.0, turn))


def play(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> Iterator[Command]:
    """Hold keys for random times. Where a wall is in the way, the player sees it for a while and turns away."""
    frames = rng.randrange(40, 121)
    while frames > 0:
        command = rng.choices(list(KEYS), list(KEYS.values()))[0]
        blocked = 0
        for _ in range(3 + int(rng.expovariate(1 / (8 if command[1] else 14)))):
            before = pose.x, pose.y
            yield command
            frames -= 1
            stopped = command[0] and math.dist(before, (pose.x, pose.y)) < 0.3 * STEP
            blocked = blocked + 1 if stopped else 0
            if blocked > rng.randrange(2, STARES):
                yield from escape(rng, pose, open_cells)
                break


def escape(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> list[Command]:
    """Turn on the spot to the nearest direction in which the way is free, and take it."""
    turned = min(range(-180, 181, 4), key=lambda t: (view(pose, open_cells, t) < 1.5 * CELL, abs(t)))
    turn = LEFT if turned < 0 else RIGHT
    return [turn] * round((abs(turned) + 8) / MAX_TURN) + [FORWARD] * rng.randrange(6, 15)


def look(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> list[Command]:
    """Stop; look to a side, wait or not, and turn back by as much; or look all around."""
    rate = rng.choice((-1, 1)) * (1.0 if rng.random() < 0.7 else round(rng.uniform(0.4, 1), 3))
    if rng.random() < 0.15:
        return [(0.0, rate)] * round(360 / (abs(rate) * MAX_TURN))
    turns = round(rng.uniform(30, 180) / (abs(rate) * MAX_TURN))
    return [(0.0, rate)] * turns + [STILL] * rng.randrange(0, 12) + [(0.0, -rate)] * turns


def pause(rng: random.Random, pose: Pose, open_cells: set[Cell]) -> list[Command]:
    """Stand still for a while, or back off, but not into a wall, where the command would not be visible."""
    if rng.random() < 0.5:
        return [STILL] * rng.randrange(4, 16)
    free = min(view(pose, open_cells, turned) for turned in (150, 180, 210)) - CLEAR
    return [BACK] * min(rng.randrange(6, 20), max(0, int(free / STEP)))
