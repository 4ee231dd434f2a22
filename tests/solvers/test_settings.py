"""The settings of a solver: names, words, JSON, and what is refused."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest

from biflow.config import SOLVERS, Sample, Solver, SolverName
from biflow.errors import UserError
from biflow.tableaus import TABLEAUS
from tests.solvers.fields import ADAPTIVE


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "dopri"}, "Unknown solver method 'dopri': did you mean 'dopri5'?"),
        ({"method": "Heun"}, "did you mean 'heun'?"),
        ({"method": "xyz"}, "the methods are euler, midpoint"),
        (
            {"method": "rk4"},
            "'rk4' has no error estimate: set a number of steps, "
            "or use one of midpoint, heun, ralston, bosh3, dopri5, adams",
        ),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"rtol": 0.0}, "rtol is 0.0, but must be positive"),
        ({"atol": math.nan}, "atol is nan, but must be positive"),
        ({"max_nfe": 0}, "max_nfe is 0, but must be at least 1"),
        ({"method": "bosh3", "reference": True}, "The reference solver is torchode's adaptive Heun"),
        ({"steps": 4, "reference": True}, "The reference solver is torchode's adaptive Heun"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Solver(**settings)


@pytest.mark.parametrize(("settings", "setting"), [({"method": "dopri"}, "solver"), ({"method": "rk4"}, "steps")])
def test_a_refusal_names_the_setting_on_the_command_line(settings, setting):
    with pytest.raises(UserError) as error:
        Solver(**settings)
    assert error.value.setting == setting


def test_settings_survive_json():
    solver = Solver("bosh3", rtol=1e-3)
    assert Solver(**json.loads(json.dumps(dataclasses.asdict(solver)))) == solver
    assert list(dataclasses.asdict(solver)) == ["method", "steps", "rtol", "atol", "reference", "max_nfe"]


def test_the_names_of_solvers_are_adams_the_tableaus_and_the_reference():
    assert SOLVERS == get_args(SolverName) == ("adams", *TABLEAUS, "reference")
    assert Sample(Path("model")).full_solver() == Solver()


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_gives_its_solver(name):
    solver = Solver.named(name, steps=None if name in ("reference", *ADAPTIVE) else 3)
    assert solver.name == name
    assert str(solver).startswith(f"{name}, ")
    assert solver.method == ("heun" if name == "reference" else name)
    assert solver.reference == (name == "reference")


def test_a_name_becomes_settings():
    assert Solver.named("adams") == Solver()
    assert Solver.named("reference") == Solver("heun", reference=True)
    assert Solver.named("bosh3", rtol=1e-3) == Solver("bosh3", rtol=1e-3, atol=1e-3)
    assert Solver.named("bosh3", rtol=1e-3, atol=1e-4) == Solver("bosh3", rtol=1e-3, atol=1e-4)
    assert Solver.named("midpoint", steps=2) == Solver("midpoint", steps=2)
    with pytest.raises(UserError, match="did you mean 'midpoint'"):
        Solver.named("midpont")
    with pytest.raises(UserError, match="takes no number of steps"):
        Solver.named("reference", steps=2)


def test_a_solver_in_words():
    assert str(Solver("adams", rtol=1e-3)) == "adams, adaptive, rtol 0.001"
    assert str(Solver("midpoint", steps=2)) == "midpoint, 2 fixed steps"
    assert str(Solver("heun", reference=True)) == "reference, adaptive, rtol 0.01"
