"""How to solve: the methods and their coefficients, and the settings of a solve."""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """An explicit Butcher tableau: a holds the rows below the diagonal, so that len(a[i]) == i.

    b gives the solution, of the stated order; b_low the embedded solution one order lower, whose difference from b is
    the error estimate. None: no estimate, hence fixed steps only.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    b_low: tuple[float, ...] | None = None

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is the derivative at the new state, thus the next step's first stage."""
        return self.b[-1] == 0 and self.b[:-1] == self.a[-1]


_HEUN = Tableau(2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), b_low=(1.0, 0.0))

# E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd edition, Sec. II.1, II.4, II.5.
# The embedded solution of the two-stage methods is Euler's.
TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau(1, a=((),), b=(1.0,), c=(0.0,)),
    "midpoint": Tableau(2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2), b_low=(1.0, 0.0)),
    "heun": _HEUN,
    "heun-euler": _HEUN,  # the same, under the name it has as an adaptive method
    "ralston": Tableau(2, a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3), b_low=(1.0, 0.0)),
    "rk4": Tableau(
        4,
        a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
    ),
    "bosh3": Tableau(  # Bogacki-Shampine 3(2)
        3,
        a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0.0),
        c=(0.0, 1 / 2, 3 / 4, 1.0),
        b_low=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    ),
    "dopri5": Tableau(  # Dormand-Prince 5(4)
        5,
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        b_low=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    ),
}


METHODS = (*TABLEAUS, "adams")


@dataclass(frozen=True)
class Solver:
    """How to solve: a method, and either a number of fixed steps or tolerances. `dataclasses.asdict` of it is JSON.

    Args:
        method: a key of `TABLEAUS`, or "adams": second order with one evaluation a step, the fewest at the deviation of
            the reference's solver (benchmarks/README.md).
        steps: that many steps (equal ones; those of "adams" get smaller towards the end); None adapts the step size of
            every sample to rtol and atol.
        rtol, atol: tolerated error of one step, for each element atol + rtol * |x|. Adaptive solves only.
        reference: reproduce the reference implementation, that is torchode's Heun with its IntegralController, to the
            step. It spends 2 evaluations on choosing the first step, and computes the first stage again after a
            rejection. Needs method "heun" and steps None.
        max_nfe: an adaptive solve gives up once an unfinished sample has cost that many evaluations.

    Raises:
        ValueError: settings that are unknown, out of range, or do not go together.
    """

    method: str = "adams"
    steps: int | None = None
    rtol: float = 1e-2
    atol: float = 1e-2
    reference: bool = False
    max_nfe: int = 1000

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            near = difflib.get_close_matches(self.method.lower(), METHODS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the methods are {', '.join(METHODS)}."
            raise ValueError(f"Unknown solver method {self.method!r}: {hint}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, or None for adaptive steps, but is {self.steps}.")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol and atol must be positive, but are {self.rtol} and {self.atol}.")
        if self.max_nfe < 1:
            raise ValueError(f"max_nfe must be at least 1, but is {self.max_nfe}.")
        if self.reference and (self.steps is not None or TABLEAUS.get(self.method) is not _HEUN):
            raise ValueError("reference=True is torchode's adaptive Heun: it needs method='heun' and steps=None.")
        if self.steps is None and self.method in TABLEAUS and self.tableau.b_low is None:
            adaptive = ", ".join(name for name in METHODS if name == "adams" or TABLEAUS[name].b_low is not None)
            raise ValueError(
                f"{self.method!r} has no error estimate: give a number of steps, or take one of {adaptive}."
            )

    @property
    def tableau(self) -> Tableau:
        """Of a Runge-Kutta method: "adams" has none."""
        return TABLEAUS[self.method]
