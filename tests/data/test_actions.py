import json
import logging
import zipfile

import numpy as np
import pytest
import torch

from biflow.data.action_set import resample
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.video import VideoWriter
from tests.action_clips import STEPS, array, images, png, rows, run, same, write
from tests.command_line import printed

# Forms of files


@pytest.mark.parametrize("names", [("walk", "ride"), ("walk", "ride.npy")])
@pytest.mark.parametrize("more", [[], [[9.0, 9.0]]], ids=["4 rows", "5 rows"])
def test_actions_json_names_clips_with_or_without_their_ending(src, names, more):
    write(src / "actions.json", dict.fromkeys(names, STEPS + more))
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.columns == ("action_0", "action_1")
    assert windows.actions.ranges == ((0, 1), (-1, 1))  # the row after the last frame says nothing
    for got in rows(windows).values():
        same(got, *STEPS)
    assert np.load(src.parent / "out" / "actions.npy").dtype == np.float32


def test_actions_json_may_describe_its_columns(src):
    content = {"columns": ["gas", "steer"], "ranges": [[0, 2], [-4, 4]], "keys": {"hard-left": {"steer": -4}}}
    content |= {
        "resample": ["mean", "hold"],
        "fps": 20,
        "note": "from a car",
        "actions": {"walk": STEPS, "ride": STEPS},
    }
    write(src / "actions.json", content)
    windows = run(src)
    described = {"columns": ["gas", "steer"], "ranges": [[0, 2], [-4, 4]], "keys": {"hard-left": {"steer": -4}}}
    assert windows.index["actions"] == {**described, "resample": ["mean", "hold"]}
    assert [clip["fps"] for clip in windows.clips] == [20, 20]
    assert [clip["fps"] for clip in run(src, fps=10.0).clips] == [10, 10]


@pytest.mark.parametrize("name", ["walk.csv", "walk.json", "walk/actions.csv", "walk/actions.json"])
def test_a_file_for_one_clip(src, name):
    text = "gas,steer\n" + "\n".join(f"{gas},{steer}" for gas, steer in STEPS)
    write(src / name, text if name.endswith("csv") else {"columns": ["gas", "steer"], "actions": STEPS})
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.columns == ("gas", "steer")
    got = rows(windows)
    same(got["walk"], *STEPS)
    assert np.isnan(got["ride.npy"]).all()
    assert [clip["actions"] for clip in windows.clips] == [clip["name"] == "walk" for clip in windows.clips]


def test_a_bare_list_and_a_csv_without_a_header(src):
    write(src / "walk.json", [-3, 0, 3, 1])
    write(src / "ride.csv", "-1\n\n2\n0\n1\n")
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.columns == ("action_0",)
    assert windows.actions.ranges == ((-3, 3),)
    same(rows(windows)["ride.npy"], [-1], [2], [0], [1])


def test_a_header_of_column_numbers_is_no_action(src):
    write(src / "ride.csv", "0,1\n" + "\n".join(f"-0.{i},0.5" for i in range(4)))  # as pandas names no columns
    got = rows(run(src))["ride.npy"]
    same(got, *([-0.1 * i, 0.5] for i in range(4)))
    write(src / "ride.csv", "0,1\n1,1\n0,0\n1,0")  # but these may be four actions
    same(rows(run(src))["ride.npy"], [0, 1], [1, 1], [0, 0], [1, 0])


def test_columns_that_count_frames_are_no_actions(src, caplog):
    lines = [f"{i},{gas},{steer},{i / 10}" for i, (gas, steer) in enumerate(STEPS)]
    write(src / "walk.csv", "\n".join(["Frame,gas,steer,timestamp", *lines]))
    windows = run(src)
    assert windows.actions.columns == ("gas", "steer")
    assert rows(windows)["walk"][:4] == STEPS
    assert "walk.csv has columns that only count frames, which are left out: Frame, timestamp." in caplog.text


def test_the_index_that_pandas_writes_is_no_action(src, caplog):
    lines = [f"{i},{gas},{steer}" for i, (gas, steer) in enumerate(STEPS)]
    write(src / "walk.csv", "\n".join([",gas,steer", *lines]))
    assert run(src).actions.columns == ("gas", "steer")
    assert "which are left out: one without a name." in caplog.text


@pytest.mark.parametrize("name", ["walk_actions.csv", "Actions.json", "WALK.CSV", "action.csv"])
def test_a_file_that_has_nearly_the_name_of_actions_is_named(name, src, caplog):
    write(src / name, "gas\n0\n1\n")
    assert run(src).actions is None
    assert f"Not read as actions: {name}. Such a file is called actions, or as its clip." in caplog.text


def test_a_table_of_something_else_is_not_mentioned(src, caplog):
    write(src / "transactions.csv", "price\n1\n")
    assert run(src).actions is None
    assert "transactions" not in caplog.text


@pytest.mark.parametrize("column", ["0,1,0,1", "3,2,1,0"])
def test_a_column_of_such_a_name_that_does_not_count_is_an_action(column, src):
    write(
        src / "walk.csv", "\n".join(["index,gas", *(f"{value},{i % 2}" for i, value in enumerate(column.split(",")))])
    )
    assert run(src).actions.columns == ("index", "gas")


def test_one_csv_for_a_folder(src):
    lines = [f"{name};{gas};{steer}" for gas, steer in STEPS for name in ("walk", "ride.npy")]
    write(src / "actions.csv", "\ufeffclip;gas;steer\n" + "\n".join(lines))
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.columns == ("gas", "steer")
    for got in rows(windows).values():
        same(got, *STEPS)


def test_actions_csv_beside_the_only_clip_of_a_folder(tmp_path):
    for number in range(2):
        (tmp_path / "src" / f"run{number}").mkdir(parents=True)
        array(tmp_path / "src" / f"run{number}" / "camera.npy")
        write(tmp_path / "src" / f"run{number}" / "actions.csv", f"turn\n{number}\n1\ntrue\n0\n")
    same(rows(run(tmp_path / "src"))["run1/camera.npy"], [1], [1], [1], [0])


def test_a_single_file_with_a_csv_beside_it(src):
    write(src / "ride.csv", "turn\n0.5\n0\n0\n1\n")
    windows = run(src / "ride.npy", split=1.0)
    same(rows(windows)["ride.npy"], [0.5], [0], [0], [1])


def test_a_video_with_a_csv_and_what_the_command_prints(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    for name in ("a", "b"):
        with VideoWriter(tmp_path / "src" / f"{name}.mp4", 10, (16, 16)) as video:
            for _ in range(5):
                video.write(torch.zeros(3, 16, 16, dtype=torch.uint8))
        write(tmp_path / "src" / f"{name}.csv", "move,turn\n1,0.5\n1,0\n0,0\n0,1\n")
    line = printed("prepare", str(tmp_path / "src"), str(tmp_path / "out"), capsys=capsys)
    assert "2 clips, 1 of them for testing; 0 skipped, with actions move, turn.\n" in line
    windows = Windows(tmp_path / "out", "test")
    assert windows.fps == 10
    same(windows.action_rows(0), [1, 0.5], [1, 0], [0, 0], [0, 1])


def test_names_in_an_archive_and_further_down(tmp_path):
    (tmp_path / "src").mkdir()
    with zipfile.ZipFile(tmp_path / "src" / "set.zip", "w") as archive:
        for split in ("train", "test"):
            for i in range(5):
                archive.writestr(f"{split}/{split}-walk/{i}.png", png(i))
        archive.writestr("actions.json", json.dumps({"train-walk": STEPS, "test/test-walk": STEPS[::-1]}))
    for src in (tmp_path / "src", tmp_path / "src" / "set.zip"):
        got = {name.split("/")[-1]: part for name, part in rows(run(src)).items()}
        same(got["train-walk"], *STEPS)
        same(got["test-walk"], *STEPS[::-1])


@pytest.mark.parametrize("more", [0, 1])
def test_arrays_with_actions(tmp_path, more):
    (tmp_path / "src").mkdir()
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    one = np.array(STEPS + [[7, 7]] * more)
    np.savez(tmp_path / "src" / "1.npz", frames=frames, actions=one)
    np.savez(tmp_path / "src" / "2.npz", frames=np.stack([frames, frames]), actions=np.stack([one, -one]))
    torch.save({"video": torch.from_numpy(frames), "actions": torch.from_numpy(one)}, tmp_path / "src" / "3.pt")
    got = rows(run(tmp_path / "src"))
    assert list(got) == ["1.npz[frames]", "2.npz[frames][0]", "2.npz[frames][1]", "3.pt[video]"]
    same(got["1.npz[frames]"], *STEPS)
    same(got["2.npz[frames][1]"], *(-np.array(STEPS)).tolist())
    same(got["3.pt[video]"], *STEPS)


def test_a_set_without_actions_has_none(src):
    write(src / "readme.json", {"licence": "MIT"})
    write(src / "video_train.csv", "0,walk\n")
    write(src / "video_test.csv", "0,ride.npy\n")
    windows = run(src)
    assert [clip["split"] for clip in windows.clips] == ["test", "train"]
    assert windows.actions is None
    assert not {"actions"} & {*windows.index, *windows.clips[0]}
    assert not (src.parent / "out" / "actions.npy").exists()
    with pytest.raises(UserError, match=r"has no actions\. Prepare it from clips that have some\."):
        windows.action_rows(0)


def test_a_file_called_as_a_split_is_a_list_only_if_it_names_clips(tmp_path):
    for name in ("train", "test"):
        images(tmp_path / "src" / name)
        write(tmp_path / "src" / f"{name}.csv", "turn\n1\n2\n3\n4\n")
    windows = run(tmp_path / "src")
    assert {clip["name"]: clip["split"] for clip in windows.clips} == {"train": "train", "test": "test"}
    same(rows(windows)["test"], [1], [2], [3], [4])


# Which frames they belong to


def test_resampling_holds_or_takes_the_mean():
    steps = np.array([[0, 0], [1, 10], [2, 20], [3, 30], [4, 40], [5, 50]], float)  # after the frames 0 to 5
    same(resample(steps, range(0, 7, 2), ["hold", "mean"]), [0, 5], [2, 25], [4, 45])
    same(resample(steps, range(0, 6, 3), ["mean", "hold"]), [1, 0])
    same(resample(steps, [0, 0, 1, 5], ["hold", "mean"]), [0, 0], [0, 0], [1, 25])
    assert np.isnan(resample(steps, [5, 6, 6], ["hold", "mean"])[1:]).all()  # after the last frame nothing is known
    assert np.isnan(resample(steps, [3], ["hold", "mean"])).all()


def test_stride_resamples_by_column(src):
    write(src / "walk.json", {"columns": ["jump", "count", "turn"], "actions": [[0, 1, 0.1], [1, 5, 0.2], [0, 9, 0.3]]})
    write(src / "ride.json", {"columns": ["jump", "count", "turn"], "actions": [[1, 7, 0.4]] * 4})
    with pytest.raises(UserError, match=r"walk has 5 frames, but .*json has 3 actions\. It needs 5, or 4 without"):
        run(src, stride=2)
    write(src / "walk.json", {"columns": ["jump", "count", "turn"], "actions": [[i % 2, i, i / 10] for i in range(5)]})
    windows = run(src, stride=2)
    assert windows.index["actions"]["resample"] == ["hold", "hold", "mean"]
    same(rows(windows)["walk"], [0, 0, 0.05], [0, 2, 0.25])


def test_skipped_clips_shift_nothing(src, caplog):
    (src / "damaged.npy").write_bytes(b"\x93NUMPY nothing")
    images(src / "short", length=1)
    array(src / "silent.npy")
    write(src / "actions.json", {"walk": STEPS, "ride": STEPS[::-1], "damaged": STEPS, "short": [[0, 0]]})
    with caplog.at_level(logging.WARNING, "biflow"):
        windows = run(src)
    assert "There are no actions for 1 of 3 clips." in caplog.messages
    got = rows(windows)
    assert len(windows.index["skipped"]) == 2
    same(got["walk"], *STEPS)
    same(got["ride.npy"], *STEPS[::-1])
    assert np.isnan(got["silent.npy"]).all()


def test_a_single_clip_is_cut_in_two_with_its_actions(tmp_path):
    images(tmp_path / "src", length=10)
    write(tmp_path / "src" / "actions.json", list(range(9)))
    got = rows(run(tmp_path / "src"))
    same(got["src"], *[[i] for i in range(7)])
    same(got["src[end]"], [8])


# Ranges and keys


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.5, 0, 0], (0, 1)),
        ([-0.2, 0.5, 0, 0], (-1, 1)),
        ([-2, 7, 0, 0], (-7, 7)),
        ([30, 60, 90, 45], (30, 90)),
        ([-8, -4, -4, -4], (-8, -4)),
        ([5, 5, 5, 5], (0, 5)),
    ],
)
def test_ranges_come_from_the_values_of_the_whole_set(src, values, expected):
    write(src / "walk.json", values)
    write(src / "ride.json", values[:1] * 4)
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.ranges == (expected,)


def test_keys_count_for_ranges(src):
    write(src / "actions.json", {"columns": ["yaw"], "keys": {"left": {"yaw": -5}}, "actions": {"walk": [[0]] * 5}})
    windows = run(src)
    assert windows.actions is not None
    assert windows.actions.ranges == ((-5, 0),)
    assert windows.actions.keys == {"left": {"yaw": -5}}
