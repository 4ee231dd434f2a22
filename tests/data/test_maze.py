import json
import random
import re
import struct
from itertools import islice, pairwise

import numpy as np
import pytest
from PIL import Image

from biflow.data import maze


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


def test_rendered_walks_move_and_are_kept_with_their_actions(tmp_path):
    pytest.importorskip("vizdoom")
    maze.render(tmp_path, clips=1, frames=6, size=32)
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip_0000").glob("*.png"))]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 6
    assert all((a != b).any() for a, b in pairwise(frames))
    actions = json.loads((tmp_path / "actions.json").read_text())["clip_0000"]
    assert len(actions) == 5
    assert all(4 < forward < maze.STEP + 0.5 and abs(turn) <= maze.MAX_TURN for forward, turn in actions)
