import importlib.util
import json
import math
import random
import re
import struct
import subprocess
import sys
from itertools import groupby, islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

PROGRAM = Path(__file__).parents[2] / "datasets" / "maze.py"
spec = importlib.util.spec_from_file_location(
    "maze_program", PROGRAM
)  # `datasets` may also name Hugging Face's package
assert spec is not None
assert spec.loader is not None
maze = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maze)


def test_a_maze_is_connected_and_has_no_dead_ends():
    for seed in range(5):
        cells = maze.carve(random.Random(seed), 5)
        assert all(len(maze._ways(cells, cell)) >= 2 for cell in cells if cell[0] % 2 and cell[1] % 2)
        reached, edge = {(1, 1)}, [(1, 1)]
        while edge:
            x, y = edge.pop()
            new = {(x + dx, y + dy) for dx, dy in maze._ways(cells, (x, y))} - reached
            reached |= new
            edge += new
        assert reached == cells


def test_a_walk_goes_straight_on_or_right_through_open_cells():
    cells, walk, heading = maze.plan(random.Random(1), 5, 30)
    assert len(walk) == 30
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(walk)]
    for cell, before, after in zip(walk[1:], [*steps], steps[1:], strict=False):
        right = (before[1], -before[0])
        straight_is_open = (cell[0] + before[0], cell[1] + before[1]) in cells
        assert after == (before if straight_is_open else right)
    assert set(walk) <= cells
    assert walk == list(islice(maze.route(cells, walk[0], heading), 30))


def test_a_level_is_a_wad_of_one_udmf_map(tmp_path):
    cells, walk, heading = maze.plan(random.Random(2), 3, 5)
    maze.write_level(tmp_path / "maze.wad", cells, walk[0], heading, random.Random(0))
    data = (tmp_path / "maze.wad").read_bytes()
    magic, lumps, directory = struct.unpack_from("<4sii", data)
    entries = [struct.unpack_from("<ii8s", data, directory + 16 * i) for i in range(lumps)]
    assert (magic, [name.rstrip(b"\0") for _, _, name in entries]) == (b"PWAD", [b"MAP01", b"TEXTMAP", b"ENDMAP"])
    text = data[entries[1][0] :][: entries[1][1]].decode()
    walls = sum(4 - len(maze._ways(cells, cell)) for cell in cells)
    assert text.count("linedef") == text.count("sidedef {") == walls


def test_walls_that_face_east_or_west_are_darker(tmp_path):
    # One open cell in the middle: four walls, one a side.
    maze.write_level(tmp_path / "maze.wad", {(1, 1)}, (1, 1), maze.EAST, random.Random(0))
    text = (tmp_path / "maze.wad").read_bytes().decode(errors="ignore")
    light = [int(value) for value in re.findall(r"light=(-?\d+);", text)]
    ends = [[int(value) for value in pair] for pair in re.findall(r"linedef \{ v1=(\d+); v2=(\d+)", text)]
    x = [float(value) for value in re.findall(r"vertex \{ x=([\d.]+)", text)]
    assert len(light) == len(ends) == 4
    for (a, b), shade in zip(ends, light, strict=True):
        assert shade == (maze.SHADE if x[a] == x[b] else 0)  # a wall that runs north-south faces east or west


def run(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=True)


def test_the_program_explains_itself():
    out = run("--help").stdout
    for text in ("Render first-person walks", "number of walks, each in a maze of its own (default: 240)", "ViZDoom"):
        assert text in " ".join(out.split())


class Game:
    """A stand-in for ViZDoom: the walker moves 5 map units per frame, and the screen shows where it is."""

    def __init__(self, level):
        (x, y, angle) = re.search(rb"x=([\d.]+); y=([\d.]+); angle=(\d+)", level.read_bytes()).groups()
        self.x, self.y, self.angle = float(x), float(y), float(angle)

    def get_state(self):
        screen = np.zeros((480, 640, 3), np.uint8)
        screen[:] = int(self.x) % 100, int(self.y) % 100, 100
        return SimpleNamespace(game_variables=(self.x, self.y, self.angle), screen_buffer=screen)

    def make_action(self, action, frames):
        self.angle -= action[1]
        self.x += 5 * math.cos(math.radians(self.angle))
        self.y += 5 * math.sin(math.radians(self.angle))

    def close(self):
        pass


def test_a_walk_keeps_to_the_corridors(monkeypatch):
    places = []

    class Tracked(Game):
        def make_action(self, action, frames):
            super().make_action(action, frames)
            places.append((int(self.x // maze.CELL), int(self.y // maze.CELL)))

    monkeypatch.setattr(maze, "_game", Tracked)
    images, actions = maze.walk(3, frames=200, size=16)
    rng = random.Random(3)
    skip = rng.randrange(10, 40)
    open_cells, cells, _ = maze.plan(rng, 5, math.ceil((skip + 200) * maze.STEP / maze.CELL + 3))
    assert set(places) <= open_cells
    visited = [cell for cell, _ in groupby(places)]
    assert visited == cells[: len(visited)]
    assert len(set(visited)) > 5
    assert [image.size for image in images] == [(16, 16)] * 200
    assert np.asarray(images[0])[0, 0, 2] == 180  # brightened from 100
    assert len(actions) == 199
    assert {forward for forward, _ in actions} == {5.0}
    assert max(abs(turn) for _, turn in actions) <= maze.MAX_TURN


def test_frames_are_written_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(maze, "_game", Game)
    actions = maze._write_walk(tmp_path / "clip_0000", 0, 5, 16)
    assert len(actions) == 4
    assert sorted(p.name for p in (tmp_path / "clip_0000").iterdir()) == [f"{i:06d}.png" for i in range(5)]
    assert [p.name for p in tmp_path.iterdir()] == ["clip_0000"]


def test_the_program_renders_walks_that_move_and_records_their_actions(tmp_path):
    pytest.importorskip("vizdoom")
    run(tmp_path, "--clips", "1", "--frames", "6", "--size", "32")
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip_0000").glob("*.png"))]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 6
    assert all((a != b).any() for a, b in pairwise(frames))
    actions = json.loads((tmp_path / "actions.json").read_text())["clip_0000"]
    assert len(actions) == 5
    assert all(4 < forward < maze.STEP + 0.5 and abs(turn) <= maze.MAX_TURN for forward, turn in actions)
