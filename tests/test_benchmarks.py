"""The short form of `make bench`: only what does not depend on the machine's mood."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    extrapolation,
    figure1,
    hours,
    in_between,
    lengths,
    networks,
    one_evaluation,
    record,
    solvers,
    tables,
    turn,
)
from benchmarks.ablations import without_actions
from biflow.config import TrainConfig
from biflow.data.starts import first_frames
from biflow.errors import UserError
from biflow.evaluation.networks.features import Features
from biflow.methods import BIFLOW, FLOW, SEQUENCE
from biflow.model import load_model, shipped_model
from biflow.paths import PATHS
from biflow.rollout import stream
from biflow.video import to_float
from tests.rollout.known import constant, known

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.mark.parametrize("eps", [0.1, 0.3])
@torch.inference_mode()
def test_a_frame_of_the_model_to_drive_costs_what_was_committed(eps):
    folder = shipped_model("racing")
    rows = json.loads((RESULTS / "solvers.json").read_text())["rows"]
    cost = {row["solver"]: row["nfe"] for row in rows if (row["model"], row["eps"]) == (folder.name, eps)}
    assert cost["adams adaptive"] <= 0.45 * cost["reference"]
    model = load_model(folder)
    first = to_float(first_frames(folder / "first", (64, 64), 2, 0))
    now = torch.cat([frame.nfe for frame in islice(stream(model, first, eps=eps), 3)]).float().mean()
    assert now <= 1.25 * cost["adams adaptive"]  # three frames, of which the first has not learnt its step yet


def test_the_committed_defaults_deviate_no_more_than_the_reference():
    rows = json.loads((RESULTS / "solvers.json").read_text())["rows"]
    off = {(row["model"], row["eps"], row["solver"]): row["rmse"] for row in rows}
    cases = {key[:2] for key in off}
    assert len({model for model, _ in cases}) >= 2
    for model, eps in cases:
        if eps > 0:
            assert off[(model, eps, "adams adaptive")] <= off[(model, eps, "reference")]


def test_the_plot_shows_every_solver(tmp_path):
    case = {"model": "m", "method": "biflow", "eps": 0.1, "nfe": 4.0, "rmse": 0.01}
    solvers.plot([{**case, "solver": name} for name in solvers.SOLVERS], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f'id="{name}"' in drawn for name in solvers.SOLVERS)
    assert all(f"<!-- {name.split()[0]} -->" in drawn for name in solvers.SOLVERS)  # in the legend


def test_the_plot_of_shapes_joins_those_that_no_other_beats(tmp_path):
    rows = [
        {"set": "a", "shape": shape, "ms": ms, "loss": loss}
        for shape, ms, loss in (("small", 1.0, 3.0), ("preset", 2.0, 1.0), ("worse", 3.0, 2.0))
    ]
    networks.plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {row['shape']} -->" in drawn for row in rows)


def test_one_evaluation_of_a_flow_map_beats_one_euler_step_in_what_was_committed():
    rows = json.loads((RESULTS / "one_evaluation.json").read_text())["rows"]
    kvd = {(row["method"], row["steps"]): row["intervals"]["kvd"] for row in rows}
    assert set(kvd) == set(one_evaluation.CASES)
    for steps in ("1", "2"):
        assert kvd["flowmap", steps][1] < kvd["biflow", steps][0]
    assert kvd["flowmap", "1"][0] < kvd["biflow", "usual"][1]


def test_two_evaluations_of_a_flow_map_are_within_its_teachers_interval_in_what_was_committed():
    rows = json.loads((RESULTS / "one_evaluation_sets.json").read_text())["rows"]
    found = {(row["set"], row["method"], row["steps"]): row for row in rows}
    assert len(found) == len(rows) == 3 * len(one_evaluation.CASES)
    for name in {row["set"] for row in rows}:
        teacher, student = found[name, "biflow", "usual"], found[name, "flowmap", "2"]
        for number in ("kvd", "fvd", "slope"):
            assert student[number] < teacher["intervals"][number][1]
        for steps in ("1", "2"):
            assert found[name, "flowmap", steps]["motion"] == pytest.approx(teacher["motion"], rel=0.1)


def test_the_plot_of_one_evaluation_shows_both_methods(tmp_path):
    rows = json.loads((RESULTS / "one_evaluation.json").read_text())["rows"]
    one_evaluation.plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert 'id="biflow"' in drawn
    assert 'id="flowmap"' in drawn


def test_rows_of_a_file_stay_unless_new_ones_are_of_the_same_kind(tmp_path):
    old = [{"set": name, "method": method, "kvd": 1} for name in ("a", "b") for method in ("flow", "biflow")]
    (tmp_path / "rows.json").write_text(json.dumps({"question": "?", "samples": 16, "rows": old}))
    old = [row | {"samples": 16} for row in old]  # which holds for these rows, and not for the new ones
    new = [{"set": "a", "method": "flow", "kvd": 2}]
    assert record.with_others(new, tmp_path / "rows.json", ("set", "method")) == [*old[1:], *new]
    assert record.with_others(new, tmp_path / "rows.json", ("set",)) == [*old[2:], *new]
    assert record.with_others(new, tmp_path / "none.json", ("set",)) == new
    again = [{"set": "a", "samples": 16}]
    assert record.with_others(again, tmp_path / "rows.json", ("set", "samples")) == [*old[2:], *again]
    assert record.with_others(new, tmp_path / "rows.json", ("set", "samples")) == [*old, *new]


def test_rows_of_a_table_are_of_models_that_were_trained_alike(tmp_path, monkeypatch):
    tables.check_settings("biflow", tmp_path)
    (tmp_path / "biflow").mkdir()
    tables.check_settings("biflow", tmp_path)
    monkeypatch.setitem(tables.TRAINING, "lr", 1e-5)
    for _ in range(2):  # being asked does not change what is kept
        with pytest.raises(UserError, match="trained with other settings"):
            tables.check_settings("biflow", tmp_path)


def test_a_copy_of_a_set_without_actions_has_the_frames_of_that_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "set").mkdir(parents=True)
        (tmp_path / name / "set" / "index.json").write_text('{"actions": {}}')
        (tmp_path / name / "set" / "frames.npy").write_text(name)
        copy = without_actions(tmp_path / name / "set", tmp_path / "copy")
        assert ((copy / "frames.npy").read_text(), (copy / "index.json").read_text().strip()) == (name, "{}")
    (tmp_path / "b").rename(tmp_path / "c")
    assert (without_actions(tmp_path / "c" / "set", tmp_path / "copy") / "frames.npy").read_text() == "b"


def test_results_go_where_there_are_results(tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="does not hold results of a benchmark"):
        record.with_others([{"set": "a"}], tmp_path / "other.json", ("set",))
    record.write(tmp_path / "new" / "rows.json", {"rows": []})
    with pytest.raises(UserError, match="is not a folder"):
        record.write(tmp_path / "other.json" / "rows.json", {"rows": []})


def test_distance_and_coverage_of_a_world_that_gets_brighter():
    """Each frame is 0.02 brighter than the last one; the field of FLOW is off by 0.01."""
    clips = (torch.arange(6)[:, None, None, None] * 0.02).expand(2, 6, 3, 4, 4)
    flow = known(FLOW, constant(0.03))
    found = figure1.properties(flow, clips)
    assert found["distance"] == pytest.approx(0.03, rel=1e-4)
    assert found["real"] == pytest.approx(0.01, rel=1e-3)
    assert found["own"] == pytest.approx(0.05, rel=1e-3)  # four frames of its own are 0.04 too bright
    assert found["coverage"] == pytest.approx(5, rel=1e-3)


def test_a_field_that_leads_back_covers_what_streaming_meets():
    """The exact fields of a world that stands still: noise is whatever is not black."""
    black = torch.full((2, 6, 3, 4, 4), -1.0)
    biflow = known(BIFLOW, constant(0.0), lambda q: (q.x + 1) / q.alpha.clamp(min=1e-6)[:, None, None, None], eps=0.2)
    for x0 in (black[:, 0], black[:, 0] + 0.1):
        assert figure1.field_errors(biflow, x0, black[:, 1]).tolist() == pytest.approx([0, 0], abs=1e-10)
    flow = known(FLOW, constant(0.0))
    assert figure1.field_errors(flow, black[:, 0] + 0.1, black[:, 1]).tolist() == pytest.approx([0.01, 0.01])


def test_intervals_of_figure_1_are_those_of_windows_drawn_anew():
    """In one window nothing moves, in the other each frame is 0.04 brighter than the last one, as FLOW has both."""
    brighter = torch.arange(6).view(6, 1, 1, 1) * torch.tensor([0.0, 0.04]).view(2, 1, 1, 1, 1)
    clips = brighter.expand(2, 6, 3, 4, 4)
    found = figure1.properties(known(FLOW, constant(0.04)), clips)
    assert found["real"] == pytest.approx((0.04**2 / 2) ** 0.5)
    assert found["intervals"]["real"] == pytest.approx([0, 0.04], abs=1e-6)  # twice the one, twice the other
    assert found["intervals"]["distance"] == pytest.approx([0.04, 0.04])


def test_what_clips_and_streams_cost_is_measured_alike():
    models = [known(FLOW, constant(0.01)), known(SEQUENCE, constant(0.01), span=8)]
    flow, clips = figure1.speed(models, torch.zeros(1, 3, 4, 4))
    assert clips["nfe"] == pytest.approx(flow["nfe"] / 7)  # those of a clip, shared by seven frames
    assert min(*flow.values(), *clips.values()) > 0
    found = figure1.properties(models[1], torch.zeros(2, 6, 3, 4, 4))
    assert found["distance"] == pytest.approx(0.01, rel=1e-4)
    assert not {"real", "own", "coverage"} & set(found)


def test_the_plot_of_figure_1_has_a_bar_for_each_model_and_property(tmp_path):
    rows = [{"model": name, "distance": 1.0, "wait": 2.0, "held": 3.0} for name in ("one", "two")]
    rows[0] |= {"coverage": 1.5, "intervals": {"distance": [0.9, 1.2], "coverage": [1.6, 1.7]}}
    figure1.plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f'id="{name} {what}"' in drawn for name in ("one", "two") for what in ("distance", "wait", "held"))


@pytest.mark.parametrize(("name", "first", "span"), [("biflow", (1, 3, 8, 8), 1), ("sequence", (1, 0, 3, 8, 8), 7)])
def test_what_a_length_costs_is_counted_from_the_first_evaluation_to_the_last_frame(monkeypatch, name, first, span):
    """Of three rounds, the first frame takes 2, 9 and 4 seconds, and each of the six later ones takes one."""
    clock, waits, peaks = [0.0], iter([2, 9, 4]), iter([100.0, 107.5])

    def follow(model, start, solver):
        assert (start.shape, model.span, solver.steps) == (first, span, lengths.EVALUATIONS[name])
        clock[0] += next(waits)
        while True:
            yield
            clock[0] += 1

    monkeypatch.setattr(lengths, "follow", follow)
    monkeypatch.setattr(lengths, "peak", lambda: next(peaks))
    monkeypatch.setattr(lengths, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    found = lengths.measure(name, 7, 8)
    assert found == {"method": name, "length": 7, "wait": 4000, "total": 10000, "memory": 7.5}


def test_wait_and_memory_of_whole_clips_alone_grow_with_their_length_in_what_was_committed():
    rows = json.loads((RESULTS / "lengths.json").read_text())["rows"]
    for name in lengths.EVALUATIONS:
        cost = {row["length"]: row for row in rows if row["method"] == name}
        assert sorted(cost) == [8, 16, 32, 64]
        wait, total, memory = (cost[64][what] / cost[8][what] for what in ("wait", "total", "memory"))
        if name == SEQUENCE.name:
            assert min(wait, memory) > 1.5
        else:
            assert max(wait, memory) < 1.1
            assert total == pytest.approx(8, rel=0.2)


# In the place of LPIPS: the mean difference of two frames, in grey levels.
DIFFERS = Features("differs", "none", "none", 1, 2, lambda c: c.float().diff(dim=1).abs().mean((1, 2, 3, 4))[:, None])


def test_frames_in_between_are_compared_with_the_real_ones():
    real = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = in_between.compared(real, real, DIFFERS)
    assert (same["lpips"], same["last_lpips"], same["gradient"]) == (0, 0, 1)
    made = real.clone()
    made[:, :-1] //= 2
    worse = in_between.compared(made, real, DIFFERS)
    assert worse["gradient"] == pytest.approx(0.5, rel=0.01)
    assert worse["lpips"] > 0 == worse["last_lpips"]
    assert worse["psnr"] < 11 < same["psnr"]


@pytest.mark.parametrize("case", [in_between.FRAME_BY_FRAME, *PATHS])
def test_the_models_of_frames_in_between_differ_by_span_and_path_alone(case):
    usual, config = in_between.settings(in_between.FRAME_BY_FRAME, 4), in_between.settings(case, 4)
    assert replace(config, span=1, path="linear") == usual
    assert (config.span, config.path) == ((1, "linear") if case == in_between.FRAME_BY_FRAME else (4, case))


def test_a_stream_that_is_a_tenth_too_slow_lags_by_as_much_after_a_turn():
    """A world that gets brighter by 8 grey levels a frame for half a turn, and darker for the other half."""
    levels = torch.tensor([0, 8, 16, 24, 16, 8, 0])
    clips = (100 + levels[:, None, None, None]).expand(2, 7, 3, 4, 4).to(torch.uint8)
    brighter = known(FLOW, constant(7.2 / 127.5))
    rows, made = turn.measure(brighter, clips, DIFFERS)
    found = {row["case"]: [round(row[f"lpips_{part:g}"]) for part in turn.PARTS] for row in rows}
    assert found["forward"] == [2, 2, 13, 43]  # after 2, 3, 4 and 6 of 6 frames: 14, 22, 29 and 43
    assert found["backward"] == [30, 46, 45, 43]
    assert found["a copy of the first frame"] == [16, 24, 16, 0]
    assert found["another clip"] == [0, 0, 0, 0]  # the two are alike
    assert made["forward"].shape == clips.shape


def test_what_a_stream_is_at_a_time_is_read_from_the_window_that_ends_there():
    distance = {"per_window": [1.0, 2.0, 3.0], "per_window_intervals": [[0, 2], [1, 3], [2, 4]]}
    over_time = {"frames": list(range(48)), "generated": [6.0] * 16 + [3.0] * 16 + [9.0] * 16, "real": 3.0}
    metrics = {"fvd": distance, "kvd": distance, "over_time": {"motion": over_time, "contrast": over_time}}
    row = extrapolation.row(metrics, 32)
    assert (row["frames"], row["fvd"], row["kvd_interval"]) == (32, 2.0, [1, 3])
    assert (row["motion"], extrapolation.row(metrics, 48)["contrast"]) == (1.0, 3.0)


def test_a_curve_says_when_it_comes_down_to_a_value():
    rows = [{"minutes": 2.0, "loss": 1.0}, {"minutes": 4.0, "loss": 0.5}, {"minutes": 16.0, "loss": 0.3}]
    assert hours.minutes_until(rows, "loss", 0.4) == pytest.approx(8)
    assert hours.minutes_until(rows, "loss", 0.5) == 4
    assert hours.minutes_until(rows, "loss", 2.0) == 2
    assert hours.minutes_until(rows, "loss", 0.2) is None


def test_recipes_are_compared_at_the_end_of_the_paper_s():
    paper = [{"recipe": "paper", "minutes": m, "loss": 1.5 - m / 40, "kvd": 1000 / m} for m in (5, 10, 40)]
    ours = [{"recipe": "ours", "minutes": m, "loss": 1 / m, "kvd": 100.0} for m in (1, 4)]
    assert hours.compared([*paper, *ours]) == {
        "loss": {"value": 0.5, "minutes": pytest.approx(4 ** (2 / 3)), "ratio": pytest.approx(15.87, abs=0.01)},
        "kvd": {"value": 25, "minutes": None, "ratio": None},
    }


def test_the_two_recipes_differ_as_their_description_says():
    paper, ours = hours.PAPER, hours.OURS
    assert (paper.network.pair, paper.optimizer, paper.lr, paper.v_scale) == (True, "adamw", 1e-4, 1.0)
    assert (paper.alpha_max, paper.ema, paper.schedule) == (1.0, 0.0, "constant")
    assert (ours.network, ours.optimizer, ours.v_scale) == (TrainConfig().network, "muon", None)
    assert paper.batch == ours.batch


def test_a_table_has_names_and_numbers_and_a_dash_where_there_is_none():
    rows = [{"case": "one", "kvd": 12.345, "nfe": 5}, {"case": "two", "kvd": None}]
    lines = ["|  | KVD | NFE |", "|---|---|---|", "| one | 12.3 | 5 |", "| two | - | - |"]
    assert record.table(rows, {"case": ""}, {"kvd": "KVD", "nfe": "NFE"}).splitlines() == lines


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (KeyboardInterrupt, 130)])
def test_a_benchmark_ends_with_a_sentence(kind, code, capsys):
    with pytest.raises(SystemExit) as stop:
        sys.excepthook(kind, kind("No model here."), None)  # set by the package
    assert (stop.value.code, capsys.readouterr().err) == (code, "No model here.\n")
