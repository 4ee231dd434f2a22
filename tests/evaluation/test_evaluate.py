import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor, nn

from biflow import cli, methods
from biflow.config import NetworkConfig, Prepare, Solver, TrainConfig
from biflow.data.prepare import prepare
from biflow.data.windows import Windows
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.evaluation import evaluate as module
from biflow.evaluation import over_time
from biflow.evaluation.distances import frechet_distance, kernel_distance
from biflow.evaluation.evaluate import evaluate, summary
from biflow.evaluation.jobs import real_windows
from biflow.evaluation.metrics import costs, nearest_frames
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import Protocol, load_protocol
from biflow.evaluation.videos import costs_path, read_costs, read_video, video_path
from biflow.files import alone
from biflow.methods import Method
from biflow.model import Model, load_model, save_model
from biflow.networks import VideoUNet
from biflow.paths import Fields
from biflow.rollout import generate, sample_generators, stream
from biflow.video import to_float, to_uint8

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


PROTOCOL_WITHOUT_EPS = replace(PROTOCOL, eps=None)


def mean_and_motion(frames):
    x = frames.float() / 255
    return torch.cat([x.mean((1, 3, 4)), x.diff(dim=1).abs().mean((1, 2, 3, 4))[:, None]], 1)


CHEAP = Features("mean colours", "none", "none", 4, 2, mean_and_motion)


def make_model(folder, name="biflow", size=(16, 16)):
    torch.manual_seed(0)
    method = methods.get(name)
    eps = 0.1 if method.takes_eps else 0.0
    save_model(folder, Model(VideoUNet(method, TINY), method, (3, *size), eps=eps, fps=10.0))
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
    prepare(Prepare(root, dst, size=16, split=0.5), progress=False)
    return dst


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(folder, prepared, out, protocol=PROTOCOL, **settings):
    settings = {"networks": {"i3d": CHEAP}, "progress": False, **settings}
    return evaluate(load_model(folder), prepared, out, protocol, **settings)


def test_what_narrows_the_intervals_is_noted(model, prepared, tmp_path):
    many = run(model, prepared, tmp_path / "many", replace(PROTOCOL, samples=50, frames=6))
    assert "The 50 videos start from only 44 frames: the intervals are too narrow." in many["note"]  # 4 clips of 11
    root = tmp_path / "one"
    root.mkdir()
    np.save(root / "clip.npy", np.random.default_rng(0).integers(0, 255, (80, 16, 16, 3), np.uint8))
    prepare(Prepare(root, tmp_path / "set", size=16, split=0.5), progress=False)
    single = run(model, tmp_path / "set", tmp_path / "single")["note"]
    assert single.startswith("N = 3 windows are too few")
    assert single.endswith(
        "Only one test clip is as long as a window, so its overlapping windows are treated as independent: "
        "the intervals are too narrow."
    )


@pytest.mark.parametrize(
    ("network", "window", "sentence"),
    [
        (replace(CHEAP, smallest=32), 6, "mean colours needs frames of 32x32 or more, not 16x16. Remove it"),
        (replace(CHEAP, span=10), 12, "Use a smaller frame_stride."),
    ],
)
def test_a_network_that_cannot_see_the_windows_is_refused_before_there_are_videos(
    model, prepared, tmp_path, network, window, sentence
):
    protocol = replace(PROTOCOL, window=window, stride=8, frame_stride=8)
    with pytest.raises(UserError, match=sentence):
        run(model, prepared, tmp_path / "out", protocol, networks={"mine": network})
    assert not (tmp_path / "out" / "videos").exists()


def test_a_flow_map_names_the_solver_that_solves_it_backward(prepared, tmp_path):
    model, protocol = make_model(tmp_path / "flowmap", "flowmap"), replace(PROTOCOL, direction="backward", frames=6)
    found = run(model, prepared, tmp_path / "out", replace(protocol, solver=None))
    solver = found["protocol"]["settings"]["solver"]
    assert (solver["method"], solver["steps"], found["nfe"]["mean"]) == ("adams", 4, 4)


def test_windows_of_a_stream_backward_in_time_are_turned_round(model, prepared, tmp_path):
    first_frames = Features(
        "first frames", "none", "none", 1, 2, lambda clips: clips[:, 0].float().mean((1, 2, 3))[:, None]
    )
    for direction, place, folder in (("forward", 0, "i3d"), ("backward", -1, "i3d_turned")):
        out, protocol = tmp_path / direction, replace(PROTOCOL, direction=direction)
        run(model, prepared, out, protocol, networks={"i3d": first_frames})
        seen = load_file(out / "features" / folder / "000.safetensors")["features"]
        assert seen[0].item() == pytest.approx(read_video(out, 0)[:6][place].float().mean().item())


def test_videos_of_two_engines_are_said_to_be(model, prepared, tmp_path):
    assert run(model, prepared, tmp_path)["protocol"]["engine"] == "torch"
    path = costs_path(tmp_path, 2)
    path.write_text(json.dumps({**json.loads(path.read_text()), "engine": "openvino bf16"}))
    assert run(model, prepared, tmp_path)["protocol"]["engine"] == "openvino bf16 and torch"
    costs = {key: value for key, value in json.loads(path.read_text()).items() if key != "engine"}
    path.write_text(json.dumps(costs))  # as an earlier version wrote it
    assert run(model, prepared, tmp_path)["protocol"]["engine"] == "torch"


def test_a_training_after_an_evaluation_on_the_cpu_chooses_its_device_anew(model, prepared, tmp_path, monkeypatch):
    from biflow.training import loop

    run(model, prepared, tmp_path)
    assert PartialState._shared_state

    def chosen(**options):
        assert not PartialState._shared_state
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Accelerator", chosen)
    with pytest.raises(KeyboardInterrupt):
        loop.train(TrainConfig(), prepared, tmp_path / "run")


@pytest.mark.gpu
def test_an_evaluation_on_a_card_has_the_numbers_of_one_on_the_cpu(model, prepared, tmp_path):
    here = run(model, prepared, tmp_path / "cpu")
    card = with_engine(load_model(model, device="cuda"))
    there = evaluate(card, prepared, tmp_path / "card", PROTOCOL, networks={"i3d": CHEAP}, progress=False)
    assert "CUDA graphs" in there["protocol"]["engine"]
    assert there["nfe"] == here["nfe"]
    assert there["fvd"]["mean"] == pytest.approx(here["fvd"]["mean"], rel=0.02)
    first = [torch.stack([read_video(tmp_path / name, i)[0] for i in range(5)]).float() for name in ("cpu", "card")]
    assert (first[0] - first[1]).abs().mean() < 1  # grey level: bf16 rounds, and later frames add that up


@pytest.mark.parametrize("name", ["metrics.json", "first.npy", "videos/000.npy"])
def test_files_of_others_are_not_replaced(name, model, prepared, tmp_path):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("of mine")
    with pytest.raises(UserError, match="which would be lost") as refusal:
        run(model, prepared, tmp_path / "mine")
    assert refusal.value.setting == "out"
    assert [file for file in (tmp_path / "mine").rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "of mine"


def test_the_numbers_are_those_of_windows_cut_by_hand(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out")
    test = Windows(prepared, split="test")
    cut = [test.clip(c)[start : start + 6] for c, starts in real_windows(test, PROTOCOL).items() for start in starts]
    real = mean_and_motion(torch.stack(cut))
    assert len(real) == 3
    for number, start in enumerate((0, 4, 8)):
        fake = mean_and_motion(torch.stack([read_video(tmp_path / "out", i)[start : start + 6] for i in range(5)]))
        by_hand = frechet_distance(real, fake)
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
    result = run(model, prepared, tmp_path / "out", networks=networks)
    videos = torch.stack([read_video(tmp_path / "out", i) for i in range(5)]).float()
    test = Windows(prepared, split="test")
    real = torch.cat([test.clip(c)[1::2].float().mean((2, 3)) for c in range(len(test.clips))])
    generated = videos[:, [5, 7, 9]].mean((3, 4)).flatten(0, 1)  # every second frame of the window from 4 to 9
    by_hand = frechet_distance(real, generated)
    assert result["fid"]["per_window"][1] == pytest.approx(by_hand, rel=1e-4)
    over_time = result["over_time"]["lpips_to_previous"]
    assert over_time["frames"] == [1, 3, 5, 7, 9, 11, 13]
    expected = (videos[:, 1::2] - videos[:, 0::2]).abs().mean((0, 2, 3, 4))
    assert over_time["generated"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_rest_of_the_numbers(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out")
    assert result["nfe"]["mean"] == result["nfe"]["p95"] == result["nfe"]["batch_max"] == 2
    assert result["nfe"]["interval"] == [2, 2]
    assert len(result["nfe"]["over_time"]) == 14
    assert result["windows"] == {"real": 3, "generated": 5}
    assert "N = 3 windows are too few" in result["note"]
    assert len(result["over_time"]["motion"]["generated"]) == 14
    # The second frame of a training pair is itself in the training set; one of the test split is not.
    assert min(result["nearest"]["real"]) > 0
    assert (tmp_path / "out" / "nearest.png").exists()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(result))
    assert "NFE 2.00 per frame" in summary(result)


def test_levels_that_were_chosen_are_among_the_numbers(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out", replace(PROTOCOL, eps="auto", frames=18))
    levels = [read_costs(tmp_path / "out", i, 18)["eps"] for i in range(5)]
    assert levels == [[0.1] * 16 + [row[16]] * 2 for row in levels]
    assert result["eps"]["mean"] == pytest.approx(np.mean(levels), abs=1e-4)
    assert result["eps"]["over_time"] == pytest.approx(np.mean(levels, 0), abs=1e-4)
    assert result["nfe"]["over_time"] == [2.0] * 16 + [3.0, 2.0]
    assert f"eps auto ({result['eps']['mean']:.2f} on average)" in summary(result)
    again = load_protocol(str(tmp_path / "out" / "metrics.json"))
    assert again.eps == "auto"


def test_a_training_frame_is_its_own_nearest(prepared):
    train = Windows(prepared, split="train")
    distances, places = nearest_frames(torch.stack([train.frame(2, 5), train.frame(0, 0)]), train)
    assert distances.tolist() == [0, 0]
    assert torch.equal(train.frame(*places[0]), train.frame(2, 5))
    shifted = train.frame(2, 5).clone()
    shifted[0, 0, 0] += 8
    assert float(nearest_frames(shifted[None], train)[0]) == pytest.approx((64 / shifted.numel()) ** 0.5)


def test_batches_have_no_influence(model, prepared, tmp_path):
    one = run(model, prepared, tmp_path / "one", batch=5, feature_batch=9)
    other = run(model, prepared, tmp_path / "other", batch=2, feature_batch=1)
    for name in ("fvd", "kvd"):
        # A network rounds differently at another batch size, and a pixel may fall on the other side of a grey level.
        np.testing.assert_allclose(one[name]["per_window"], other[name]["per_window"], rtol=1e-3)


def test_an_interrupted_run_resumes_at_the_next_video(model, prepared, tmp_path, monkeypatch):
    whole = run(model, prepared, tmp_path / "whole", batch=1)
    calls = []

    def failing_stream(model, first, **settings):
        calls.append(len(first))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return stream(model, first, **settings)

    monkeypatch.setattr("biflow.evaluation.videos.follow", failing_stream)
    with pytest.raises(KeyboardInterrupt):
        run(model, prepared, tmp_path / "out", batch=1)
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 1
    result = run(model, prepared, tmp_path / "out", batch=1)
    assert len(calls) == 2 + 4  # one video, the interruption, and the four that were missing
    assert result["fvd"]["per_window"] == pytest.approx(whole["fvd"]["per_window"], rel=1e-6)


def test_a_damaged_video_and_a_second_evaluation_get_a_sentence(model, prepared, tmp_path):
    run(model, prepared, tmp_path / "out")
    with alone(tmp_path / "out"), pytest.raises(UserError, match=r"^Another command is writing in"):
        run(model, prepared, tmp_path / "out")
    path = tmp_path / "out" / "videos" / "001.npy"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=rf"{path} ends too early. Remove it, and evaluate again"):
        run(model, prepared, tmp_path / "out")


def test_features_of_the_real_set_are_computed_once_for_all_models(model, prepared, tmp_path):
    counted = []
    features = replace(CHEAP, compute=lambda frames: counted.append(len(frames)) or mean_and_motion(frames))
    for out, eps in (("a", 0.0), ("b", 0.1)):
        run(model, prepared, tmp_path / out, replace(PROTOCOL, eps=eps), networks={"i3d": features})
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


@pytest.mark.parametrize("change", [{"spin": 2}, {"context": 1, "context_eps": 0.1}])
def test_a_folder_of_a_model_that_streams_otherwise_is_refused(model, prepared, tmp_path, change):
    run(model, prepared, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "protocol.json").read_text())
    for name in change:
        del record["model"][name]  # as earlier versions wrote it
    (tmp_path / "out" / "protocol.json").write_text(json.dumps(record))
    run(model, prepared, tmp_path / "out")
    with pytest.raises(UserError, match=rf"another model\.{next(iter(change))}"):
        evaluate(replace(load_model(model), **change), prepared, tmp_path / "out", PROTOCOL, networks={"i3d": CHEAP})


def test_weights_that_are_not_averaged_are_not_taken_for_those_that_are(prepared, tmp_path):
    folder = make_model(tmp_path / "model")
    model = load_model(folder)
    averaged = {name: value * 0.9 for name, value in model.weights.state_dict().items()}
    save_model(folder, model, averaged)
    result = run(folder, prepared, tmp_path / "out")
    assert result["protocol"]["model"]["weights"] == "diffusion_pytorch_model.ema.safetensors"
    settings = {"networks": {"i3d": CHEAP}, "progress": False}
    with pytest.raises(UserError, match=r"another model\.sha256"):
        evaluate(load_model(folder, ema=False), prepared, tmp_path / "out", PROTOCOL, **settings)
    raw = evaluate(load_model(folder, ema=False), prepared, tmp_path / "raw", PROTOCOL, **settings)
    assert raw["protocol"]["model"]["weights"] == "diffusion_pytorch_model.safetensors"


def test_settings_that_a_model_cannot_take_leave_the_folder_free(prepared, tmp_path):
    flow = make_model(tmp_path / "flow", "flow")
    with pytest.raises(UserError, match="needs a BI-FLOW model"):
        run(flow, prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(flow, prepared, tmp_path / "out", PROTOCOL_WITHOUT_EPS)


def test_numbers_name_the_commit_that_made_the_videos(model, prepared, tmp_path, monkeypatch):
    for name in ("videos", "protocol"):
        monkeypatch.setattr(f"biflow.evaluation.{name}.commit", lambda: "aaaa")
    assert run(model, prepared, tmp_path / "out")["protocol"]["commit"] == "aaaa"
    for name in ("videos", "protocol"):
        monkeypatch.setattr(f"biflow.evaluation.{name}.commit", lambda: "bbbb")
    again = run(model, prepared, tmp_path / "out")["protocol"]
    assert (again["commit"], again["measured_commit"]) == ("aaaa", "bbbb")
    costs_path(tmp_path / "out", 0).unlink()  # one of them is made anew
    assert run(model, prepared, tmp_path / "out")["protocol"]["commit"] == "aaaa and bbbb"
    for path in (tmp_path / "out" / "costs").iterdir():  # as earlier versions wrote them
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k in ("nfe", "seconds")}))
    assert run(model, prepared, tmp_path / "out")["protocol"]["commit"] == "aaaa"


def test_videos_that_are_made_anew_have_features_of_their_own(model, prepared, tmp_path):
    out, other = tmp_path / "out", Features("other", "none", "none", 4, 2, lambda clips: mean_and_motion(clips) + 1)
    before = run(model, prepared, out)["fvd"]
    video_path(out, 0).unlink()
    run(model, prepared, out, networks={"i3d": replace(CHEAP, compute=other.compute)})  # of the same name
    kept = [path for path in (out / "features" / "i3d").iterdir() if float(load_file(path)["features"].max()) < 1]
    assert len(kept) == 4
    assert run(model, prepared, out)["fvd"] != before


def test_distances_say_how_much_they_compare(model, prepared, tmp_path):
    def tenfold(clips):
        return clips.float().mean((1, 2, 3, 4))[:, None].expand(-1, 100) / 255

    frames = Features("brightness of frames", "none", "none", 100, 1, tenfold, span=1)
    found = run(model, prepared, tmp_path / "out", networks={"inception": frames, "i3d": CHEAP})
    assert found["fvd"]["n"] == {"real": 3, "generated": 5}
    assert found["fid"]["n"] == {"real": 4 * 6, "generated": 5 * 3}  # every second frame
    assert "N = 3 windows are too few for 4 feature dimensions: the covariance is singular and FVD" in found["note"]
    assert "N = 15 frames are too few for 100 feature dimensions: the covariance is singular and FID" in found["note"]


def test_an_evaluation_of_an_earlier_version_resumes(model, prepared, tmp_path):
    result = run(model, prepared, tmp_path / "out")
    path = tmp_path / "out" / "protocol.json"
    record = json.loads(path.read_text())
    for name in ("actions", "short_videos", "truth", "turn"):
        del record["settings"][name]
    path.write_text(json.dumps(record))
    assert run(model, prepared, tmp_path / "out")["fvd"] == result["fvd"]
    record["settings"]["truth"] = [2]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"another settings\.truth"):
        run(model, prepared, tmp_path / "out")


def test_what_does_not_go_together_gets_a_sentence(model, prepared, tmp_path):
    with pytest.raises(UserError, match="the model makes 32x32"):
        run(make_model(tmp_path / "large", size=(32, 32)), prepared, tmp_path / "out")
    with pytest.raises(UserError, match="needs a BI-FLOW model"):
        run(make_model(tmp_path / "flow", "flow"), prepared, tmp_path / "out")
    with pytest.raises(UserError, match="longest clip has 12"):
        run(model, prepared, tmp_path / "other", replace(PROTOCOL, window=13))
    frames = {"frames": Features("FRAMES", "0" * 64, "none", 4, 1, lambda clips: clips.flatten(1)[:, :4], 1)}
    with pytest.raises(UserError, match="FRAMES sees one frame in 8, and windows have 4"):
        run(model, prepared, tmp_path / "few", replace(PROTOCOL, window=4, stride=8, frame_stride=8), networks=frames)
    with pytest.raises(UserError, match="biflow weights fetch i3d"):
        run(model, prepared, tmp_path / "weights", networks=None)
    assert not (tmp_path / "weights").exists()


def test_evenly_spread_windows_reach_both_ends(prepared):
    test = Windows(prepared, split="test")
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
    with pytest.raises(SystemExit):
        cli.main([*common, "--out", str(tmp_path / "other"), "--actions", "still"])
    assert "This model takes no actions" in capsys.readouterr().err
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


class Push(NamedTuple):
    """What the toy network is asked: one more tensor than any query of the package."""

    x: Tensor
    t: Tensor
    wind: Tensor


class Drift(Method):
    """Solves dx/dt = f(x, t, wind) for a wind that is the same in all frames."""

    name, title = "drift", "DRIFT"

    def field(self, network, eps, backward):
        return lambda x, t: network(Push(x, t, torch.full_like(t, -1.0 if backward else 1.0))).v


class Blow(nn.Module):
    """Adds to all pixels what it has learned, in the direction of the wind."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.02))

    def forward(self, push: Push) -> Fields:
        return Fields(torch.ones_like(push.x) * (self.strength * push.wind)[:, None, None, None])


@pytest.mark.parametrize("shape", [(3, 16, 16), None])
def test_a_method_a_network_and_an_engine_of_ones_own_are_evaluated(prepared, tmp_path, shape):
    model, asked = Model(Blow(), Drift(), shape), []

    def engine(push: Push) -> Fields:
        asked.append(push)
        return Fields(torch.full_like(push.x, 0.02) * push.wind[:, None, None, None])

    protocol = replace(PROTOCOL, eps=None, solver=Solver("euler", steps=2))
    settings = {"networks": {"i3d": CHEAP, "mine": CHEAP}, "batch": 5, "progress": False}
    result = evaluate(model, prepared, tmp_path / "plain", protocol, **settings)
    faster = replace(model, network=engine, engine="toy")
    again = evaluate(faster, prepared, tmp_path / "engine", protocol, **settings)
    assert len(asked) == 2 * PROTOCOL.frames
    assert type(asked[0]) is Push
    assert (result["protocol"]["engine"], again["protocol"]["engine"]) == ("torch", "toy")
    assert result["protocol"]["settings"]["eps"] == 0
    record, other = result["protocol"]["model"], again["protocol"]["model"]
    assert [record[key] for key in ("name", "method", "size", "weights")] == ["drift", "drift", [16, 16], "in memory"]
    assert (len(record["sha256"]), other["sha256"]) == (64, None)
    # 14 frames that become brighter by 0.02 of [-1, 1] each.
    first = torch.from_numpy(np.load(tmp_path / "plain" / "first.npy"))
    last = torch.stack([read_video(tmp_path / "plain", i)[-1] for i in range(5)])
    expected = to_uint8((to_float(first) + 14 * 0.02).clamp(-1, 1))
    assert int((last.int() - expected.int()).abs().max()) <= 1
    assert result["over_time"]["motion"]["generated"][0] == pytest.approx(0.02 * 127.5, abs=0.6)
    assert again["fvd"] == result["fvd"]
    assert result["mine_frechet"] == result["fvd"]
    assert result["mine_kernel"] == result["kvd"]
    assert "MINE_FRECHET" in summary(result)


def test_the_model_in_memory_is_known_by_its_weights(prepared, tmp_path):
    settings = {"networks": {"i3d": CHEAP}, "progress": False}
    evaluate(Model(Blow(), Drift()), prepared, tmp_path / "out", PROTOCOL_WITHOUT_EPS, **settings)
    stronger = Blow()
    stronger.strength.data += 0.01
    with pytest.raises(UserError, match=r"another model\.sha256"):
        evaluate(Model(stronger, Drift()), prepared, tmp_path / "out", PROTOCOL_WITHOUT_EPS, **settings)


def test_a_measure_of_ones_own_is_shown_over_time(model, prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(over_time.MEASURES, "red", lambda frames, first: frames[:, 0].double().mean((1, 2)))
    result = run(model, prepared, tmp_path / "out")
    videos = torch.stack([read_video(tmp_path / "out", i) for i in range(5)]).double()
    red = result["over_time"]["red"]
    assert red["generated"] == pytest.approx(videos[:, :, 0].mean((0, 2, 3)).tolist(), abs=1e-5)
    test = Windows(prepared, split="test")
    real = torch.cat([test.clip(c)[1:, 0].double().mean((1, 2)) for c in range(len(test.clips))])
    assert red["real"] == pytest.approx(real.mean().item(), abs=1e-5)


def test_videos_are_those_of_the_stream(model, prepared, tmp_path):
    run(model, prepared, tmp_path / "out", batch=2)
    first = torch.from_numpy(np.load(tmp_path / "out" / "first.npy"))[2:4]
    settings = {"eps": 0.1, "solver": PROTOCOL.solver, "generators": sample_generators(0, [2, 3])}
    frames = to_uint8(generate(load_model(model), to_float(first), frames=14, **settings))
    assert torch.equal(torch.stack([read_video(tmp_path / "out", i) for i in (2, 3)]), frames)


def test_a_frame_that_cannot_be_solved_is_named(prepared, tmp_path):
    def fails_later(push: Push) -> Fields:
        return Fields(torch.where(push.x.mean() < 1.5, 1.0, torch.nan) * torch.ones_like(push.x))

    model = Model(fails_later, Drift(), limits=None)
    with pytest.raises(UserError, match=r"^Frame \d+ could not be solved: "):
        evaluate(model, prepared, tmp_path, PROTOCOL_WITHOUT_EPS, networks={"i3d": CHEAP}, progress=False)


def test_costs_are_means_over_videos_and_the_largest_of_each_frame(tmp_path):
    (tmp_path / "costs").mkdir()
    protocol = replace(PROTOCOL, samples=3, frames=6, window=6, resamples=400)
    for sample, nfe in enumerate(([2, 2, 4, 2, 2, 2], [3, 3, 3, 3, 3, 3], [4, 2, 2, 2, 2, 2])):
        content = {"nfe": nfe, "seconds": 0.6}
        costs_path(tmp_path, sample).write_text(json.dumps(content))
    found = costs(tmp_path, protocol)
    assert found["nfe"]["mean"] == pytest.approx(46 / 18)
    assert found["nfe"]["batch_max"] == pytest.approx((4 + 3 + 4 + 3 + 3 + 3) / 6)
    assert found["nfe"]["interval"] == pytest.approx([7 / 3, 3])  # all draws of one kind of video are likely enough
    assert found["seconds_per_frame"] == pytest.approx(0.1)
