"""The whole of an evaluation in a world whose right answers are known (ring.py)."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation import actions, control, metrics, past_and_actions, videos
from biflow.evaluation.evaluate import evaluate, summary
from biflow.evaluation.jobs import Evaluation
from biflow.evaluation.videos import read_video

from . import ring


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return ring.make_set(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(control.SETTINGS, "steps", 120)
        yield


def run(model, prepared, out, protocol=ring.PROTOCOL, **settings):
    return evaluate(model, prepared, out, protocol, **{"networks": ring.NETWORKS, "progress": False, **settings})


@pytest.fixture(scope="module")
def obedient(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("obedient")
    return run(ring.model(), prepared, out), out


@pytest.fixture(scope="module")
def sleepy(prepared, tmp_path_factory):
    return run(ring.model(ring.sleeps), prepared, tmp_path_factory.mktemp("sleepy"))


def test_videos_are_made_under_the_clips_own_actions(obedient, prepared):
    result, out = obedient
    assert result["protocol"]["settings"]["actions"] == "data"
    test = Windows(prepared, split="test")
    first = np.load(out / "first.npy")
    clips = [test.clip(number).numpy() for number in range(6)]
    for sample in range(4):
        video = read_video(out, sample).numpy()
        # The ring comes back to the same frame, so that a first frame may stand at several places.
        places = [(clip, i) for clip in clips for i in range(23) if (clip[i] == first[sample]).all()]
        assert any((video[: len(clip) - i - 1] == clip[i + 1 : i + 1 + len(video)]).all() for clip, i in places)


def test_a_model_that_obeys_has_full_control_and_one_that_sleeps_has_none(obedient, sleepy):
    good, bad = obedient[0]["past_and_actions"]["control"], sleepy["past_and_actions"]["control"]
    assert good["real"] == bad["real"] > 0.9
    assert good["over_real"] == pytest.approx(1, abs=0.08)
    assert good["interval"][0] <= good["over_real"] <= good["interval"][1]
    assert bad["over_real"] < 0.8
    assert bad["above_chance"] < 0.3 < 0.8 < good["above_chance"]
    assert good["protocol"]["pairs"] == {"generated": 4 * 30, "real": 6 * 6}
    assert good["columns"].keys() == {"move", "turn"}
    mean = np.mean([part["generated"] for part in good["columns"].values()])
    assert good["generated"] == pytest.approx(mean)
    assert good["protocol"]["classes"]["turn"] == {"classes": "values", "edges": [-0.5, 0.5]}


def test_a_model_that_obeys_is_true_and_one_that_is_not_told_copies_the_first_frame(obedient, sleepy):
    good, bad = obedient[0]["past_and_actions"]["truth"], sleepy["past_and_actions"]["truth"]
    assert good["frames"] == [1, 4, 8]
    assert good["psnr"]["model"]["mean"] == pytest.approx([58.92] * 3, abs=0.01)
    assert good["ssim"]["model"]["mean"] == pytest.approx([1] * 3)
    assert good["lpips"]["model"]["mean"] == [0] * 3
    for name in ("psnr", "ssim", "lpips"):
        assert good[name]["dropped"] == good[name]["copy"] == bad[name]["model"]
        ahead = np.subtract(good[name]["model"]["mean"], good[name]["copy"]["mean"])
        assert good[name]["model_minus_copy"]["mean"] == pytest.approx(ahead.tolist())
        assert bad[name]["model_minus_dropped"]["mean"] == [0] * 3
    assert good["psnr"]["copy"]["mean"][-1] < 40
    assert good["lpips"]["copy"]["mean"][-1] > 1


def test_a_model_that_obeys_turns_away_and_comes_back(obedient, sleepy):
    good, bad = obedient[0]["past_and_actions"]["turning"], sleepy["past_and_actions"]["turning"]
    assert (good["back"], bad["back"], bad["away"]) == (0, 0, 0)
    assert good["away"] > 0.1
    assert good["protocol"]["script"] == "left*3 right*3"
    assert good["real"]["turns"] >= 6  # every clip has one
    assert good["real"]["back"] == 0
    assert good["real"]["away"] > 0.1


def test_the_usual_turn_is_left_out_with_a_sentence_where_no_clip_turns(prepared, tmp_path, monkeypatch):
    protocol = replace(ring.PROTOCOL, turn=None)
    result = run(ring.model(), prepared, tmp_path / "none", protocol)
    parts = result["past_and_actions"]
    assert "turning" not in parts
    sentence = "Turning back is left out, as no test clip turns away and back as left*22 right*22 does."
    assert parts["notes"] == [sentence]
    assert summary(result).endswith(sentence)
    assert not (tmp_path / "none" / "turn").exists()
    parts = run(ring.model(), prepared, tmp_path / "asked", replace(protocol, turn="left*22 right*22"))
    assert parts["past_and_actions"]["turning"]["real"] is None
    assert not parts["past_and_actions"]["notes"]
    monkeypatch.setattr(actions, "USUAL_TURN", "left*3 right*3")
    parts = run(ring.model(), prepared, tmp_path / "usual", protocol)["past_and_actions"]
    assert parts["turning"]["real"]["turns"] >= 6
    assert not parts["notes"]


def test_palette_motion_and_grid_are_those_of_real_clips_or_not(obedient, sleepy):
    good, bad = obedient[0]["past_and_actions"], sleepy["past_and_actions"]
    for name in ("generated", "real", "changes"):
        assert good["palette"][name] == bad["palette"][name] == 0
    assert good["palette"]["over_real"] == 1
    assert good["palette"]["protocol"]["palettes"] == 3
    assert good["motion"]["over_real"] == pytest.approx(1, abs=0.3)
    assert bad["motion"]["over_real"] == bad["motion"]["last_over_real"] == 0
    over_time = obedient[0]["over_time"]["grid"]
    assert good["grid"]["generated"] == pytest.approx(np.mean(over_time["generated"]), rel=1e-3)
    assert good["grid"]["over_real"] == pytest.approx(np.mean(over_time["generated"]) / over_time["real"], rel=1e-3)
    assert good["grid"]["last_over_real"] == pytest.approx(
        np.mean(over_time["generated"][-16:]) / over_time["real"], rel=1e-3
    )
    assert good["grid"]["protocol"]["period"] == 2
    assert good["motion"]["interval"][0] <= good["motion"]["over_real"] <= good["motion"]["interval"][1]


def paints(query):
    """Turns each frame into the next colour: a palette change at every frame would be one after 8 frames only."""
    told = query.action[:, 2:3, None, None] != 0
    return ring.Fields(torch.where(told, query.x.roll(1, 1) - query.x, torch.zeros_like(query.x)))


def test_palette_changes_are_counted_and_compared_with_one_more_in_both(prepared, tmp_path):
    # Every tenth action paints: a change after 10 frames, 20 and 30, of which the last stays for a frame only.
    protocol = replace(ring.PROTOCOL, actions="still*9 left", short_videos=0)
    part = run(ring.model(paints), prepared, tmp_path, protocol)["past_and_actions"]["palette"]
    assert part["changes"] == 4 * 2
    assert part["generated"] == pytest.approx(100 * 2 / 30)
    assert part["over_real"] == 9
    assert part["interval"] == pytest.approx([100 * 2 / 30] * 2)


@pytest.mark.usefixtures("unchecked")
def test_videos_like_the_real_clips_have_their_rate_of_palette_changes(monkeypatch):
    clip = torch.zeros(16, 3, 1, 1, dtype=torch.uint8)
    clip[8:] = 1
    palettes = SimpleNamespace(of=lambda frames: frames[:, 0, 0, 0].long(), centres=[0, 1], silhouette=0.9)
    monkeypatch.setattr(past_and_actions.palette, "load_palettes", lambda *_: palettes)

    class Same(list):
        frames = 15  # beside the first one, which is real

        def whole(self, i):
            return self[i]

    test, protocol = SimpleNamespace(clips=[{}], clip=lambda number: clip), replace(ring.PROTOCOL)
    evaluation = SimpleNamespace(test=test, videos=Same([clip, clip]), protocol=protocol)
    part = past_and_actions._palette(evaluation, None, {"sha256": "0"})
    assert part["generated"] == part["real"] == pytest.approx(100 / 15)
    assert part["over_real"] == pytest.approx(1)


def test_metrics_are_left_out_where_they_do_not_apply(prepared, tmp_path):
    names = run(ring.model(), prepared, tmp_path / "a", replace(ring.PROTOCOL, actions="still"))["past_and_actions"]
    assert names.keys() == {"truth", "palette", "turning", "motion", "grid", "notes"}
    protocol = replace(ring.PROTOCOL, direction="backward")
    names = run(ring.model(), prepared, tmp_path / "b", protocol)["past_and_actions"]
    assert names.keys() == {"palette", "motion", "grid", "notes"}
    without = ring.model(ring.sleeps, actions=None)
    result = run(without, prepared, tmp_path / "c")
    assert result["past_and_actions"].keys() == {"palette", "motion", "grid", "notes"}
    assert result["protocol"]["settings"]["actions"] is None
    assert not (tmp_path / "c" / "turn").exists()


def test_without_the_weights_lpips_is_left_out_with_a_sentence(prepared, tmp_path):
    result = run(ring.model(), prepared, tmp_path, networks={"i3d": ring.CHEAP})
    parts = result["past_and_actions"]
    assert "turning" not in parts
    assert parts["truth"].keys() >= {"psnr", "ssim"}
    assert "lpips" not in parts["truth"]
    assert "biflow weights fetch lpips" in parts["notes"][0]
    assert summary(result).endswith(parts["notes"][0])


def test_a_truth_that_clips_are_too_short_for_is_left_out_with_a_sentence(prepared, tmp_path, caplog):
    result = run(ring.model(), prepared, tmp_path, replace(ring.PROTOCOL, truth=(1, 24)))
    assert "truth" not in result["past_and_actions"]
    assert "Truth is left out" in caplog.text
    assert "24 are needed" in caplog.text


def test_measures_over_time_read_each_video_once(obedient, prepared, monkeypatch):
    read, out = [], obedient[1]
    first = torch.from_numpy(np.load(out / "first.npy"))
    monkeypatch.setattr(videos, "read_video", lambda out, sample: read.append(sample) or read_video(out, sample))
    theirs = videos.Videos(out, first[:, None], None, 30, np.zeros((4, 2), int))
    test = Windows(prepared, split="test")
    metrics.frames(Evaluation(ring.PROTOCOL, {}, test, theirs, {}, 2, out))
    assert read == [0, 1, 2, 3]


def test_short_videos_resume(prepared, tmp_path, monkeypatch, obedient):
    asked = []

    def counts(query):
        asked.append(len(query.x))
        return ring.obeys(query)

    # The second video of the turn is the last thing to do.
    def interrupted(path, content, **settings):
        if "turn" in path.parts and path.name == "001.json":
            raise KeyboardInterrupt
        return write(path, content, **settings)

    write = videos.write_json
    monkeypatch.setattr(videos, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(ring.model(counts), prepared, tmp_path, batch=1)
    monkeypatch.setattr(videos, "write_json", write)
    asked.clear()
    result = run(ring.model(counts), prepared, tmp_path, batch=1)
    assert len(asked) == 2 * 6  # two videos of six frames
    assert result["past_and_actions"] == obedient[0]["past_and_actions"]


def test_the_numbers_are_in_the_file_and_in_the_summary(obedient):
    result, out = obedient
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(result))
    text = summary(result)
    for start in ("Control ", "Truth: PSNR", "Palette changes 0.000", "Turned away and back: ", "Motion ", "Grid "):
        assert f"\n{start}" in text
    assert "actions data" in text


def test_a_file_of_actions_is_part_of_the_protocol(prepared, tmp_path):
    file, out = tmp_path / "walk.csv", tmp_path / "out"
    file.write_text("move,turn\n1,1\n")
    protocol = replace(ring.PROTOCOL, actions=str(file), short_videos=0)
    record = run(ring.model(), prepared, out, protocol)["protocol"]
    assert record["settings"]["actions"] == str(file)
    assert record["actions_file"]["name"] == "walk.csv"
    video, first = read_video(out, 0).numpy(), np.load(out / "first.npy")
    np.testing.assert_array_equal(video[1], ring.roll(ring.roll(first[0], 1, 1), 1, 1))
    run(ring.model(), prepared, out, protocol)  # the same again
    file.write_text("move,turn\n1,0\n")
    with pytest.raises(UserError, match=r"another actions_file\.sha256"):
        run(ring.model(), prepared, out, protocol)


def test_another_evaluation_s_actions_are_refused(obedient, prepared):
    with pytest.raises(UserError, match=r"another settings\.actions"):
        run(ring.model(), prepared, obedient[1], replace(ring.PROTOCOL, actions="none"))


class Watching:
    """Notes how many past frames there are, and of which level."""

    def __init__(self):
        self.known = []

    def __call__(self, query):
        self.known.append((query.past_noise >= 0).sum(1).tolist())
        return ring.obeys(query)


def test_a_model_with_context_starts_with_its_past(prepared, tmp_path):
    network = Watching()
    run(ring.model(network, context=2), prepared, tmp_path, batch=4)
    counts = [count for counts in network.known for count in counts]
    assert set(counts) == {2}
