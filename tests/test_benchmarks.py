"""The short form of `make bench`: only what does not depend on the machine's mood."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks import networks, one_evaluation, solvers
from biflow.data.starts import first_frames
from biflow.model import load_model, shipped_model
from biflow.rollout import stream
from biflow.video import to_float

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


@pytest.mark.parametrize("eps", [0.1, 0.3])
@torch.inference_mode()
def test_a_frame_of_the_shipped_model_costs_what_was_committed(eps):
    rows = json.loads((RESULTS / "solvers.json").read_text())["rows"]
    cost = {row["solver"]: row["nfe"] for row in rows if (row["model"], row["eps"]) == (shipped_model().name, eps)}
    assert cost["adams adaptive"] <= 0.45 * cost["reference"]
    model = load_model(shipped_model())
    first = to_float(first_frames(shipped_model() / "first", (64, 64), 2, 0))
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


def test_the_plot_of_one_evaluation_shows_both_methods(tmp_path):
    rows = json.loads((RESULTS / "one_evaluation.json").read_text())["rows"]
    one_evaluation.plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert 'id="biflow"' in drawn
    assert 'id="flowmap"' in drawn
