import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from biflow import cli
from biflow.config import NetworkConfig
from biflow.data.pairs import FramePairs
from biflow.data.prepare import prepare
from biflow.errors import UserError
from biflow.evaluation import evaluate as module
from biflow.evaluation.distances import Moments, frechet_distance, kernel_distance
from biflow.evaluation.evaluate import evaluate, real_windows, summary
from biflow.evaluation.generate import read_video
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol, load_protocol
from biflow.networks import VideoUNet
from biflow.rollout import stream
from biflow.solvers import Solver
from biflow.training.checkpoint import save_model

TINY = NetworkConfig(channels=(32,), attention=(), patch=2)
PROTOCOL = Protocol(
    name="tiny",
    samples=5,
    frames=14,
    window=6,
    stride=4,
    real_windows=3,
    eps=0.1,
    solver=Solver("midpoint", steps=1),
    resamples=10,
    frame_stride=2,
    nearest=2,
)


def mean_and_motion(frames):
    x = frames.float() / 255
    return torch.cat([x.mean((1, 3, 4)), x.diff(dim=1).abs().mean((1, 2, 3, 4))[:, None]], 1)


CHEAP = Features("mean colours", "none", "none", 4, 2, mean_and_motion)


def make_model(folder, method="biflow", size=(16, 16)):
    torch.manual_seed(0)
    save_model(folder, VideoUNet(method, TINY, size, eps=0.1, fps=10.0), None, {})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eight clips of a brightening square, 12 frames of 16x16 each, half of them for testing."""
    root = tmp_path_factory.mktemp("clips")
    for clip in range(8):
        frames = np.full((12, 16, 16, 3), 20 * clip, np.uint8)
        for i in range(12):
            frames[i, 4 : 8 + clip, i : i + 4] = (100 + 10 * i, 180, 30 * clip)
        np.save(root / f"clip_{clip}.npy", frames)
    dst = tmp_path_factory.mktemp("data") / "squares"
    prepare(root, dst, size=16, split=0.5, progress=False)
    return dst


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(model, prepared, out, protocol=PROTOCOL, **settings):
    return evaluate(model, prepared, out, protocol, networks={"i3d": CHEAP}, engine="torch", progress=False, **settings)


def test_the_numbers_are_those_of_windows_cut_by_hand(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out")
    test = FramePairs(prepared, split="test")
    cut = [test.clip(c)[start : start + 6] for c, starts in real_windows(test, PROTOCOL).items() for start in starts]
    real = mean_and_motion(torch.stack(cut))
    assert len(real) == 3
    for number, start in enumerate((0, 4, 8)):
        fake = mean_and_motion(torch.stack([read_video(tmp_path / "out", i)[start : start + 6] for i in range(5)]))
        by_hand = frechet_distance(Moments(4).add(real), Moments(4).add(fake))
        assert result["fvd"]["per_window"][number] == pytest.approx(by_hand, rel=1e-4)
        assert result["kvd"]["per_window"][number] == pytest.approx(kernel_distance(real, fake), rel=1e-4)
    for name in ("fvd", "kvd"):
        values = result[name]["per_window"]
        assert result[name]["mean"] == pytest.approx(sum(values) / 3)
        assert result[name]["slope"] == pytest.approx((values[2] - values[0]) / 8)
        assert result[name]["interval"][0] <= result[name]["mean"] <= result[name]["interval"][1]


def test_networks_of_frames_see_the_sampled_frames_of_a_window(model, prepared, tmp_path):
    colour = Features("colour", "none", "none", 3, 1, lambda clips: clips.float().mean((1, 3, 4)), 1)
    motion = Features(
        "motion", "none", "none", 1, 2, lambda c: c.float().diff(dim=1).abs().mean((1, 2, 3, 4))[:, None], 2
    )
    networks = {"inception": colour, "lpips": motion}
    result = evaluate(model, prepared, tmp_path / "out", PROTOCOL, networks=networks, engine="torch", progress=False)
    videos = torch.stack([read_video(tmp_path / "out", i) for i in range(5)]).float()
    test = FramePairs(prepared, split="test")
    real = torch.cat([test.clip(c)[1::2].float().mean((2, 3)) for c in range(len(test.clips))])
    generated = videos[:, [5, 7, 9]].mean((3, 4)).flatten(0, 1)  # every second frame of the window from 4 to 9
    by_hand = frechet_distance(Moments(3).add(real), Moments(3).add(generated))
    assert result["fid"]["per_window"][1] == pytest.approx(by_hand, rel=1e-4)
    over_time = result["over_time"]["lpips_to_previous"]
    assert over_time["frames"] == [1, 3, 5, 7, 9, 11, 13]
    expected = (videos[:, 1::2] - videos[:, 0::2]).abs().mean((0, 2, 3, 4))
    assert over_time["generated"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_rest_of_the_numbers(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out")
    assert result["nfe"]["mean"] == result["nfe"]["p95"] == 2
    assert len(result["nfe"]["over_time"]) == 14
    assert result["windows"] == {"real": 3, "generated": 5}
    assert "N = 3 windows are too few" in result["note"]
    assert len(result["over_time"]["motion"]["generated"]) == 14
    # The second frame of a training pair is itself in the training set; one of the test split is not.
    assert min(result["nearest"]["real"]) > 0
    assert (tmp_path / "out" / "nearest.png").exists()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(result))
    assert "NFE 2.00 a frame" in summary(result)


def test_a_training_frame_is_its_own_nearest(prepared):
    from biflow.evaluation.nearest import nearest_frames

    train = FramePairs(prepared, split="train")
    found = nearest_frames(torch.stack([train.frame(2, 5), train.frame(0, 0)]), train)
    assert found.distance.tolist() == [0, 0]
    assert torch.equal(train.frame(found.clip[0], found.frame[0]), train.frame(2, 5))
    shifted = train.frame(2, 5).clone()
    shifted[0, 0, 0] += 8
    assert float(nearest_frames(shifted[None], train).distance[0]) == pytest.approx((64 / shifted.numel()) ** 0.5)


def test_batches_have_no_influence(model, prepared, tmp_path):
    one = run(model, prepared, tmp_path / "one", batch=5, feature_batch=9)
    other = run(model, prepared, tmp_path / "other", batch=2, feature_batch=1)
    for name in ("fvd", "kvd"):
        # A network rounds differently at another batch size, and a pixel may fall on the other side of a grey level.
        np.testing.assert_allclose(one[name]["per_window"], other[name]["per_window"], rtol=1e-3)


def test_an_interrupted_run_goes_on_at_the_next_video(model, prepared, tmp_path, monkeypatch):
    whole = run(model, prepared, tmp_path / "whole", batch=1)
    calls = []

    def failing_stream(model, first, **settings):
        calls.append(len(first))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return stream(model, first, **settings)

    monkeypatch.setattr("biflow.evaluation.generate.stream", failing_stream)
    with pytest.raises(KeyboardInterrupt):
        run(model, prepared, tmp_path / "out", batch=1)
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 1
    result = run(model, prepared, tmp_path / "out", batch=1)
    assert len(calls) == 2 + 4  # one video, the interruption, and the four that were missing
    assert result["fvd"]["per_window"] == pytest.approx(whole["fvd"]["per_window"], rel=1e-6)


def test_features_of_the_real_set_are_computed_once_for_all_models(model, prepared, tmp_path):
    counted = []
    features = replace(CHEAP, compute=lambda frames: counted.append(len(frames)) or mean_and_motion(frames))
    for out, eps in (("a", 0.0), ("b", 0.1)):
        evaluate(
            model,
            prepared,
            tmp_path / out,
            replace(PROTOCOL, eps=eps),
            networks={"i3d": features},
            engine="torch",
            progress=False,
        )
    assert sum(counted) == 3 + 2 * 5 * 3


def test_the_metrics_file_is_a_protocol_that_gives_the_same_numbers(model, prepared, tmp_path):
    first = run(model, prepared, tmp_path / "first")
    protocol = load_protocol(str(tmp_path / "first" / "metrics.json"))
    assert protocol == PROTOCOL
    again = run(model, prepared, tmp_path / "again", protocol)
    assert again["fvd"] == first["fvd"]
    assert again["protocol"]["model"]["sha256"] == first["protocol"]["model"]["sha256"]


def test_a_folder_of_another_evaluation_is_refused(model, prepared, tmp_path):
    run(model, prepared, tmp_path / "out")
    with pytest.raises(UserError, match=r"another settings\.eps"):
        run(model, prepared, tmp_path / "out", replace(PROTOCOL, eps=0.3))


def test_what_does_not_go_together_gets_a_sentence(model, prepared, tmp_path):
    with pytest.raises(UserError, match="the model makes 32x32"):
        run(make_model(tmp_path / "large", size=(32, 32)), prepared, tmp_path / "out")
    with pytest.raises(UserError, match="needs a BI-FLOW model"):
        run(make_model(tmp_path / "flow", "flow"), prepared, tmp_path / "out")
    with pytest.raises(UserError, match="longest clip has 12"):
        run(model, prepared, tmp_path / "other", replace(PROTOCOL, window=13))
    with pytest.raises(UserError, match="biflow weights fetch i3d"):
        evaluate(model, prepared, tmp_path / "weights", PROTOCOL, progress=False)
    assert not (tmp_path / "weights").exists()


def test_evenly_spread_windows_reach_both_ends(prepared):
    test = FramePairs(prepared, split="test")
    every = real_windows(test, replace(PROTOCOL, real_windows=None))
    some = real_windows(test, replace(PROTOCOL, real_windows=2))
    assert [min(some), max(some)] == [0, len(test.clips) - 1]
    assert some[0] == every[0][:1]
    assert some[len(test.clips) - 1] == every[len(test.clips) - 1][-1:]


def test_the_command_line_evaluates_and_reports(model, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_networks", lambda names, device: {"i3d": CHEAP})
    (tmp_path / "p.json").write_text(
        '{"samples": 2, "frames": 8, "window": 4, "stride": 4, "frame_stride": 4, "resamples": 2}'
    )
    common = ["evaluate", str(model), "--data", str(prepared), "--protocol", str(tmp_path / "p.json")]
    cli.main([*common, "--out", str(tmp_path / "out"), "--eps", "0.2", "--solver", "euler", "--steps", "2"])
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]["settings"]
    assert (settings["name"], settings["eps"], settings["solver"]["steps"]) == ("p", 0.2, 2)
    cli.main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report" / "report.html")


SHARE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_evaluate as t
t.run(*map(Path, sys.argv[1:4]), batch=1)
"""


def test_two_processes_give_the_number_of_one(model, prepared, tmp_path):
    alone = run(model, prepared, tmp_path / "one", batch=1)
    script = tmp_path / "share.py"
    script.write_text(SHARE)
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "other_cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), str(model), str(prepared), str(tmp_path / "two"), str(Path(__file__).parent)]
    subprocess.run(command, check=True, env=env, timeout=240)
    shared = json.loads((tmp_path / "two" / "metrics.json").read_text())
    np.testing.assert_allclose(shared["fvd"]["per_window"], alone["fvd"]["per_window"], rtol=1e-6)
    np.testing.assert_allclose(shared["fvd"]["interval"], alone["fvd"]["interval"], rtol=1e-6)
