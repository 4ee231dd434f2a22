import json

import numpy as np
import pytest
import torch

from biflow.cli import main
from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.data.rates import at_rate, most_common
from biflow.data.windows import Windows
from tests.making_films import grey, write_film


def taken(times, own, fps):
    """Indices of the frames that are taken from a clip whose frames are shown at `times`, of which the last ends it."""
    stamps = []

    def frames():
        for time in times[:-1]:
            stamps.append(time)
            yield torch.zeros(3, 1, 1, dtype=torch.uint8)
        stamps.append(times[-1])

    return [index for index, _ in at_rate(frames(), stamps, float(own), float(fps))]


def jitter(count, fps):
    """Time stamps that are rounded to milliseconds, as in mkv and webm."""
    return [round(i / fps, 3) for i in range(count + 1)]


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("own", [60, 59.94, 50, 30])
def test_a_whole_multiple_takes_every_nth_frame(own, every):
    assert taken(jitter(600, own), own, own / every) == list(range(0, 600, every))


@pytest.mark.parametrize(("own", "fps", "period"), [(15, 30, 2), (10, 30, 3), (60, 24, 2), (24, 60, 5)])
def test_other_rates_repeat_or_leave_out_evenly(own, fps, period):
    indices = taken(jitter(300, own), own, fps)
    assert indices[0] == 0
    assert len(indices) == pytest.approx(300 * fps / own, abs=1)
    steps = np.array(indices[period:]) - indices[:-period]
    assert set(steps.tolist()) == {round(period * own / fps)}


def test_a_rate_within_a_percent_keeps_all_frames():
    assert taken(jitter(3000, 29.97), 29.97, 30) == list(range(3000))


def test_a_frame_is_shown_until_the_next_one():
    assert taken([0, 0.1, 0.2, 0.7, 0.8], 10, 10) == [0, 1, 2, 2, 2, 2, 2, 3]


def test_clips_do_not_have_to_begin_at_zero():
    assert taken([5 + i / 30 for i in range(31)], 30, 10) == list(range(0, 30, 3))


def test_clips_of_unknown_rate_keep_their_frames():
    frames = [torch.zeros(3, 1, 1, dtype=torch.uint8)] * 4
    assert [index for index, _ in at_rate(frames, None, None, 10.0)] == [0, 1, 2, 3]


def test_the_most_common_rate():
    assert most_common([30.0, 60.0, 30.0, None]) == 30
    assert most_common([60.0, 30.0]) == 30
    assert most_common([60.0, 60.0, 60.0, 29.97, 30.0, 29.97, 30.0]) == 29.97  # 29.97 and 30 are one rate
    assert most_common([None, None]) is None


@pytest.fixture
def mixed(tmp_path):
    """A level that rises by 60 in a second, in films of four rates; one of them slows down in the middle."""
    stamps = {"a": np.arange(30) / 30, "b": np.arange(30) / 30, "fast": np.arange(60) / 60, "slow": np.arange(15) / 15}
    stamps["phone"] = np.r_[np.arange(10) / 30, 1 / 3 + np.arange(3) / 9, 2 / 3 + np.arange(10) / 30]
    (tmp_path / "src").mkdir()
    for name, times in stamps.items():
        pictures = [grey(round(40 + 60 * time)) for time in times]
        fps = {"fast": 60, "slow": 15}.get(name, 30)
        write_film(tmp_path / "src" / f"{name}.mp4", pictures, fps=fps, times=times, options={"crf": "1", "bf": "0"})
    rows = {"fast.mp4": [[i] for i in range(60)], "slow.mp4": [[i] for i in range(15)]}
    (tmp_path / "src" / "actions.json").write_text(json.dumps({"actions": rows, "resample": ["hold"]}))
    return tmp_path / "src"


@pytest.mark.parametrize("fps", [None, 10.0])
def test_all_clips_are_brought_to_one_rate_with_their_actions(tmp_path, mixed, caplog, fps):
    index = prepare(Prepare(mixed, tmp_path / "out", size=16, fps=fps, split=1.0), progress=False)
    rate, clips = fps or 30.0, Windows(tmp_path / "out", "all")
    rows = np.load(tmp_path / "out" / "actions.npy")
    for i, entry in enumerate(index["clips"]):
        levels = clips.clip(i)[:, 0, 8, 8].float().numpy()
        assert entry["fps"] == rate
        assert entry["frames"] == rate
        held = 60 / 9 if entry["name"] in ("phone.mp4", "slow.mp4") else 60 / 30  # the level steps by this in the film
        assert np.abs(levels - (40 + 60 * np.arange(len(levels)) / rate)).max() < held + 2.5
        own = rows[entry["start"] : entry["start"] + entry["frames"] - 1, 0]
        if entry["name"] == "fast.mp4":
            assert own.tolist() == [60 / rate * k for k in range(int(rate) - 1)]
        elif entry["name"] == "slow.mp4":
            doubled = [*(k // 2 for k in range(28)), np.nan]  # what came after the last frame is not known
            np.testing.assert_array_equal(own, doubled if fps is None else [0, 1, 3, 4, 6, 7, 9, 10, 12])
        else:
            assert np.isnan(own).all()
    count = {None: "3 of 5", 10.0: "5 of 5"}[fps]
    assert f"brought to {rate:g} frames per second; {count} were resampled" in caplog.text


@pytest.mark.parametrize("actions", [True, False])
def test_a_film_of_one_frame_is_no_clip_at_a_higher_rate_either(tmp_path, actions):
    (tmp_path / "src").mkdir()
    for name, frames, fps in (("a", 20, 30), ("b", 20, 30), ("one", 1, 10)):
        pictures = [grey(10 * i) for i in range(frames)]
        write_film(tmp_path / "src" / f"{name}.mp4", pictures, fps=fps, times=np.arange(frames) / fps)
    if actions:
        (tmp_path / "src" / "one.csv").write_text("gas\n1\n")
        (tmp_path / "src" / "a.csv").write_text("gas\n" + "1\n" * 20)
    index = prepare(Prepare(tmp_path / "src", tmp_path / "out", size=16), progress=False)
    assert [entry["name"] for entry in index["clips"]] == ["a.mp4", "b.mp4"]
    assert [entry["why"] for entry in index["skipped"]] == ["one.mp4 has 1 frame at stride 1. A clip needs 2."]


def test_native_keeps_every_frame_and_names_clips_that_differ(tmp_path, mixed, caplog):
    index = prepare(Prepare(mixed, tmp_path / "out", size=16, fps="native"), progress=False)
    frames = {entry["name"]: (entry["frames"], entry["fps"]) for entry in index["clips"]}
    assert frames["fast.mp4"] == (60, 60.0)
    assert frames["slow.mp4"] == (15, 15.0)
    assert "3 of 5 differ: fast.mp4 (60 frames per second), phone.mp4 (uneven, 30" in caplog.text


def test_prepare_shows_what_was_prepared(tmp_path, mixed, capsys):
    (mixed / "broken.mp4").write_text("not a film")
    main(["prepare", str(mixed), str(tmp_path / "out"), "--size", "16"])
    printed = capsys.readouterr().out
    assert "resampled  fast.mp4: 60 frames at 60 frames per second, now 30 at 30" in printed
    assert "skipped    broken.mp4: " in printed
    assert "sheet.png" in printed
    from biflow.video import read_image

    sheet = read_image(tmp_path / "out" / "sheet.png")
    assert sheet.shape[1] > 5 * 128  # a row for each clip


def test_a_single_film_that_is_cut_in_two_is_one_film(tmp_path, capsys):
    write_film(tmp_path / "a.mp4", [grey(90)] * 30, fps=25)
    main(["prepare", str(tmp_path / "a.mp4"), str(tmp_path / "out"), "--size", "16", "--fps", "10"])
    printed = capsys.readouterr().out
    assert printed.count("resampled") == 1
    assert "resampled  a.mp4: 30 frames at 25 frames per second, now 12 at 10 frames per second" in printed
