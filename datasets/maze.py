"""Render first-person walks through mazes: the dataset of the model that ships with biflow.

    python datasets/maze.py datasets/maze-frames --clips 240 --frames 150 --size 64 --seed 0

Each walk becomes a folder of PNG frames, and `actions.json` records its steps and turns. The same command resumes a run
that was interrupted. It needs ViZDoom: pip install "biflow[maze]"

Each map is a random maze without dead ends, written as a UDMF level and rendered by ViZDoom with Freedoom's textures.
The walker keeps to the middle of the corridors and looks where it is going. At a junction it goes straight on if it
can, else right, and it starts where that rule never leads into a left turn. The next frame therefore follows from the
current one, which is all that a model with a context of one frame can use.
"""

import argparse
import math
import random
import struct
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from biflow.errors import UserError
from biflow.files import read_json, replacing, write_json

CELL = 128  # side of a grid cell and height of a wall, in map units
THRUST, STEP = 17, 5.3  # with Doom's friction, a thrust of 17 gives steps of at most 5.3 map units per frame
MAX_TURN = 4.0  # degrees per frame
# Smooth, enlarged surfaces of different colours: the edges between them carry the motion, and fine patterns would only
# hide it at 64x64. All walls of a maze have one texture, so that a frame determines the texture of the next one.
WALLS = ("BRICK1", "TANROCK2", "MARBLE1")
FLOOR, CEILING = "FLAT19", "FLAT14"
ENLARGED = 4
SHADE = -64  # of 256, for walls that face east or west, so that corners are visible in every frame
GAIN = 1.8  # Doom is dark: its surfaces cover a third of the range of pixels, against which noise levels are measured
DIRECTIONS = EAST, NORTH, WEST, SOUTH = (1, 0), (0, 1), (-1, 0), (0, -1)
Cell = tuple[int, int]


def carve(rng: random.Random, rooms: int) -> set[Cell]:
    """Open cells of a random maze with `rooms` x `rooms` junctions, at odd coordinates, and no dead ends."""
    stack, open_cells = [(1, 1)], {(1, 1)}
    while stack:  # depth-first search
        x, y = stack[-1]
        ways = [(dx, dy) for dx, dy in DIRECTIONS if _inside(x + 2 * dx, y + 2 * dy, rooms)]
        ways = [(dx, dy) for dx, dy in ways if (x + 2 * dx, y + 2 * dy) not in open_cells]
        if not ways:
            stack.pop()
            continue
        dx, dy = rng.choice(ways)
        open_cells |= {(x + dx, y + dy), (x + 2 * dx, y + 2 * dy)}
        stack.append((x + 2 * dx, y + 2 * dy))
    for x in range(1, 2 * rooms, 2):  # open a second way out of every dead end
        for y in range(1, 2 * rooms, 2):
            closed = [d for d in DIRECTIONS if (x + d[0], y + d[1]) not in open_cells]
            closed = [d for d in closed if _inside(x + 2 * d[0], y + 2 * d[1], rooms)]
            if len(_ways(open_cells, (x, y))) == 1 and closed:
                dx, dy = rng.choice(closed)
                open_cells.add((x + dx, y + dy))
    return open_cells


def _inside(x: int, y: int, rooms: int) -> bool:
    return 0 < x < 2 * rooms and 0 < y < 2 * rooms


def _ways(open_cells: set[Cell], cell: Cell) -> list[Cell]:
    return [d for d in DIRECTIONS if (cell[0] + d[0], cell[1] + d[1]) in open_cells]


def route(open_cells: set[Cell], start: Cell, heading: Cell) -> Iterator[Cell]:
    """Cells of a walk from `start`: straight on if that is open, else right. It ends where neither is open."""
    cell, (dx, dy) = start, heading
    while True:
        yield cell
        ways = _ways(open_cells, cell)
        if (dx, dy) not in ways:
            dx, dy = dy, -dx
            if (dx, dy) not in ways:
                return
        cell = (cell[0] + dx, cell[1] + dy)


def plan(rng: random.Random, rooms: int, cells: int) -> tuple[set[Cell], list[Cell], Cell]:
    """A random maze, and a walk of `cells` cells through it by the rule of `route`, with its first heading."""
    while True:
        open_cells = carve(rng, rooms)
        starts = [(cell, way) for cell in sorted(open_cells) for way in _ways(open_cells, cell)]
        rng.shuffle(starts)
        for start, heading in starts:
            walk = list(islice(route(open_cells, start, heading), cells))
            if len(walk) == cells:
                return open_cells, walk, heading


def write_level(path: Path, open_cells: set[Cell], start: Cell, heading: Cell, rng: random.Random) -> None:
    """Write a WAD with one map (UDMF): one sector, and a one-sided wall wherever an open cell meets a closed one."""
    text = level_text(open_cells, start, heading, rng.choice(WALLS)).encode()
    header = 12
    directory = [("MAP01", header, 0), ("TEXTMAP", header, len(text)), ("ENDMAP", header + len(text), 0)]
    entries = b"".join(struct.pack("<ii8s", offset, size, name.encode()) for name, offset, size in directory)
    path.write_bytes(struct.pack("<4sii", b"PWAD", len(directory), header + len(text)) + text + entries)


def level_text(open_cells: set[Cell], start: Cell, heading: Cell, texture: str) -> str:
    """The map in the Universal Doom Map Format."""
    vertices: dict[Cell, int] = {}
    lines, sides = [], []
    for x, y in sorted(open_cells):
        for dx, dy in DIRECTIONS:
            if (x + dx, y + dy) in open_cells:
                continue
            # The front of a line is on its right, so walls run clockwise around the open cell.
            ends = {EAST: ((1, 1), (1, 0)), NORTH: ((0, 1), (1, 1)), WEST: ((0, 0), (0, 1)), SOUTH: ((1, 0), (0, 0))}
            v1, v2 = (vertices.setdefault((x + ex, y + ey), len(vertices)) for ex, ey in ends[(dx, dy)])
            lines.append(f"linedef {{ v1={v1}; v2={v2}; sidefront={len(sides)}; blocking=true; }}")
            sides.append(
                f'sidedef {{ sector=0; texturemiddle="{texture}"; light={SHADE if dx else 0}; '
                f"scalex_mid={1 / ENLARGED}; scaley_mid={1 / ENLARGED}; }}"
            )
    angle = round(math.degrees(math.atan2(heading[1], heading[0]))) % 360
    return "\n".join(
        [
            'namespace="zdoom";',
            f"thing {{ x={(start[0] + 0.5) * CELL}; y={(start[1] + 0.5) * CELL}; angle={angle}; type=1; "
            "skill1=true; skill2=true; skill3=true; skill4=true; skill5=true; single=true; }",
            *(f"vertex {{ x={vx * CELL}; y={vy * CELL}; }}" for vx, vy in vertices),
            *lines,
            *sides,
            f'sector {{ heightfloor=0; heightceiling={CELL}; texturefloor="{FLOOR}"; textureceiling="{CEILING}"; '
            f"xscalefloor={1 / ENLARGED}; yscalefloor={1 / ENLARGED}; "
            f"xscaleceiling={1 / ENLARGED}; yscaleceiling={1 / ENLARGED}; lightlevel=208; }}",
        ]
    )


def _game(level: Path) -> Any:
    try:
        import vizdoom  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise UserError('Rendering mazes needs ViZDoom: pip install "biflow[maze]"') from error
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(Path(str(vizdoom.__file__)).with_name("freedoom2.wad")))
    game.set_doom_scenario_path(str(level))
    game.set_doom_config_path(str(level.with_name("vizdoom.ini")))  # by default in the working directory
    game.set_doom_map("map01")
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_640X480)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for render in ("hud", "crosshair", "weapon", "decals", "particles", "effects_sprites", "messages", "corpses"):
        getattr(game, f"set_render_{render}")(False)
    game.set_window_visible(False)
    buttons, variables = vizdoom.Button, vizdoom.GameVariable
    game.set_available_buttons([buttons.MOVE_FORWARD_BACKWARD_DELTA, buttons.TURN_LEFT_RIGHT_DELTA])
    game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y, variables.ANGLE])
    game.set_episode_timeout(0)
    game.add_game_args("+movebob 0 +fov 105")  # without head bob, whose phase a single frame does not show
    game.init()
    game.send_game_command("fov 105")
    return game


def walk(seed: int, *, frames: int, size: int, rooms: int = 5) -> tuple[list[Image.Image], list[tuple[float, float]]]:
    """One walk: `frames` RGB images of size², and (forward map units, turn in degrees, left > 0) between them."""
    rng = random.Random(seed)
    skip = rng.randrange(10, 40)  # frames to gain speed, and to start anywhere along a corridor
    longest = (skip + frames) * STEP / CELL + 3  # cells; the last ones are only looked at
    open_cells, cells, heading = plan(rng, rooms, math.ceil(longest))
    images, actions = [], []
    with tempfile.TemporaryDirectory() as folder:
        level = Path(folder) / "maze.wad"
        write_level(level, open_cells, cells[0], heading, rng)
        game = _game(level)
        targets = iter(cells)
        target = next(targets)
        for step in range(skip + frames):
            state = game.get_state()
            x, y, angle = state.game_variables
            if step >= skip:
                images.append(_picture(state.screen_buffer, size))
            while math.dist((x, y), ((target[0] + 0.5) * CELL, (target[1] + 0.5) * CELL)) < 0.75 * CELL:
                target = next(targets)
            bearing = math.degrees(math.atan2((target[1] + 0.5) * CELL - y, (target[0] + 0.5) * CELL - x))
            turn = (bearing - angle + 180) % 360 - 180
            turn = max(-MAX_TURN, min(MAX_TURN, 0.3 * turn))
            game.make_action([THRUST, -turn], 1)
            nx, ny, _ = game.get_state().game_variables
            if step >= skip:
                actions.append((round(math.dist((x, y), (nx, ny)), 3), round(turn, 3)))
        game.close()
    return images, actions[: frames - 1]


def _picture(screen: np.ndarray, size: int) -> Image.Image:
    """The central square of a screen, averaged down to `size` (otherwise Doom's textures flicker) and brightened."""
    picture = Image.fromarray(screen).crop((80, 0, 560, 480)).resize((size, size), Image.Resampling.BOX)
    return picture.point([min(255, round(GAIN * value)) for value in range(256)] * 3)


def render(dst: Path, *, clips: int, frames: int, size: int, seed: int) -> None:
    """Write `clips` walks as folders of PNG frames in `dst`, and `actions.json` beside them. Resumes."""
    actions_path = dst / "actions.json"
    actions = read_json(actions_path) if actions_path.exists() else {}
    names = {f"clip_{clip:04d}": seed * 100_000 + clip for clip in range(clips)}
    missing = {name: walk_seed for name, walk_seed in names.items() if name not in actions}
    # Spawned, not forked: a game engine does not survive a fork of its parent's threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(_write_walk, dst / name, s, frames, size): name for name, s in missing.items()}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="rendering mazes", unit="clip"):
            actions[jobs[job]] = job.result()
            write_json(actions_path, dict(sorted(actions.items())), indent=None)


def _write_walk(folder: Path, seed: int, frames: int, size: int) -> list[tuple[float, float]]:
    images, actions = walk(seed, frames=frames, size=size)
    with replacing(folder) as partial:
        partial.mkdir()
        for index, image in enumerate(images):
            image.save(partial / f"{index:06d}.png")
    return actions


def main() -> None:
    description, _, details = str(__doc__).partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=details, formatter_class=form)
    parser.add_argument("dst", type=Path, help="the folder to write")
    for name, default, text in (
        ("clips", 240, "number of walks, each in a maze of its own"),
        ("frames", 150, "frames per walk"),
        ("size", 64, "side of the square frames"),
        ("seed", 0, "seed of the mazes and starts"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    try:
        render(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
