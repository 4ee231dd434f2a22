import io
import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from biflow.config import SOLVERS
from biflow.serve.controls import NEED_STEPS, NO_STEPS, Controls, changed, initial
from biflow.serve.images import preview


@pytest.mark.parametrize(
    ("wanted", "taken", "note"),
    [
        ({"eps": 9}, {"eps": 1.0}, "took 1"),
        ({"eps": -1}, {"eps": 0.0}, "took 0"),
        ({"eps": "much"}, {"eps": 0.1}, "a number"),
        ({"eps": float("nan")}, {"eps": 0.1}, "a number"),
        ({"eps": True}, {"eps": 0.1}, "a number"),
        ({"seed": 10**400}, {"seed": 2**32 - 1}, "seed goes from 0 to 4294967295: took 4294967295."),
        ({"rtol": 0}, {"rtol": 1e-5}, "took 1e-05"),
        ({"steps": 2.5}, {"steps": 2}, "took 2"),
        ({"playing": 1}, {"playing": True}, "true or false"),
        ({"solver": "rk4"}, {"solver": "rk4", "steps": 4}, "cannot adapt"),
        ({"solver": "reference", "steps": 3}, {"solver": "reference", "steps": None}, "adaptive"),
        ({"solver": ["adams"]}, {"solver": "adams"}, "one of"),
        ({"direction": "up"}, {"direction": "forward"}, "one of forward, backward"),
        ({"format": "bmp"}, {"format": "jpeg"}, "one of jpeg, webp, png"),
        ({"model": "../../etc"}, {"model": "bi"}, "one of"),
        ({"model": "flow", "eps": 0.4}, {"model": "flow", "eps": 0.0}, "no noise"),
        ({"model": "flow", "auto": True}, {"auto": False}, "no level to choose"),
        ({"auto": True}, {"auto": True}, ""),
        ({"auto": True, "eps": 0.3}, {"auto": True, "eps": 0.3}, ""),
        ({"fps_cap": None}, {"fps_cap": None}, ""),
        ({"colour": 1}, {}, "no control 'colour'"),
        ({"x" * 1000: 1}, {}, "no control"),
        ([1, 2], {}, "object"),
        (None, {}, "object"),
    ],
)
def test_controls_are_clamped_with_a_word_back(models, wanted, taken, note):
    controls, notes = changed(initial(models), wanted, models)
    assert note in " ".join(notes)
    assert all(len(sentence) < 200 for sentence in notes)
    assert {name: getattr(controls, name) for name in taken} == taken
    json.dumps(asdict(controls))
    _ = controls.full_solver


def test_a_new_model_plays_at_its_own_rate_unless_another_was_set(models):
    slow = replace(models["bi"], name="slow", model=replace(models["bi"].model, fps=4.0))
    models = {**models, "slow": slow}
    assert changed(initial(models), {"model": "slow"}, models)[0].fps_cap == 4
    other, _ = changed(initial(models), {"fps_cap": 7.0}, models)
    assert changed(other, {"model": "slow"}, models)[0].fps_cap == 7
    assert changed(initial(models), {"model": "slow", "fps_cap": 6.0}, models)[0].fps_cap == 6


def test_who_sets_a_level_ends_the_choice_of_one(models):
    auto, _ = changed(initial(models), {"auto": True}, models)
    assert changed(auto, {"fps_cap": 5.0}, models)[0].auto
    assert not changed(auto, {"eps": 0.3}, models)[0].auto


@pytest.mark.parametrize(
    ("wanted", "taken", "note"),
    [
        ({"direction": "backward"}, {"direction": "forward"}, "CONDIFF has no backward direction"),
        ({"in_between": 3}, {"in_between": 1}, "CONDIFF has no frames in between"),
        ({"eps": 0.5}, {"eps": 0.0}, "CONDIFF takes no noise"),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_what_a_method_cannot_do_is_asked_of_the_method(models, wanted, taken, note, second):
    if second:  # a second stream that cannot do it is enough, and does not matter until it runs
        controls, notes = changed(initial(models), {"model_b": "con", **wanted}, models)
        assert not notes
        assert {name: getattr(controls, name) for name in wanted} == wanted
        if "eps" in wanted:
            wanted, taken = {"eps_b": 0.5}, {"eps_b": 0.0}
        controls, notes = changed(controls, {"two_up": True, **wanted}, models)
    else:
        controls, notes = changed(initial(models), {"model": "con", **wanted}, models)
    assert notes == [next(sentence for sentence in notes if note in sentence)]
    assert {name: getattr(controls, name) for name in taken} == taken


def test_solvers_that_need_steps_and_those_that_take_none_are_known_from_the_solvers():
    assert NEED_STEPS == ("euler", "rk4")
    assert NO_STEPS == ("reference",)
    for name in SOLVERS:
        steps = 4 if name in NEED_STEPS else None
        assert Controls("a", 0.0, "a", solver=name, steps=steps).full_solver.name == name


def test_a_preview_is_there_for_any_number_of_first_frames():
    for count in (0, 1, 2, 3, 8, 9):
        picture = Image.open(io.BytesIO(preview(torch.full((count, 3, 16, 24), 200, dtype=torch.uint8))))
        assert picture.size == (1200, 630)
        assert picture.getpixel((600, 315)) == ((200, 200, 200) if count else (17, 21, 20))
