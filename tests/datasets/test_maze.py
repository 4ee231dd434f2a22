import json
import math
import random
import re
import struct
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from biflow import actions as meanings
from biflow.errors import UserError

PROGRAM = Path(__file__).parents[2] / "datasets" / "maze.py"
sys.path.insert(0, str(PROGRAM.parent))  # programs import their neighbours; `datasets` is Hugging Face's package
import maze  # noqa: E402
import rendering  # noqa: E402
import walker  # noqa: E402


def test_a_maze_is_connected_and_has_no_dead_ends():
    for seed in range(5):
        cells = maze.carve(random.Random(seed), 5)
        assert all(len(walker.exits(cells, cell)) >= 2 for cell in cells if cell[0] % 2 and cell[1] % 2)
        reached, edge = {(1, 1)}, [(1, 1)]
        while edge:
            x, y = edge.pop()
            new = {(x + dx, y + dy) for dx, dy in walker.exits(cells, (x, y))} - reached
            reached |= new
            edge += new
        assert reached == cells


def layout(cells, rooms):
    """The cells of a maze, the same for its eight forms: turned by quarters, and in a mirror."""
    forms = []
    for form in (cells, {(y, x) for x, y in cells}):
        for _ in range(4):
            form = {(2 * rooms - y, x) for x, y in form}
            forms.append(tuple(sorted(form)))
    return min(forms)


def test_few_mazes_have_the_layout_of_another():
    layouts = [layout(maze.carve(random.Random(seed), 5), 5) for seed in range(300)]  # of the default set
    assert len(set(layouts)) > 0.95 * len(layouts)
    quarter = {(10 - y, x) for x, y in maze.carve(random.Random(0), 5)}
    assert layout(quarter, 5) == layouts[0]


CROSSING = {(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)}


def test_a_walk_goes_straight_left_or_right():
    rng = random.Random(0)
    taken = [walker.choose_way(rng, CROSSING, (1, 1), walker.EAST) for _ in range(3000)]
    for way in (walker.EAST, walker.NORTH, walker.SOUTH):
        assert 900 < taken.count(way) < 1100
    assert walker.WEST not in taken


def test_a_walk_turns_around_only_at_a_dead_end_if_that_is_the_only_way():
    assert walker.choose_way(random.Random(0), {(1, 1), (0, 1)}, (1, 1), walker.EAST) == walker.WEST
    assert walker.choose_way(random.Random(0), {(1, 1), (1, 2)}, (1, 1), walker.EAST) == walker.NORTH


def test_the_walker_sees_as_far_as_the_next_wall():
    pose = walker.Pose(1.5 * maze.CELL, 1.5 * maze.CELL, 0)
    assert walker.view(pose, CROSSING) == 1.5 * maze.CELL
    assert walker.view(pose, CROSSING - {(1, 0)}, 90) <= 0.5 * maze.CELL + 8  # south is to the right of east


def test_turns_are_measured_to_the_right():
    pose = walker.Pose(0, 0, 90)  # looks north
    assert walker.turn_to(pose, 1, 0) == 90
    assert walker.turn_to(pose, -1, 0) == -90


def test_a_pause_stands_still_or_backs_off_as_far_as_there_is_room():
    corridor = {(x, 1) for x in range(1, 20)}
    longest = {}
    for x in (1.5, 10.5):  # in cells: near the end of the corridor, and in its middle
        pose = walker.Pose(x * maze.CELL, 1.5 * maze.CELL, 0)
        pauses = [walker.pause(random.Random(seed), pose, corridor) for seed in range(100)]
        assert all(len(set(acts)) == 1 for acts in pauses)
        kinds = [acts[0] for acts in pauses]
        assert min(kinds.count(walker.STILL), kinds.count(walker.BACK)) > 30
        longest[x] = max(len(acts) for acts in pauses if acts[0] == walker.BACK)
    assert 1 <= longest[1.5] <= (64 - walker.CLEAR) / maze.STEP + 2 < 10 < longest[10.5]


def test_a_level_is_a_wad_of_one_udmf_map(tmp_path):
    cells = maze.carve(random.Random(2), 3)
    maze.write_level(tmp_path / "maze.wad", cells, (1, 1), maze.EAST, random.Random(0))
    data = (tmp_path / "maze.wad").read_bytes()
    magic, count, directory = struct.unpack_from("<4sii", data)
    entries = [struct.unpack_from("<ii8s", data, directory + 16 * i) for i in range(count)]
    lumps = {name.rstrip(b"\0").decode(): data[offset:][:length] for offset, length, name in entries}
    assert (magic, list(lumps)) == (b"PWAD", ["DECORATE", "MAPINFO", "MAP01", "TEXTMAP", "ENDMAP"])
    assert (lumps["DECORATE"], lumps["MAP01"]) == (maze.WALKER, b"")
    text = lumps["TEXTMAP"].decode()
    walls = sum(4 - len(walker.exits(cells, cell)) for cell in cells)
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
    for text in ("Render first-person walks", "number of walks, each in a maze of its own (default: 300)", "ViZDoom"):
        assert text in " ".join(out.split())


class Game:
    """A stand-in for ViZDoom: a walker with momentum that passes through walls; the screen shows where it is."""

    def __init__(self, level):
        (x, y, angle) = re.search(rb"x=([\d.]+); y=([\d.]+); angle=(\d+)", level.read_bytes()).groups()
        self.x, self.y, self.angle, self.vx, self.vy = float(x), float(y), float(angle), 0.0, 0.0

    def get_state(self):
        screen = np.zeros((240, 320, 3), np.uint8)
        screen[:] = int(self.x) % 100, int(self.y) % 100, 100
        return SimpleNamespace(game_variables=(self.x, self.y, self.angle, self.vx, self.vy), screen_buffer=screen)

    def make_action(self, action, frames):
        ahead, right, turn = action
        self.angle -= turn
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        self.vx += (ahead * cos + right * sin) / maze.THRUST
        self.vy += (ahead * sin - right * cos) / maze.THRUST
        self.x, self.y = self.x + self.vx, self.y + self.vy
        self.vx, self.vy = 0.9 * self.vx, 0.9 * self.vy

    def close(self):
        pass


def follow(game, script):
    """The steps and turns to the right that a script such as "forward*3" leads to."""
    pose = walker.Pose(*game.get_state().game_variables[:3])
    steps, turns = [], []
    for move, turn in meanings.script(meanings.from_json(maze.MEANING, "maze.py"), script).tolist():
        x, y, angle = pose.x, pose.y, pose.angle
        maze._act(game, pose, move, turn)
        steps.append(math.dist((x, y), (pose.x, pose.y)))
        turns.append((angle - pose.angle + 180) % 360 - 180)
    return steps, turns


def level(tmp_path, cells=frozenset((x, 1) for x in range(1, 20))):
    maze.write_level(tmp_path / "maze.wad", cells, (2, 1), maze.EAST, random.Random(0))
    return tmp_path / "maze.wad"


def test_a_command_acts_on_the_next_frame_alone(tmp_path):
    steps, turns = follow(Game(level(tmp_path)), "forward*2 still left*2 turn=1 back move=0.5")
    assert steps == pytest.approx([maze.STEP, maze.STEP, 0, 0, 0, 0, maze.STEP, maze.STEP / 2])
    assert turns == pytest.approx([0, 0, 0, -4, -4, 4, 0, 0])


def test_a_walk_is_frames_and_commands_within_their_ranges(monkeypatch):
    monkeypatch.setattr(maze, "_game", Game)
    images, actions = maze.walk(3, 200, 16)
    assert [image.size for image in images] == [(16, 16)] * 200
    assert np.asarray(images[0])[0, 0, 2] == 180  # brightened from 100
    assert len(actions) == 199
    meanings.from_json(maze.MEANING, "maze.py").check(np.array(actions), "a walk")
    assert actions == maze.walk(3, 200, 16)[1]
    assert actions != maze.walk(4, 200, 16)[1]


def clearance(pose, cells):
    """Map units from a place to the nearest closed cell, up to a cell."""
    x, y = pose.x / maze.CELL, pose.y / maze.CELL
    closed = [(int(x) + i, int(y) + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    gaps = [(max(i - x, 0, x - i - 1), max(j - y, 0, y - j - 1)) for i, j in closed if (i, j) not in cells]
    return maze.CELL * min((math.hypot(*gap) for gap in gaps), default=1)


def walked(commands, pose, cells):
    """Each of the commands with the clearance after it, carried out where walls stop a walker."""
    for move, turn in commands:
        pose.angle -= turn * walker.MAX_TURN
        angle = math.radians(pose.angle)
        x, y = pose.x + move * walker.STEP * math.cos(angle), pose.y + move * walker.STEP * math.sin(angle)
        if clearance(walker.Pose(x, y, 0), cells) > 16:  # the radius of Doom's players
            pose.x, pose.y = x, y
        yield (move, turn), clearance(pose, cells)


def walks(kind):
    """20 walks of 500 frames: their commands and how near walls are."""
    for seed in range(20):
        rng = random.Random(seed)
        cells = maze.carve(rng, 5)
        pose = walker.Pose(1.5 * maze.CELL, 1.5 * maze.CELL, 0)
        yield from islice(walked(kind(rng, pose, cells), pose, cells), 500)


def test_who_follows_corridors_keeps_clear_of_walls():
    def follow(rng, pose, cells):
        while True:
            yield from walker.follow(rng, pose, cells)

    assert min(gap for _, gap in walks(follow)) > 24


def test_walks_hold_every_key_look_around_and_touch_walls():
    rows, gaps = zip(*walks(walker.commands), strict=True)
    assert set(walker.KEYS) <= set(rows)
    moves, turns = np.array(rows).T
    assert (moves > 0).mean() > 0.5
    assert (moves < 0).mean() > 0.02
    assert ((moves == 0) & (turns == 0)).mean() > 0.02
    assert ((moves == 0) & (turns != 0)).mean() > 0.1
    assert min((turns < 0).mean(), (turns > 0).mean()) > 0.15
    assert 0.02 < (np.array(gaps) < 20).mean() < 0.4


def test_a_player_turns_away_from_the_wall_that_stops_it():
    corridor = {(x, 1) for x in range(1, 20)}
    for angle in (0, 90, 180, 270):
        pose = walker.Pose(10.5 * maze.CELL, 1.5 * maze.CELL, angle)
        list(walked(walker.escape(random.Random(0), pose, corridor), pose, corridor))
        assert walker.view(pose, corridor) > maze.CELL
        assert clearance(pose, corridor) > 24


def test_who_looks_aside_turns_back_and_who_looks_around_turns_all_the_way():
    for seed in range(100):
        moves, turns = np.array(walker.look(random.Random(seed), walker.Pose(0, 0, 0), set())).T
        assert not moves.any()
        turned = abs(turns.sum()) * walker.MAX_TURN
        assert turned == pytest.approx(0, abs=1e-6) or abs(turned - 360) < 2


def test_frames_are_written_whole_and_runs_resume(monkeypatch, tmp_path):
    monkeypatch.setattr(maze, "_game", Game)
    actions = rendering.write_clip(maze.walk, tmp_path / "clip_0000", 0, frames=5, size=16)
    assert len(actions) == 4
    assert sorted(p.name for p in (tmp_path / "clip_0000").iterdir()) == [f"{i:06d}.png" for i in range(5)]
    assert [p.name for p in tmp_path.iterdir()] == ["clip_0000"]
    content = {**maze.MEANING, "actions": {"clip_0000": actions}}
    (tmp_path / "actions.json").write_text(json.dumps(content))
    rendering.render(maze.walk, maze.MEANING, tmp_path, clips=1, seed=0, frames=5, size=16)  # nothing is missing
    assert json.loads((tmp_path / "actions.json").read_text()) == content


def test_a_folder_of_other_actions_is_refused(tmp_path):
    (tmp_path / "actions.json").write_text('{"clip_0000": [[5.3, 0]]}')
    with pytest.raises(UserError, match="other actions"):
        rendering.render(maze.walk, maze.MEANING, tmp_path, clips=1, seed=0, frames=5, size=16)


def test_doom_obeys_at_once(tmp_path):
    pytest.importorskip("vizdoom")
    game = maze._game(level(tmp_path))
    game.make_action([0, 0, 0], 20)  # Doom holds a new player still
    steps, turns = follow(game, "forward*2 still*3 right*10 turn=1")
    assert steps[:2] == pytest.approx([maze.STEP] * 2, abs=0.15)
    assert steps[2:5] == pytest.approx([0] * 3, abs=0.15)
    assert steps[5:] == pytest.approx([0] * 11, abs=0.15)
    assert turns == pytest.approx([0] * 5 + [4] * 11, abs=0.02)
    game.close()


def test_the_program_renders_walks_and_records_their_actions(tmp_path):
    pytest.importorskip("vizdoom")
    run(tmp_path, "--clips", "1", "--frames", "6", "--size", "32")
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip_0000").glob("*.png"))]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 6
    assert any((a != b).any() for a, b in pairwise(frames))
    content = json.loads((tmp_path / "actions.json").read_text())
    assert len(content["actions"]["clip_0000"]) == 5
    assert list(meanings.from_json(content, "actions.json").keys) == ["forward", "back", "left", "right"]
