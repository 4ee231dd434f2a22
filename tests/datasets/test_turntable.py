"""The turntable and the moving light: geometry with known answers, and the programs."""

import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "datasets"
sys.path.insert(0, str(FOLDER))  # programs import their neighbours; `datasets` is Hugging Face's package
import moving_light  # noqa: E402
import solids  # noqa: E402
import turntable  # noqa: E402

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def pixels(objects, view=0.0, light=0.0, size=32) -> np.ndarray:
    return np.asarray(solids.picture(objects, view, light, size)).astype(int)


@pytest.mark.parametrize(
    ("kind", "point", "distance"),
    [
        ("sphere", (3, 0, 0), 2.0),
        ("sphere", (0, 0, 0.5), -0.5),
        ("cylinder", (0, 0, 4), 1.0),
        ("cylinder", (4, 0, 7), 5.0),  # 3 beside the edge of its top, 4 above
        ("box", (1 + 3, 2 + 4, 3), 5.0),
        ("box", (0.5, 0, 0), -0.5),
    ],
)
def test_distances_from_solids_by_hand(kind, point, distance):
    size = {"sphere": (1.0, 1.0, 1.0), "cylinder": (1.0, 1.0, 3.0), "box": (1.0, 2.0, 3.0)}[kind]
    solid = solids.Solid(kind, (0.5, -1.0, 2.0), size, 0.0, RED)
    points = np.array([point], np.float32) + np.array(solid.centre, np.float32)
    assert solid.distance(points) == pytest.approx(distance, abs=1e-5)


def test_a_box_is_turned_counterclockwise():
    solid = solids.Solid("box", (0, 0, 0), (2.0, 0.1, 0.1), math.pi / 4, RED)
    inside, outside = solid.distance(np.array([[1, 1, 0], [1, -1, 0]], np.float32))
    assert inside < 0 < outside


def test_a_camera_that_goes_around_sees_what_turns_the_other_way():
    angle, light = 0.7, 1.1
    objects = solids.random_object(random.Random(3))
    other = [
        replace(
            solid,
            centre=tuple(map(float, solids.turned(np.array([solid.centre], np.float32), -angle)[0])),
            angle=solid.angle - angle,
        )
        for solid in objects
    ]
    around, turned = pixels(objects, angle, light + angle), pixels(other, 0, light)
    table = pixels([], angle, light + angle) != pixels([], 0, light)  # its sector has not been turned with them
    assert (np.abs(around - turned)[~table] > 8).mean() < 0.01


def test_the_near_one_of_two_solids_hides_the_other():
    red = solids.Solid("sphere", (0.4, 0, 0.3), (0.3, 0.3, 0.3), 0, RED)
    blue = solids.Solid("sphere", (-0.4, 0, 0.3), (0.3, 0.3, 0.3), 0, BLUE)
    front, back = pixels([red, blue], 0.0), pixels([red, blue], math.pi)
    counts = [[(p[..., a] - p[..., b] > 60).sum() for a, b in ((0, 2), (2, 0))] for p in (front, back)]
    assert counts[0][0] > counts[0][1]
    assert counts[1][1] > counts[1][0]


def test_the_shadow_falls_away_from_the_light():
    post = solids.Solid("cylinder", (0, 0, 0.3), (0.15, 0.15, 0.3), 0, RED)
    left, right = (pixels([post], 0.0, math.pi / 2 + side) for side in (math.pi, 0))  # the picture's left is y < 0
    table = pixels([], 0.0, math.pi / 2)
    dark = [(table.sum(2) - p.sum(2) > 60) & (np.abs(p[..., 0] - p[..., 1]) < 40) for p in (left, right)]
    columns = [float(np.nonzero(shade)[1].mean()) for shade in dark]
    assert columns[0] > 16 > columns[1]


@pytest.mark.parametrize("clip", [turntable.turn, moving_light.shine])
def test_a_clip_closes_and_moves(clip):
    frames, actions = clip(5, 5, 24)
    first, second, *_, last = (np.asarray(frame).astype(int) for frame in frames)
    assert len(frames) == 5
    assert actions == []
    assert (first == last).all()
    assert (np.abs(first - second) > 20).mean() > 0.02


def test_clips_can_share_objects_and_show_them_from_other_angles():
    (one, first), (same, second), (other, _) = (solids.object_of(seed, 3) for seed in (100_001, 100_004, 100_002))
    assert one == same != other
    assert first.random() != second.random()
    assert turntable.turn(1, 1, 8, objects=3) != turntable.turn(4, 1, 8, objects=3)


def test_the_table_turns_counterclockwise():
    """Its dark sector, which is at the back, moves to the left."""
    light = 0.0
    seen = [pixels([], angle, angle + light, 48) for angle in (math.pi, math.pi - 0.3)]
    bright = pixels([], 0.5 * math.pi, 0.5 * math.pi + light, 48)[:20]
    dark = [np.nonzero((bright.sum(2) - p[:20].sum(2)) > 60)[1].mean() for p in seen]
    assert dark[1] < dark[0]


def test_the_program_renders_clips_and_resumes(tmp_path):
    def run(clips: int):
        command = [sys.executable, str(FOLDER / "turntable.py"), str(tmp_path), "--clips", str(clips)]
        subprocess.run([*command, "--frames", "3", "--size", "16"], check=True)

    run(1)
    path = tmp_path / "clip_0000" / "000001.png"
    before = path.stat().st_mtime_ns
    run(2)
    assert path.stat().st_mtime_ns == before
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert names == [f"clip_{c:04d}/{i:06d}.png" for c in range(2) for i in range(3)]
    assert Image.open(path).size == (16, 16)
    assert not (tmp_path / "actions.json").exists()


@pytest.mark.parametrize("clip", [turntable.turn, moving_light.shine])
def test_a_clip_may_be_a_single_frame(clip):
    frames, _ = clip(5, 1, 8)
    assert [frame.size for frame in frames] == [(8, 8)]
