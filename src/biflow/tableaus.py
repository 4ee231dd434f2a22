"""The coefficients of the Runge-Kutta methods. Free of torch, so that settings can be checked against them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """An explicit Butcher tableau: a holds the rows below the diagonal, so that len(a[i]) == i.

    b gives the solution, of the stated order; b_low the embedded solution one order lower, whose difference from b is
    the error estimate. Without it there are fixed steps only.
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


# E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd edition, Sec. II.1, II.4, II.5.
# The embedded solution of the two-stage methods is Euler's.
TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau(1, a=((),), b=(1.0,), c=(0.0,)),
    "midpoint": Tableau(2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2), b_low=(1.0, 0.0)),
    "heun": Tableau(2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), b_low=(1.0, 0.0)),
    "ralston": Tableau(2, a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3), b_low=(1.0, 0.0)),
    "rk4": Tableau(
        4, a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), c=(0.0, 1 / 2, 1 / 2, 1.0)
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
