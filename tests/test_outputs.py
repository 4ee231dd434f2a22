import errno
import hashlib
import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from biflow import files
from biflow.config import Demo, NetworkConfig, Sample
from biflow.errors import UserError
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model, save_model
from biflow.networks import VideoUNet
from biflow.outputs import demo, sample
from biflow.rollout import drain
from biflow.sequences import follow
from biflow.solvers import SolverError
from biflow.summaries import demo_summary, summary
from biflow.video import contact_sheet
from tests.command_line import read_until, run

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)
TWO_STEPS = {"solver": "midpoint", "steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(folder, Model(VideoUNet(BIFLOW, TINY), BIFLOW, (3, 16, 16), eps=0.1, fps=10.0))
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
    settings = Sample(model, first=prepared, frames=5, samples=3, batch=2, png=True, out=tmp_path, **TWO_STEPS)
    stats = sample(settings)
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
        sample(Sample(model, first=prepared, frames=6, samples=3, batch=batch, png=True, out=tmp_path / str(batch)))
    for i in range(3):
        for index in range(6):
            alone, together = (
                np.asarray(Image.open(tmp_path / batch / f"sample_{i:03d}" / f"{index:06d}.png")).astype(int)
                for batch in ("1", "3")
            )
            assert np.abs(alone - together).max() <= 1  # a rounding of float32 may tip one grey level


def test_another_seed_is_another_video(model, image, tmp_path):
    for seed in (1, 2):
        out = tmp_path / str(seed)
        sample(Sample(model, first=image, frames=2, seed=seed, png=True, out=out, **TWO_STEPS))
    one, two = ((tmp_path / seed / "sample_000" / "000001.png").read_bytes() for seed in ("1", "2"))
    assert one != two


def test_in_between_frames_play_at_the_same_speed(model, image, tmp_path):
    stats = sample(Sample(model, first=image, frames=3, fps_factor=4, out=tmp_path, **TWO_STEPS))
    frames, stream = frames_of(tmp_path / "sample_000.mp4")
    assert (len(frames), stream.average_rate, stats["frames"]) == (12, 40, 12)


def test_memory_does_not_grow_with_the_number_of_frames(model, image, tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from biflow.config import Sample; "
        "from biflow.outputs import sample; model, first, out = map(Path, sys.argv[1:]); "
        "settings = {'first': first, 'solver': 'euler', 'steps': 1, 'out': out}; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "peaks = [sample(Sample(model, frames=frames, **settings)) and peak() for frames in (50, 450)]; "
        "print(*peaks)"
    )
    command = [sys.executable, "-c", code, str(model), str(image), str(tmp_path / "out")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    few, many = map(int, out.split()[-2:])
    assert many - few < 12 * 1024  # KiB; 400 frames of the video would be 75 MiB


def test_ctrl_c_keeps_the_frames_so_far(model, image, tmp_path):
    command = [sys.executable, "-m", "biflow.cli", "sample", str(model), "--first", str(image)]
    command += ["--frames", "100000", "--solver", "euler", "--steps", "1", "--out", str(tmp_path / "out")]
    command += ["--engine", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "out").rglob("sample_000.mp4")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Stopped. These are saved:" in errors
    frames, _ = frames_of(tmp_path / "out" / "sample_000.mp4")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert len(frames) == len(stats["nfe"][0]) > 0


def test_a_reader_of_the_output_that_ends_loses_no_frames(model, image, tmp_path):
    words = [sys.executable, "-m", "biflow.cli", "sample", str(model), "--first", str(image), "--frames", "64"]
    words += ["--solver", "euler", "--steps", "1", "--out", str(tmp_path / "out"), "--engine", "torch"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    read_until(process, b"/64")  # of the bar
    process.wait(timeout=100)
    frames, _ = frames_of(tmp_path / "out" / "sample_000.mp4")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert len(frames) == len(stats["nfe"][0]) == 64


def test_sigterm_keeps_the_frames_so_far_too(model, image, tmp_path, monkeypatch, capsys):
    def terminated(frames):
        yield from islice(drain(frames), 3)
        signal.raise_signal(signal.SIGTERM)
        yield from frames

    monkeypatch.setattr("biflow.outputs.drain", terminated)
    before = signal.getsignal(signal.SIGTERM)
    words = ("sample", model, "--first", image, "--frames", 9, "--solver", "euler", "--steps", 1, "--out", tmp_path)
    try:
        code, _, errors = run(*words, capsys=capsys)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130
    assert "3 of 9 frames, interrupted" in errors
    assert len(frames_of(tmp_path / "sample_000.mp4")[0]) == 3


@pytest.mark.parametrize("full", ["sheet.png", "sample_001.mp4"])
def test_a_full_disk_leaves_what_an_earlier_run_has_written(full, model, prepared, tmp_path, monkeypatch, capsys):
    settings = {"first": prepared, "frames": 2, "png": True, "out": tmp_path, **TWO_STEPS}
    sample(Sample(model, samples=3, **settings))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sync = files._sync

    def fill(path):
        if path.name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(files, "_sync", fill)
    with pytest.raises(UserError, match=rf"^No space left to write {tmp_path}/{full}\."):
        sample(Sample(model, samples=2, seed=1, **settings))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_sample_into_the_same_folder_is_refused(model, prepared, tmp_path):
    with files.alone(tmp_path), pytest.raises(UserError, match=f"^Another command is writing in {tmp_path}"):
        sample(Sample(model, first=prepared, frames=2, out=tmp_path, **TWO_STEPS))


def test_an_interrupted_run_says_on_its_sheet_and_in_words_what_is_there(model, prepared, tmp_path, monkeypatch):
    captions = []

    def interrupted(frames):
        yield from islice(drain(frames), 37)
        raise KeyboardInterrupt

    def sheet(rows, path, caption):
        captions.append((rows, caption))
        contact_sheet(rows, path, caption)

    monkeypatch.setattr("biflow.outputs.drain", interrupted)
    monkeypatch.setattr("biflow.outputs.contact_sheet", sheet)
    settings = Sample(model, first=prepared, frames=200, samples=4, batch=2, out=tmp_path, **TWO_STEPS)
    with pytest.raises(KeyboardInterrupt) as stop:
        sample(settings)
    ((rows, caption),) = captions
    assert [len(row) for row in rows] == [3, 3]  # the given frame, and frames 1 and 29 of 1, 29, 58, …
    assert caption[2:] == [
        "2 of 4 videos with 37 of 200 frames, interrupted.",
        "First column: the given frame. Then frames 1, 29.",
    ]
    assert str(stop.value).startswith("Stopped. These are saved:\n2 of 4 videos with 37 of 200 frames, interrupted: ")
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["asked"], stats["samples"], stats["frames"]) == ({"samples": 4, "frames": 200}, 2, 37)
    assert len(frames_of(tmp_path / "sample_001.mp4")[0]) == 37


def test_what_was_written_is_said_in_a_few_lines(model, prepared, tmp_path):
    stats = sample(Sample(model, first=prepared, frames=2, samples=3, png=True, out=tmp_path, **TWO_STEPS))
    videos, others, cost, watch = summary(tmp_path, stats).splitlines()
    assert videos == (
        f"3 videos of 2 frames: {tmp_path / 'sample_000.mp4'} to {tmp_path / 'sample_002.mp4'}, "
        f"and each frame as a PNG in {tmp_path / 'sample_000'} to {tmp_path / 'sample_002'}"
    )
    assert others == f"Contact sheet: {tmp_path / 'sheet.png'}. Numbers: {tmp_path / 'stats.json'}."
    assert cost.startswith("4.0 network evaluations per frame, ")
    assert watch == f"To watch, open {tmp_path / 'sample_000.mp4'} in a video player or a browser."
    assert "asked" not in stats


def test_a_second_run_replaces_the_files_of_the_first_and_no_others(model, prepared, tmp_path, caplog):
    settings = {"first": prepared, "frames": 2, "out": tmp_path, **TWO_STEPS}
    sample(Sample(model, samples=3, png=True, **settings))
    assert "earlier run" not in caplog.text
    mine = ["notes.txt", "sample_0.mp4", "sample_000 copy.mp4", "sample_001/notes.txt", "sample_000.mp4.bak"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError):
        sample(Sample(model, **{**settings, "first": tmp_path / "nowhere.png"}))
    assert (tmp_path / "sample_002.mp4").exists()  # nothing is removed before there is a new frame
    sample(Sample(model, samples=1, **settings))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"sample_000.mp4", "sheet.png", "stats.json", *mine}
    assert not (tmp_path / "sample_000").exists()
    assert caplog.text.count(f"Replacing what an earlier run has written into {tmp_path}.") == 1


def test_an_interrupted_demo_leaves_nothing_of_an_earlier_one(tmp_path, monkeypatch):
    demo(Demo(out=tmp_path, frames=2, samples=1))

    def interrupted(frames):
        yield next(drain(frames))
        raise KeyboardInterrupt

    monkeypatch.setattr("biflow.outputs.drain", interrupted)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 frames, interrupted"):
        demo(Demo(out=tmp_path, frames=2, samples=1))
    assert json.loads((tmp_path / "demo.json").read_text())["asked"] == {"samples": 1, "frames": 2}
    assert len(frames_of(tmp_path / "demo.mp4")[0]) == 1


def test_videos_before_a_frame_that_cannot_be_solved_are_kept(model, prepared, tmp_path, monkeypatch):
    calls = []

    def failing(*args, **options):
        calls.append(1)
        for number, frame in enumerate(follow(*args, **options), 1):
            if len(calls) == 2 and number == 3:
                raise SolverError("NaN.")
            yield frame

    monkeypatch.setattr("biflow.outputs.follow", failing)
    settings = Sample(model, first=prepared, frames=4, samples=3, batch=1, out=tmp_path / "out", **TWO_STEPS)
    sentence = "Frame 3 could not be solved: NaN. What was made before is saved: 1 of 3 videos with 4 of 4 frames"
    with pytest.raises(UserError, match=sentence):
        sample(settings)
    lengths = [len(frames_of(path)[0]) for path in sorted((tmp_path / "out").glob("*.mp4"))]
    assert lengths == [4, 2]
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["failure"].startswith("Frame 3")
    monkeypatch.setattr("biflow.outputs.follow", lambda *args, **options: map(nothing, [0]))
    with pytest.raises(UserError, match=r"Frame 1 could not be solved: NaN\.$"):
        sample(Sample(model, first=prepared, frames=4, out=tmp_path / "none", **TWO_STEPS))
    assert not list((tmp_path / "none").glob("*.mp4"))


def nothing(_):
    raise SolverError("NaN.")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"fps": 0.0}, "fps is 0"),
        ({"eps": -1.0}, "eps is -1"),
        ({"first": Path("nowhere.png")}, r"nowhere\.png"),
        ({"fps_factor": 0}, "fps_factor is 0"),
        ({"fps_factor": 10**9}, "fps_factor is 1000000000, but must be at most 1000"),
        ({"fps": 1e-5}, "fps is 1e-05, but must be from 0.01 to 1000"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence_and_write_nothing(model, image, tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(Sample(model, **{"first": image, "out": tmp_path / "out", **settings}))
    assert not (tmp_path / "out").exists()


def test_settings_are_recorded_as_they_took_effect(model, image, tmp_path):
    settings = {"first": image, "frames": 1, "engine": "torch", "out": tmp_path}
    recorded = sample(Sample(model, solver="reference", direction="backward", **settings))["settings"]
    assert recorded["method"] == "biflow"
    assert recorded["eps"] == 0.1  # the model's own
    assert recorded["engine"] == "torch"
    assert (recorded["model"], recorded["direction"], recorded["batch"]) == (model.name, "backward", 1)
    assert (recorded["solver"]["method"], recorded["solver"]["reference"]) == ("heun", True)
    assert sample(Sample(model, eps=0.3, **settings))["settings"]["eps"] == 0.3


def test_levels_that_were_chosen_are_recorded(model, image, tmp_path):
    stats = sample(Sample(model, eps="auto", first=image, frames=18, out=tmp_path, **TWO_STEPS))
    assert stats["settings"]["eps"] == "auto"
    ((*before, level, last),) = stats["eps"]
    assert before == [0.1] * 16
    assert level == last != 0.1
    assert stats["nfe"] == [[4] * 16 + [5, 4]]  # the look at frame 16 is one evaluation
    assert "eps" not in sample(Sample(model, eps=0.1, first=image, frames=1, out=tmp_path, **TWO_STEPS))


def test_a_method_without_noise_is_recorded_with_eps_0(image, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "flow", Model(VideoUNet(FLOW, TINY), FLOW, (3, 16, 16)))
    stats = sample(Sample(tmp_path / "flow", first=image, frames=1, out=tmp_path / "out", **TWO_STEPS))
    assert (stats["settings"]["method"], stats["settings"]["eps"]) == ("flow", 0.0)


def test_a_frame_that_cannot_be_solved_is_named_and_leaves_no_video(image, tmp_path):
    network = VideoUNet(FLOW, TINY)
    with torch.no_grad():
        network.nets[0].conv_out.weight.fill_(3e38)  # the sum of several is infinite
    save_model(tmp_path / "nan", Model(network, FLOW, (3, 16, 16)))
    with pytest.raises(UserError, match=r"Frame 1 could not be solved: .*sample 0"):
        sample(Sample(tmp_path / "nan", first=image, frames=2, engine="torch", out=tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_the_demo_is_a_sample_of_the_model_that_comes_with_the_package(tmp_path):
    stats = demo(Demo(out=tmp_path, frames=2, samples=2, seed=3))
    assert stats["nfe"] == json.loads((tmp_path / "demo" / "stats.json").read_text())["nfe"]
    assert [len(nfe) for nfe in stats["nfe"]] == [2, 2]
    summary = json.loads((tmp_path / "demo.json").read_text())
    assert (summary["seed"], summary["samples"], summary["settings"]["batch"]) == (3, 2, 1)
    assert "nfe" not in summary
    assert (tmp_path / "demo.mp4").read_bytes() == (tmp_path / "demo" / "sample_000.mp4").read_bytes()
    assert (tmp_path / "demo.png").stat().st_size > 1000


def test_a_video_is_also_written_as_gif_and_webp_at_the_scale_that_is_asked_for(model, prepared, tmp_path):
    settings = {"first": prepared, "frames": 5, "out": tmp_path, **TWO_STEPS}
    stats = sample(Sample(model, samples=2, scale=2, gif=True, webp=True, png=True, **settings))
    for i in range(2):
        frames, stream = frames_of(tmp_path / f"sample_{i:03d}.mp4")
        assert (frames[0].shape, stream.average_rate) == ((32, 32, 3), 10)
        for kind in ("gif", "webp"):
            with Image.open(tmp_path / f"sample_{i:03d}.{kind}") as animation:
                animation.seek(3)
                animation.load()
                assert (animation.n_frames, animation.size, animation.info["duration"]) == (5, (32, 32), 100)
                shown = np.asarray(animation.convert("RGB")).astype(int)
            right, other = (
                np.asarray(Image.open(tmp_path / f"sample_{sample:03d}" / "000003.png")).repeat(2, 0).repeat(2, 1)
                for sample in (i, 1 - i)
            )
            error = np.abs(shown - right).mean()  # of frames that are all noise, the worst case for WebP
            assert error < (2 if kind == "gif" else np.abs(shown - other).mean() / 2)
    assert ", and as webp and gif, and each frame as a PNG in " in summary(tmp_path, stats)
    sample(Sample(model, samples=1, **settings))
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".gif", ".webp")]


def test_the_demo_as_gif(tmp_path):
    stats = demo(Demo(out=tmp_path, frames=2, samples=1, gif=True))
    with Image.open(tmp_path / "demo.gif") as animation:
        assert (animation.n_frames, sum(_durations(animation))) == (2, pytest.approx(2000 / 17.5, abs=10))
    assert demo_summary(tmp_path, stats).splitlines()[1] == f"{tmp_path / 'demo.gif'}   the first video"
    (tmp_path / "mine.gif").write_text("mine")
    demo(Demo(out=tmp_path, frames=1, samples=1, seed=2))
    assert [path.name for path in tmp_path.glob("*.gif")] == ["mine.gif"]  # that of the first run would not be of these


@pytest.mark.parametrize("name", ["demo.mp4", "demo.png", "demo.json"])
def test_the_demo_replaces_no_file_of_its_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"my film")
    with pytest.raises(UserError, match=f"holds another {name}, which would be lost"):
        demo(Demo(frames=1, samples=1, out=tmp_path))
    assert (tmp_path / name).read_bytes() == b"my film"


def _durations(animation):
    for i in range(animation.n_frames):
        animation.seek(i)
        yield animation.info["duration"]


@pytest.mark.parametrize("content", [None, b"{}", b"7", b"not json"])
def test_films_that_happen_to_have_its_names_are_not_replaced(content, model, image, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "sample_003.mp4").write_bytes(b"my film")
    if content is not None:
        (tmp_path / "films" / "stats.json").write_bytes(content)
    with pytest.raises(UserError, match=r"films holds other files, such as s.*\. Name a new folder\.") as refusal:
        sample(Sample(model, first=image, frames=1, out=tmp_path / "films", **TWO_STEPS))
    assert refusal.value.setting == "out"
    assert (tmp_path / "films" / "sample_003.mp4").read_bytes() == b"my film"
