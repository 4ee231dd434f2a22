"""What a client may set, and what becomes of values that cannot be."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from biflow.errors import UserError
from biflow.rollout import Direction
from biflow.sampling import TITLES, solver_settings
from biflow.serve.images import FORMATS
from biflow.serve.models import Served
from biflow.solvers import TABLEAUS, Solver

SOLVERS = ("adams", "euler", "midpoint", "heun", "ralston", "rk4", "bosh3", "dopri5", "reference")
NEED_STEPS = tuple(name for name in SOLVERS if name in TABLEAUS and TABLEAUS[name].b_low is None)
# (lowest, highest) of every number; the page builds its sliders from these.
RANGES: dict[str, tuple[float, float]] = {
    "eps": (0, 1),
    "eps_b": (0, 1),
    "steps": (1, 64),
    "rtol": (1e-5, 1),
    "in_between": (1, 8),
    "fps_cap": (0.5, 120),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Controls:
    """How a session streams.

    Attributes:
        playing: whether frames follow by themselves.
        model: the name of the model.
        eps: noise level of BI-FLOW.
        direction: in time.
        solver: a method of `biflow sample`.
        steps: fixed steps a frame; None for steps adapted to rtol.
        rtol: relative and absolute tolerance.
        in_between: frames a step of the model.
        fps_cap: most frames a second; None for as many as can be solved.
        seed: of the noise.
        format: of the pictures on the wire.
        two_up: a second stream beside the first, from the same frame and noise, with model_b and eps_b.
    """

    model: str
    eps: float
    model_b: str
    eps_b: float = 0.0
    playing: bool = True
    direction: Direction = "forward"
    solver: str = "adams"
    steps: int | None = None
    rtol: float = 1e-2
    in_between: int = 1
    fps_cap: float | None = None
    seed: int = 0
    format: str = "jpeg"
    two_up: bool = False

    @property
    def full_solver(self) -> Solver:
        """How a frame is solved."""
        return solver_settings(self.solver, steps=self.steps, rtol=self.rtol)


def initial(models: Mapping[str, Served]) -> Controls:
    """The first model, as it streams best and at its videos' own rate; beside it, if asked for, without noise."""
    name, served = next(iter(models.items()))
    return Controls(model=name, eps=served.eps, model_b=name, fps_cap=served.fps)


def changed(controls: Controls, wanted: Any, models: Mapping[str, Served]) -> tuple[Controls, list[str]]:
    """`controls` with what of `wanted` can be had, and a sentence for each value that had to be another."""
    if not isinstance(wanted, dict):
        return controls, ["Controls are an object of names and values."]
    told: list[str] = []
    known = asdict(controls)
    for name, value in wanted.items():
        if name not in known:
            told.append(f"There is no control {_short(name)}.")
            continue
        try:
            known[name], sentence = _value(name, value, models)
            told += [sentence] if sentence else []
        except UserError as error:
            told.append(str(error))
    # A model brings its own noise level along, unless one was asked for with it.
    for model, eps in (("model", "eps"), ("model_b", "eps_b")):
        if known[model] != getattr(controls, model) and eps not in wanted:
            known[eps] = models[known[model]].eps
    return _fitting(Controls(**known), models, told), told


def _value(name: str, value: Any, models: Mapping[str, Served]) -> tuple[Any, str]:
    """The value to take, and what there is to say about it. Raises UserError for one of another kind."""
    if name in ("playing", "two_up"):
        return _checked(name, value, isinstance(value, bool), "true or false"), ""
    names: dict[str, tuple[str, ...]] = {
        "model": tuple(models),
        "model_b": tuple(models),
        "direction": ("forward", "backward"),
        "solver": SOLVERS,
        "format": FORMATS,
    }
    if name in names:
        among = isinstance(value, str) and value in names[name]
        return _checked(name, value, among, f"one of {', '.join(names[name])}"), ""
    if value is None and name in ("steps", "fps_cap"):
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{name} must be a number, not {_short(value)}.")
    low, high = RANGES[name]
    whole = name in ("steps", "in_between", "seed")
    kind: Callable[..., Any] = int if whole else float
    taken = kind(min(max(value, low), high))
    same = taken == value
    return taken, "" if same else f"{name} goes from {low:g} to {high:g}: took {taken:g}."


def _checked(name: str, value: Any, fits: bool, expected: str) -> Any:
    if not fits:
        raise UserError(f"{name} must be {expected}, not {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}…"


def _fitting(controls: Controls, models: Mapping[str, Served], told: list[str]) -> Controls:
    """The nearest controls that go together with each other and with the models."""
    if controls.solver == "reference" and controls.steps is not None:
        told.append("The reference solver is adaptive: it takes a tolerance, not steps.")
        controls = replace(controls, steps=None)
    if controls.solver in NEED_STEPS and controls.steps is None:
        told.append(f"{controls.solver} cannot adapt its steps: took 4 fixed ones.")
        controls = replace(controls, steps=4)
    shown = [("model", "eps"), ("model_b", "eps_b")][: 2 if controls.two_up else 1]
    for model, eps in shown:
        method = models[getattr(controls, model)].model.method
        if method != "biflow" and getattr(controls, eps):
            told.append(f"{TITLES[method]} takes no noise: eps is 0.")
            controls = replace(controls, **{eps: 0.0})
        if method == "condiff" and (controls.direction == "backward" or controls.in_between > 1):
            told.append("CONDIFF only runs forward, with nothing in between.")
            controls = replace(controls, direction="forward", in_between=1)
    return controls
