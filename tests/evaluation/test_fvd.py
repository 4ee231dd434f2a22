import hashlib
import json
from importlib.metadata import version

import numpy as np
import pytest
import torch

from biflow import cli
from biflow.config import Fvd
from biflow.errors import UserError
from biflow.evaluation import fvd
from biflow.evaluation.distances import frechet_distance
from biflow.evaluation.fvd import summary
from biflow.evaluation.networks import features as networks
from biflow.evaluation.networks import i3d
from biflow.evaluation.networks.features import Features
from biflow.video import VideoWriter


def mean_and_motion(frames):
    """A cheap stand-in: mean colour and mean change of each window."""
    x = frames.float() / 255
    return torch.cat([x.mean((1, 3, 4)), x.diff(dim=1).abs().mean((1, 2, 3, 4))[:, None]], 1)


CHEAP = Features("mean colours", "none", "none", 4, 10, mean_and_motion)


def compare(real, fake, features, **settings):
    return fvd.compare(Fvd(real, fake, **settings), features, resamples=20, progress=False)


@pytest.fixture
def sets(tmp_path):
    """Two folders of noise, five videos of 24 frames each, the second one brighter."""
    for folder, low in (("real", 0), ("fake", 90)):
        rng = np.random.default_rng(low)
        (tmp_path / folder).mkdir()
        for video in range(5):
            level = rng.integers(low, low + 60)
            frames = rng.integers(level, level + 90, (24, 8, 8, 3), dtype=np.uint8)
            np.save(tmp_path / folder / f"{video}.npy", frames)
    return tmp_path / "real", tmp_path / "fake"


def test_the_distance_is_that_of_the_windows_cut_by_hand(sets):
    result = compare(*sets, CHEAP, window=12, stride=6)
    assert result["windows"] == {"real": 15, "fake": 15}
    parts = []
    for folder in sets:
        videos = [torch.from_numpy(np.load(folder / f"{i}.npy")).permute(0, 3, 1, 2) for i in range(5)]
        windows = torch.stack([video[start : start + 12] for video in videos for start in (0, 6, 12)])
        parts.append(mean_and_motion(windows))
    assert result["fvd"]["value"] == pytest.approx(frechet_distance(*parts), rel=1e-6)
    assert result["fvd"]["interval"][0] < result["fvd"]["value"] < result["fvd"]["interval"][1]
    assert result["kvd"]["standard_error"] > 0


def test_a_set_is_at_no_distance_from_itself(sets):
    result = compare(sets[0], sets[0], CHEAP, window=12, stride=6)
    assert result["fvd"]["value"] == pytest.approx(0, abs=1e-6)


def test_the_batch_has_no_influence(sets):
    numbers = []
    for batch in (1, 4, 100):
        result = compare(*sets, CHEAP, window=12, stride=6, batch=batch)
        numbers.append([result["fvd"]["value"], result["kvd"]["value"], *result["fvd"]["interval"]])
    np.testing.assert_allclose(numbers[1:], [numbers[0]] * 2, rtol=1e-6)


def test_the_protocol_says_all_that_the_number_depends_on(sets):
    result = compare(*sets, CHEAP, window=12, stride=6, size=4, seed=3)
    protocol = json.loads(json.dumps(result))["protocol"]
    assert protocol["features"] == {"name": "mean colours", "sha256": "none", "dim": 4, "preprocessing": "none"}
    assert [protocol[key] for key in ("window", "stride", "size")] == [12, 6, 4]
    assert "4x4, bicubic" in protocol["resize"]
    assert protocol["bootstrap"]["seed"] == 3
    real = protocol["real"]
    assert (real["videos"], real["frames"], real["too_short"], real["frame_size"]) == (5, 120, 0, [8, 8])
    assert protocol["commit"]
    assert protocol["versions"]["torch"] == version("torch")


def test_few_windows_give_a_warning_in_result_and_line(sets):
    assert compare(*sets, CHEAP, window=12, stride=6)["note"] is None
    wide = Features("wide", "none", "none", 30, 10, lambda x: mean_and_motion(x).repeat(1, 8)[:, :30])
    result = compare(*sets, wide, window=12, stride=6)
    assert "N = 15 windows" in result["note"]
    assert "singular" in result["note"]
    assert "KVD is more reliable" in summary(result)
    assert "from 15 real and 15 fake windows" in summary(result)


def test_a_set_of_one_video_gives_a_warning(sets):
    result = compare(sets[0], sets[1] / "0.npy", CHEAP, window=12, stride=3)
    assert result["protocol"]["bootstrap"]["redrawn"] == {"real": "videos", "fake": "windows"}
    assert "The fake set is a single video" in result["note"]


@pytest.mark.parametrize(
    ("options", "setting", "sentence"),
    [
        ({"window": 8}, "window", "at least 10 frames, not 8"),
        ({"window": 32}, "window", r"real gives 0 windows of 32 frames.*smaller window"),
        ({"stride": 0}, None, "stride is 0"),
    ],
)
def test_impossible_windows_are_refused(sets, options, setting, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        compare(*sets, CHEAP, **options)
    assert setting is None or refused.value.setting == setting


def test_sets_of_two_sizes_are_refused_before_any_work(sets, tmp_path):
    (tmp_path / "small").mkdir()
    np.save(tmp_path / "small" / "0.npy", np.zeros((24, 4, 4, 3), np.uint8))
    never = Features("never", "none", "none", 4, 10, lambda frames: pytest.fail("work was done"))
    with pytest.raises(UserError, match=r"real has frames of 8x8, and .*small has frames of 4x4; ") as refused:
        compare(sets[0], tmp_path / "small", never, window=12)
    assert refused.value.setting == "size"
    assert compare(sets[0], tmp_path / "small", CHEAP, window=12, stride=6, size=4)["fvd"]["value"] > 0


def test_mixed_frame_rates_are_refused_unless_allowed(tmp_path):
    rng = np.random.default_rng(0)
    for name, fps in (("real", 10), ("fake", 25)):
        for number in range(2):
            with VideoWriter(tmp_path / name / f"{number}.mp4", fps, (16, 16)) as video:
                for _ in range(12):
                    video.write(torch.from_numpy(rng.integers(0, 255, (3, 16, 16), dtype=np.uint8)))
    never = Features("never", "none", "none", 4, 10, lambda frames: pytest.fail("work was done"))
    with pytest.raises(UserError, match=r"have 10 to 25 frames per second.*mixed rates") as refused:
        compare(tmp_path / "real", tmp_path / "fake", never, window=12)
    assert refused.value.setting == "mixed_rates"
    result = compare(tmp_path / "real", tmp_path / "fake", CHEAP, window=12, mixed_rates=True)
    assert result["protocol"]["mixed_rates"]
    assert (result["protocol"]["real"]["fps"], result["protocol"]["fake"]["fps"]) == ([10], [25])


def test_features_that_are_not_finite_are_refused(sets):
    broken = Features("broken", "none", "none", 4, 10, lambda frames: torch.full((len(frames), 4), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        compare(*sets, broken, window=12)


def test_the_verb_writes_the_file_and_prints_the_numbers(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("biflow.evaluation.networks.features.i3d_features", lambda device: CHEAP)
    out = tmp_path / "new" / "result.json"
    cli.main(["fvd", *map(str, sets), "--window", "12", "--stride", "6", "--json", str(out)])
    assert json.loads(out.read_text())["protocol"]["window"] == 12
    printed = capsys.readouterr().out
    assert printed.startswith("FVD ")
    assert str(out) in printed


def test_without_weights_the_verb_names_the_command_that_gets_them(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["fvd", *map(str, sets)])
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "run: biflow weights fetch i3d" in errors


def test_the_weights_verb_takes_a_file_and_refuses_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", "fetch", "i3d", "--archive", str(tmp_path / "other.tar.gz")])
    assert stop.value.code == 2
    out, errors = capsys.readouterr()
    assert "47 MB" in out
    assert "sha256" in errors


class StandIn(torch.nn.Module):
    """Called as i3d_torchscript.pt is, with features that tell how."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert not rescale
        assert not resize
        assert return_features
        return x[:, :, :10].mean((3, 4)).flatten(1).repeat(1, 14)[:, :400]


@pytest.fixture
def torchscript(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(StandIn()).save(str(path))
    return path


@pytest.mark.parametrize("known_by", ["sha256", "git"])
def test_the_usual_torchscript_is_taken_where_the_user_has_it(sets, torchscript, tmp_path, monkeypatch, known_by):
    content = torchscript.read_bytes()
    if known_by == "git":
        blob = b"blob " + str(len(content)).encode() + b"\0" + content
        monkeypatch.setattr(networks, "TORCHSCRIPT_SHA1", hashlib.sha1(blob).hexdigest())
    else:
        monkeypatch.setattr(networks, "TORCHSCRIPT_SHA256", hashlib.sha256(content).hexdigest())
    out = tmp_path / "result.json"
    options = ["--features", str(torchscript), "--window", "12", "--stride", "12", "--json", str(out)]
    cli.main(["fvd", *map(str, sets), *options])
    said = json.loads(out.read_text())["protocol"]["features"]
    assert (said["name"], said["dim"]) == ("I3D, Kinetics-400 logits (i3d_torchscript.pt)", 400)
    assert said["sha256"] == hashlib.sha256(content).hexdigest()
    frames = torch.randint(256, (2, 12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = networks.torchscript_features(torchscript, torch.device("cpu")).compute(frames)
    torch.testing.assert_close(features[:, :30].view(2, 3, 10), i3d.preprocess(frames)[:, :, :10].mean((3, 4)))


def test_another_torchscript_is_refused_unread(sets, torchscript, monkeypatch, capsys):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
    for path, sentence in ((torchscript, "it is damaged or not the usual"), ("no/such.pt", "There are no features")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["fvd", *map(str, sets), "--features", str(path)])
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert sentence in errors
