"""What a client may set, and what becomes of values that are not possible."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from biflow.config import SOLVERS, Direction, Solver, SolverName
from biflow.config.solver import is_adaptive
from biflow.errors import UserError
from biflow.serve.images import FORMATS, Format
from biflow.serve.models import Served

# (lowest, highest) of every number; the page takes the ranges of its sliders from these.
RANGES: dict[str, tuple[float, float]] = {
    "eps": (0, 1),
    "eps_b": (0, 1),
    "steps": (1, 64),
    "rtol": (1e-5, 1),
    "in_between": (1, 8),
    "fps_cap": (0.5, 120),
    "seed": (0, 2**32 - 1),
}
SWITCHES = ("auto", "playing", "two_up")
WHOLE = ("steps", "in_between", "seed")
OPTIONAL = ("steps", "fps_cap")
DEFAULT_STEPS = 4  # for a solver that needs a number of steps


def _takes_steps(solver: str) -> bool:
    try:
        Solver.named(solver, steps=DEFAULT_STEPS)
    except UserError:
        return False
    return True


NEED_STEPS = tuple(name for name in SOLVERS if not is_adaptive(name))
NO_STEPS = tuple(name for name in SOLVERS if not _takes_steps(name))


@dataclass(frozen=True)
class Controls:
    """How a session streams.

    Attributes:
        playing: whether it solves frame after frame.
        model: name of the model.
        eps: noise level, for methods that take one.
        auto: whether that of the first stream is chosen from frame to frame instead.
        direction: direction in time.
        solver: one of SOLVERS.
        steps: number of fixed steps per frame; None adapts them to rtol.
        rtol: relative and absolute tolerance of adaptive steps.
        in_between: frames per step of the model.
        fps_cap: most frames per second; None for as many as can be solved.
        seed: seed of the noise.
        format: of the pictures that are sent.
        two_up: whether a second stream runs beside the first, from the same frame and noise, with model_b and eps_b.
    """

    model: str
    eps: float
    model_b: str
    eps_b: float = 0.0
    auto: bool = False
    playing: bool = True
    direction: Direction = "forward"
    solver: SolverName = "adams"
    steps: int | None = None
    rtol: float = 1e-2
    in_between: int = 1
    fps_cap: float | None = None
    seed: int = 0
    format: Format = "jpeg"
    two_up: bool = False

    @property
    def full_solver(self) -> Solver:
        """The solver of a frame."""
        return Solver.named(self.solver, steps=self.steps, rtol=self.rtol)


def initial(models: Mapping[str, Served]) -> Controls:
    """The first model at its own noise level and frame rate; its second stream, if switched on, without noise."""
    name, served = next(iter(models.items()))
    usual = served.model.method.solver
    how = {"solver": usual.method, "steps": usual.steps}
    return Controls(model=name, eps=served.eps, model_b=name, fps_cap=served.fps, **how)


def changed(controls: Controls, wanted: Any, models: Mapping[str, Served]) -> tuple[Controls, list[str]]:
    """`controls` with those of `wanted` that are possible, and a sentence for each value that could not be taken."""
    if not isinstance(wanted, dict):
        return controls, ["Controls must be an object of names and values."]
    notes: list[str] = []
    values = asdict(controls)
    for name, value in wanted.items():
        if name not in values:
            notes.append(f"There is no control {_short(name)}.")
            continue
        try:
            values[name], note = _value(name, value, models)
            notes += [note] if note else []
        except UserError as error:
            notes.append(str(error))
    if "eps" in wanted and "auto" not in wanted:
        values["auto"] = False  # who sets a level means it
    # A new model comes with its own noise level, unless one was set together with it.
    for model, eps in (("model", "eps"), ("model_b", "eps_b")):
        if values[model] != getattr(controls, model) and eps not in wanted:
            values[eps] = models[values[model]].eps
    # It is played at its own rate, unless the viewer has set another one.
    if values["model"] != controls.model and controls.fps_cap == models[controls.model].fps and "fps_cap" not in wanted:
        values["fps_cap"] = models[values["model"]].fps
    # It also comes with the solver of its method, where that is another one.
    was, now = (models[name].model.method.solver for name in (controls.model, values["model"]))
    if was != now and not {"solver", "steps"} & wanted.keys():
        values |= {"solver": now.method, "steps": now.steps}
    return _fitting(Controls(**values), models, notes), notes


def _value(name: str, value: Any, models: Mapping[str, Served]) -> tuple[Any, str]:
    """The value to take, and a sentence if it is another one. Raises UserError for a value of another type."""
    if name in SWITCHES:
        return _checked(name, value, isinstance(value, bool), "true or false"), ""
    options: dict[str, tuple[str, ...]] = {
        "model": tuple(models),
        "model_b": tuple(models),
        "direction": get_args(Direction),
        "solver": SOLVERS,
        "format": FORMATS,
    }
    if name in options:
        known = isinstance(value, str) and value in options[name]
        return _checked(name, value, known, f"one of {', '.join(options[name])}"), ""
    if value is None and name in OPTIONAL:
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{name} must be a number, not {_short(value)}.")
    low, high = RANGES[name]
    kind: Callable[..., Any] = int if name in WHOLE else float
    taken = kind(min(max(value, low), high))
    text = str if name in WHOLE else "{:g}".format
    return taken, "" if taken == value else f"{name} goes from {text(low)} to {text(high)}: took {text(taken)}."


def _checked(name: str, value: Any, valid: bool, expected: str) -> Any:
    if not valid:
        raise UserError(f"{name} must be {expected}, not {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}…"


def _fitting(controls: Controls, models: Mapping[str, Served], notes: list[str]) -> Controls:
    """The nearest controls that go together with each other and with the models."""
    if controls.solver in NO_STEPS and controls.steps is not None:
        notes.append(f"The {controls.solver} solver is adaptive only: it takes a tolerance, not a number of steps.")
        controls = replace(controls, steps=None)
    if controls.solver in NEED_STEPS and controls.steps is None:
        notes.append(f"{controls.solver} cannot adapt its steps: took {DEFAULT_STEPS} fixed ones.")
        controls = replace(controls, steps=DEFAULT_STEPS)
    for model, eps in [("model", "eps"), ("model_b", "eps_b")][: 2 if controls.two_up else 1]:
        method = models[getattr(controls, model)].model.method
        if getattr(controls, eps) and not method.takes_eps:
            notes.append(f"{method.title} takes no noise: eps is 0.")
            controls = replace(controls, **{eps: 0.0})
        if controls.auto and model == "model" and not method.takes_eps:
            notes.append(f"{method.title} takes no noise, so there is no level to choose.")
            controls = replace(controls, auto=False)
        if controls.direction == "backward" and not method.backward:
            notes.append(f"{method.title} has no backward direction.")
            controls = replace(controls, direction="forward")
        if controls.in_between > 1 and not method.in_between:
            notes.append(f"{method.title} has no frames in between.")
            controls = replace(controls, in_between=1)
    return controls
