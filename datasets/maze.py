"""Render first-person walks through mazes: the dataset of a world to walk in with the arrow keys.

    python datasets/maze.py datasets/maze-frames --clips 300 --frames 300 --size 64 --seed 0

Each walk becomes a folder of PNG frames. `actions.json` describes the actions and records them: row i of a walk is the
command given after frame i and before frame i+1, so that a walk has one row fewer than frames. Its columns are
move (1 is a full step forward, -1 back) and turn (1 is 4 degrees to the right, -1 to the left). The same command
resumes a run that was interrupted, and a larger --clips adds walks. It needs ViZDoom: pip install "biflow[maze]"

Each map is a random maze without dead ends, written as a UDMF level and rendered by ViZDoom with Freedoom's textures.
A command acts on the very next frame, without Doom's momentum, which a single frame does not show.
"""

import math
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rendering import Clip, main
from walker import CELL, DIRECTIONS, EAST, MAX_TURN, NORTH, SOUTH, STEP, WEST, Cell, Pose, commands, exits

from biflow.errors import UserError

MEANING = {
    "columns": ["move", "turn"],
    "ranges": [[-1, 1], [-1, 1]],
    "keys": {"forward": {"move": 1}, "back": {"move": -1}, "left": {"turn": -1}, "right": {"turn": 1}},
    "fps": 17.5,
}
# A player whose thrust reaches STEP within one tic; Doom's own would need 30.
WALKER = b"actor Walker : DoomPlayer { Player.ForwardMove 4, 4 Player.SideMove 4, 4 }"
MAPINFO = b'gameinfo { playerclasses = "Walker" }'
THRUST = 8  # what to press for a change of speed of 1 map unit per frame
# Smooth, enlarged surfaces of different colours: the edges between them carry the motion, and fine patterns would only
# hide it at 64x64. All walls of a maze have one texture, so that a frame determines the texture of the next one.
WALLS = ("BRICK1", "TANROCK2", "MARBLE1")
FLOOR, CEILING = "FLAT19", "FLAT14"
ENLARGED = 4
SHADE = -64  # of 256, for walls that face east or west, so that corners are visible in every frame
GAIN = 1.8  # Doom is dark: its surfaces cover a third of the range of pixels, against which noise levels are measured


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
            if len(exits(open_cells, (x, y))) == 1 and closed:
                dx, dy = rng.choice(closed)
                open_cells.add((x + dx, y + dy))
    return open_cells


def _inside(x: int, y: int, rooms: int) -> bool:
    return 0 < x < 2 * rooms and 0 < y < 2 * rooms


def write_level(path: Path, open_cells: set[Cell], start: Cell, heading: Cell, rng: random.Random) -> None:
    """Write a WAD with one map (UDMF): one sector, and a one-sided wall wherever an open cell meets a closed one."""
    text = level_text(open_cells, start, heading, rng.choice(WALLS)).encode()
    lumps = {"DECORATE": WALKER, "MAPINFO": MAPINFO, "MAP01": b"", "TEXTMAP": text, "ENDMAP": b""}
    data, directory, header = b"", b"", 12
    for name, lump in lumps.items():
        directory += struct.pack("<ii8s", header + len(data), len(lump), name.encode())
        data += lump
    path.write_bytes(struct.pack("<4sii", b"PWAD", len(lumps), header + len(data)) + data + directory)


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
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for render in ("hud", "crosshair", "weapon", "decals", "particles", "effects_sprites", "messages", "corpses"):
        getattr(game, f"set_render_{render}")(False)
    game.set_window_visible(False)
    buttons, variables = vizdoom.Button, vizdoom.GameVariable
    game.set_available_buttons(
        [buttons.MOVE_FORWARD_BACKWARD_DELTA, buttons.MOVE_LEFT_RIGHT_DELTA, buttons.TURN_LEFT_RIGHT_DELTA]
    )
    game.set_available_game_variables(
        [variables.POSITION_X, variables.POSITION_Y, variables.ANGLE, variables.VELOCITY_X, variables.VELOCITY_Y]
    )
    game.set_episode_timeout(0)
    game.add_game_args("+movebob 0 +fov 105")  # without head bob, whose phase a single frame does not show
    game.init()
    game.send_game_command("fov 105")
    return game


def walk(seed: int, frames: int, size: int, rooms: int = 5) -> Clip:
    """One walk: `frames` RGB images of size², and the commands between them.

    Walks in different mazes can share frames. Each starts in the middle of a cell and along an axis, so two walks with
    the same commands see the same, as long as the walls in view are alike. Of the first 600 walks, a tenth of them for
    testing, 156 of the 18,000 test frames equal a training frame, and none of these pairs is of one layout. A start off
    the middle would separate them, but would also change every walk of the set that the shipped model was trained on.
    """
    rng = random.Random(seed)
    open_cells = carve(rng, rooms)
    start = rng.choice(sorted(open_cells))
    heading = rng.choice(exits(open_cells, start))
    skip = rng.randrange(20, 60)  # frames; in the first ones Doom holds a player still
    images, actions = [], []
    with tempfile.TemporaryDirectory() as folder:
        level = Path(folder) / "maze.wad"
        write_level(level, open_cells, start, heading, rng)
        game = _game(level)
        pose = Pose(*game.get_state().game_variables[:3])
        orders = commands(rng, pose, open_cells)
        for step in range(skip + frames):
            if step >= skip:
                images.append(_picture(game.get_state().screen_buffer, size))
            move, turn = (round(value, 3) for value in next(orders))
            _act(game, pose, move, turn)
            if step >= skip:
                actions.append([move, turn])
        game.close()
    return images, actions[: frames - 1]


def _act(game: Any, pose: Pose, move: float, turn: float) -> None:
    """Turn and make one step, with the thrust that leaves nothing of the velocity before it. Updates `pose`."""
    *_, vx, vy = game.get_state().game_variables
    angle = math.radians(pose.angle - turn * MAX_TURN)  # the engine turns first, then moves
    ahead, right = vx * math.cos(angle) + vy * math.sin(angle), vx * math.sin(angle) - vy * math.cos(angle)
    game.make_action([THRUST * (move * STEP - ahead), -THRUST * right, turn * MAX_TURN], 1)
    x, y, angle, *_ = game.get_state().game_variables
    pose.x, pose.y, pose.angle = x, y, angle


def _picture(screen: np.ndarray, size: int) -> Image.Image:
    """The central square of a screen, averaged down to `size` (otherwise Doom's textures flicker) and brightened."""
    height, width, _ = screen.shape
    left = (width - height) // 2
    picture = Image.fromarray(screen).crop((left, 0, left + height, height))
    picture = picture.resize((size, size), Image.Resampling.BOX)
    return picture.point([min(255, round(GAIN * value)) for value in range(256)] * 3)


OPTIONS = (
    ("clips", 300, "number of walks, each in a maze of its own"),
    ("frames", 300, "frames per walk"),
    ("size", 64, "side of the square frames"),
    ("seed", 0, "seed of the mazes and walks"),
)

if __name__ == "__main__":
    main(walk, MEANING, str(__doc__), OPTIONS)
