"""How to solve a frame: a method, and either a number of fixed steps or tolerances."""

import difflib
from dataclasses import dataclass, replace
from typing import Literal, get_args

from biflow.config.checks import check
from biflow.errors import UserError
from biflow.tableaus import TABLEAUS

SolverName = Literal["adams", "euler", "midpoint", "heun", "ralston", "rk4", "bosh3", "dopri5", "reference"]
MOST_STEPS = 100_000
SOLVERS: tuple[str, ...] = get_args(SolverName)


def is_adaptive(name: str) -> bool:
    """Whether a solver can choose its steps: the others have no error estimate and need a number of steps."""
    return name not in TABLEAUS or TABLEAUS[name].b_low is not None


@dataclass(frozen=True)
class Solver:
    """How to solve: a method, and either a number of fixed steps or tolerances. `dataclasses.asdict` of it is JSON.

    Attributes:
        method: "adams" (second order, one evaluation per step; benchmarks/README.md compares them) or a Runge-Kutta
            method, a key of `biflow.tableaus.TABLEAUS`.
        steps: number of fixed steps (equal ones; those of "adams" get smaller towards the end); None adapts the step
            size of every sample to rtol and atol.
        rtol, atol: tolerated error of one step, for each element atol + rtol * |x|. Adaptive solves only.
        reference: reproduce the reference implementation, that is torchode's Heun with its IntegralController, step by
            step. It spends 2 evaluations on choosing the first step, and computes the first stage again after a
            rejection. Needs method "heun" and steps None.
        max_nfe: an adaptive solve gives up once an unfinished sample has cost that many evaluations.

    Raises:
        UserError: settings that are unknown, out of range, or do not go together.
    """

    method: str = "adams"
    steps: int | None = None
    rtol: float = 1e-2
    atol: float = 1e-2
    reference: bool = False
    max_nfe: int = 1000

    def __post_init__(self) -> None:
        methods = (*TABLEAUS, "adams")
        if self.method not in methods:
            near = difflib.get_close_matches(self.method.lower(), methods, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the methods are {', '.join(methods)}."
            raise UserError(f"Unknown solver method {self.method!r}: {hint}", setting="solver")
        check(self, "be at least 1, or be left out", lambda steps: steps >= 1, "steps", most=MOST_STEPS)
        check(self, "be positive", lambda value: 0 < value < float("inf"), "rtol", "atol")
        check(self, "be at least 1", lambda count: count >= 1, "max_nfe")
        if self.reference and (self.steps is not None or self.method != "heun"):
            what = "it takes no number of steps" if self.method == "heun" else "its method is 'heun'"
            raise UserError(f"The reference solver is torchode's adaptive Heun: {what}.", setting="steps")
        if self.steps is None and not is_adaptive(self.method):
            adaptive = ", ".join(filter(is_adaptive, methods))
            message = f"{self.method!r} has no error estimate: set a number of steps, or use one of {adaptive}."
            raise UserError(message, setting="steps")

    @classmethod
    def named(cls, name: str, *, steps: int | None = None, rtol: float = 1e-2, atol: float | None = None) -> "Solver":
        """The settings for a name in SOLVERS, where "reference" is the paper's solver. `atol` None takes rtol."""
        reference = name == "reference"
        return cls("heun" if reference else name, steps, rtol, rtol if atol is None else atol, reference)

    def changed(
        self, name: str | None = None, steps: int | None = None, rtol: float | None = None, atol: float | None = None
    ) -> "Solver":
        """These settings with those that are not None. A solver of another name does not keep the number of steps."""
        if name not in (None, self.name):
            return Solver.named(name, steps=steps, rtol=self.rtol if rtol is None else rtol, atol=atol)
        tolerances = {"rtol": rtol, "atol": rtol if atol is None else atol}
        new = {"steps": steps, **tolerances}
        return replace(self, **{key: value for key, value in new.items() if value is not None})

    def fixed(self, steps: int) -> "Solver":
        """These settings, in so many steps unless their number is fixed already."""
        return replace(self, steps=self.steps or steps)

    @property
    def name(self) -> str:
        """The name in SOLVERS that gives this solver."""
        return "reference" if self.reference else self.method

    def __str__(self) -> str:
        return f"{self.name}, {f'{self.steps} fixed steps' if self.steps else f'adaptive, rtol {self.rtol:g}'}"


USUAL = Solver()  # of most methods
