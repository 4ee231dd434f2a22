import hashlib
import json
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.networks import VideoUNet
from biflow.sampling import first_frames, sample, solver_settings
from biflow.solvers import Solver
from biflow.training.checkpoint import save_model

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)
TWO_STEPS = Solver("midpoint", steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(folder, VideoUNet("biflow", TINY, (16, 16), eps=0.1, fps=10.0), None, {})
    return folder


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    return tmp_path / "first.png"


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], container.streams.video[0]


def test_videos_sheet_and_numbers_are_what_was_asked_for(model, prepared, tmp_path):
    stats = sample(model, tmp_path, first=prepared, frames=5, samples=3, batch=2, solver=TWO_STEPS, png=True)
    assert json.loads((tmp_path / "stats.json").read_text()) == json.loads(json.dumps(stats))
    assert stats["nfe"] == [[4] * 5] * 3
    assert stats["nfe_per_frame"] == 4
    assert stats["seconds"] > 0
    assert stats["seed"] == 0
    weights = (model / "diffusion_pytorch_model.safetensors").read_bytes()
    assert stats["model_sha256"] == hashlib.sha256(weights).hexdigest()
    assert stats["settings"]["solver"]["steps"] == 2
    for i in range(3):
        frames, stream = frames_of(tmp_path / f"sample_{i:03d}.mp4")
        assert (len(frames), stream.average_rate, frames[0].shape) == (5, 10, (256, 256, 3))
        pngs = sorted((tmp_path / f"sample_{i:03d}").glob("*.png"))
        assert len(pngs) == 5
        written = np.asarray(Image.open(pngs[2])).repeat(16, 0).repeat(16, 1).astype(int)
        assert np.abs(frames[2].astype(int) - written).mean() < 12  # H.264 with colours at half resolution
    assert Image.open(tmp_path / "sheet.png").width > 9 * 32


def test_a_video_is_the_same_whatever_is_solved_beside_it(model, prepared, tmp_path):
    for batch in (1, 3):
        sample(model, tmp_path / str(batch), first=prepared, frames=6, samples=3, batch=batch, png=True)
    for i in range(3):
        for index in range(6):
            alone, together = (
                np.asarray(Image.open(tmp_path / batch / f"sample_{i:03d}" / f"{index:06d}.png")).astype(int)
                for batch in ("1", "3")
            )
            assert np.abs(alone - together).max() <= 1  # a rounding of float32 may tip one grey level


def test_another_seed_is_another_video(model, image, tmp_path):
    for seed in (1, 2):
        sample(model, tmp_path / str(seed), first=image, frames=2, seed=seed, solver=TWO_STEPS, png=True)
    one, two = ((tmp_path / seed / "sample_000" / "000001.png").read_bytes() for seed in ("1", "2"))
    assert one != two


def test_in_between_frames_play_at_the_same_speed(model, image, tmp_path):
    stats = sample(model, tmp_path, first=image, frames=3, fps_factor=4, solver=TWO_STEPS)
    frames, stream = frames_of(tmp_path / "sample_000.mp4")
    assert (len(frames), stream.average_rate, stats["frames"]) == (12, 40, 12)


def test_images_of_another_size_or_kind_are_converted_and_said(model, tmp_path, caplog):
    Image.new("L", (40, 30), 200).save(tmp_path / "grey.png")
    frames = first_frames(tmp_path / "grey.png", (16, 16), None, 0)
    assert frames.shape == (1, 3, 16, 16)
    assert (frames == 200).all()
    assert "grey" in caplog.text
    assert "resized to 16x16" in caplog.text


def test_a_folder_gives_its_images_in_numerical_order(tmp_path):
    for number in (10, 2, 1):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert first_frames(tmp_path, (16, 16), None, 0)[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert first_frames(tmp_path, (16, 16), 4, 0)[:, 0, 0, 0].tolist() == [1, 2, 10, 1]


def test_first_frames_of_a_prepared_set_come_from_its_test_split(prepared):
    from biflow.data.pairs import FramePairs

    test = FramePairs(prepared, split="test")
    known = torch.cat([test.clip(i) for i in range(len(test.clips))]).flatten(1)
    for frame in first_frames(prepared, (16, 16), 5, seed=1).flatten(1):
        assert (known == frame).all(1).any()


def test_memory_does_not_grow_with_the_number_of_frames(model, image, tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from biflow.sampling import sample; "
        "from biflow.solvers import Solver; "
        "sample(Path(sys.argv[1]), Path(sys.argv[2]), first=Path(sys.argv[3]), frames=int(sys.argv[4]), "
        "solver=Solver('euler', steps=1)); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for frames in (100, 1100):
        command = [sys.executable, "-c", code, str(model), str(tmp_path / str(frames)), str(image), str(frames)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks.append(int(out.split()[-1]))
    assert peaks[1] - peaks[0] < 12 * 1024  # KiB; 1000 frames of 16x16 floats alone would be 3, of the video 192 MiB


def test_ctrl_c_keeps_the_frames_so_far(model, image, tmp_path):
    command = [sys.executable, "-m", "biflow.cli", "sample", str(model), "--first", str(image)]
    command += ["--frames", "100000", "--solver", "euler", "--steps", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob(".*")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"are saved in" in errors
    frames, _ = frames_of(tmp_path / "out" / "sample_000.mp4")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert len(frames) == len(stats["nfe"][0]) > 0


def test_solver_names_become_settings():
    assert solver_settings("reference", steps=None) == Solver("heun", reference=True)
    assert solver_settings("bosh3", steps=None, rtol=1e-3) == Solver("bosh3", rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="did you mean 'midpoint'"):
        solver_settings("midpont", steps=None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"eps": -1.0}, "eps is -1"),
        ({"first": "nowhere.png"}, "there is no"),
        ({"fps_factor": 0}, "fps-factor is 0"),
    ],
)
def test_bad_settings_are_told_in_a_sentence_and_write_nothing(model, image, tmp_path, settings, told):
    from pathlib import Path

    settings = {"first": image, **settings}
    settings["first"] = Path(settings["first"])
    with pytest.raises(UserError, match=told):
        sample(model, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
