import json
import math
import random
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biflow import actions as meanings

PROGRAM = Path(__file__).parents[2] / "datasets" / "car_racing.py"
sys.path.insert(0, str(PROGRAM.parent))  # programs import their neighbours; `datasets` is Hugging Face's package
import car_racing  # noqa: E402

# A circle of radius 100, driven counterclockwise from (100, 0), in points 3.1 apart.
CIRCLE = np.array([(100 * math.cos(a), 100 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 200, endpoint=False)])
NORTH = math.pi / 2


def test_the_actions_are_what_biflow_reads():
    actions = meanings.from_json(car_racing.MEANING, "car_racing.py")
    assert meanings.script(actions, "gas+left brake still").tolist() == [[-1, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("keys", [False, True])
def test_the_driver_steers_back_to_the_track(keys):
    for x, side in ((115, -1), (85, 1)):  # right of the track, left of it
        steer, _, _ = car_racing.pursue(car_racing.Car(x, 0, NORTH, 30), CIRCLE, 0, 30, keys)
        assert steer == side if keys else steer * side > 0


def test_an_offset_is_to_the_right_of_the_track():
    car = car_racing.Car(100, 0, NORTH, 0)
    right, left = (car_racing.pursue(car, CIRCLE, offset, 30, False)[0] for offset in (5, -5))
    assert right > 0 > left


def test_the_driver_keeps_its_pace():
    for speed, gas, brake in ((0, 1, 0), (80, 0, 1)):
        car = car_racing.Car(100, 0, NORTH + 0.05, speed)
        assert car_racing.pursue(car, CIRCLE, 0, 30, True)[1:] == (gas, brake)


def test_drives_stay_near_the_track_and_use_every_command():
    """Here the commands are obeyed by arithmetic: the car turns at once and never slips."""
    rows, distances = [], []
    for seed in range(5):
        car = car_racing.Car(100, 0, NORTH, 0)
        for steer, gas, brake in islice(car_racing.drive(random.Random(seed), car, CIRCLE), 500):
            rows.append((steer, gas, brake))
            car.angle -= 0.15 * steer
            car.speed = max(0, 0.98 * car.speed + 3 * gas - 5 * brake)
            car.x += 0.06 * car.speed * math.cos(car.angle)
            car.y += 0.06 * car.speed * math.sin(car.angle)
            distances.append(abs(math.hypot(car.x, car.y) - 100))
    rows = meanings.from_json(car_racing.MEANING, "car_racing.py").check(np.array(rows), "the drives")
    assert (np.array(distances) < 2.5 * car_racing.VERGE).mean() > 0.9
    assert min((rows[:, 0] < 0).mean(), (rows[:, 1] > 0).mean()) > 0.1
    assert min((rows[:, 0] > 0).mean(), (rows[:, 2] > 0).mean()) > 0.01  # right is the wrong way, braking is rare


def run(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=True)


def test_the_program_explains_itself():
    out = run("--help").stdout
    for text in ("Render drives around random race tracks", "number of drives, each on a track", "biflow[car]"):
        assert text in " ".join(out.split())


def test_the_program_renders_drives_and_records_their_actions(tmp_path):
    pytest.importorskip("Box2D")
    pytest.importorskip("pygame")
    run(tmp_path, "--clips", "1", "--frames", "4", "--size", "32")
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip_0000").glob("*.png"))]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 4
    assert any((a != b).any() for a, b in pairwise(frames))
    assert min(frame[-1].max(axis=-1).min() for frame in frames) > 50  # the last row is no black dashboard
    content = json.loads((tmp_path / "actions.json").read_text())
    rows = content.pop("actions")["clip_0000"]
    assert content == car_racing.MEANING
    assert np.array(rows).shape == (3, 3)


def test_drawing_only_the_last_step_changes_nothing():
    pytest.importorskip("Box2D")
    pytest.importorskip("pygame")
    seen = []
    for act in (car_racing._act, lambda game, command: [game.step(np.array(command)) for _ in range(car_racing.SKIP)]):
        game = car_racing._game()
        game.reset(seed=3)
        game.t = 1.0
        for command in ([0.3, 1.0, 0.0], [-1.0, 0.5, 0.0], [0.0, 0.0, 0.8]):
            act(game, command)
        seen.append((car_racing._seen(game), np.asarray(car_racing._picture(game.surf, 64))))
    assert seen[0][0] == seen[1][0]
    assert (seen[0][1] == seen[1][1]).all()
