"""Distances between two sets of features, in float64: Fréchet (FVD, FID) and kernel (KVD, KID), and how sure they are.

Features are (n, d), a row a clip. Rows that belong to one video are no independent draws, so the standard error and the
intervals leave out and redraw whole groups of rows, where groups are told.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm


@dataclass
class Moments:
    """Count, mean and scatter of the features seen so far; one pass, in any order and batches of any size.

    `scatter` is the sum of (x - mean)(x - mean)^T, so that nothing large is ever subtracted from something large.
    """

    dim: int
    count: float = 0.0
    mean: Float[Tensor, " d"] = field(init=False)
    scatter: Float[Tensor, "d d"] = field(init=False)

    def __post_init__(self):
        self.mean = torch.zeros(self.dim, dtype=torch.float64)
        self.scatter = torch.zeros(self.dim, self.dim, dtype=torch.float64)

    def add(self, features: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> "Moments":
        """Take more features in, each as often as `weights` says (once if left out). Returns itself.

        Raises ValueError for features of another width, or with NaN or infinity in them.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features are {tuple(features.shape)}, not (n, {self.dim})")
        x = features.detach().to("cpu", torch.float64)
        if not torch.isfinite(x).all():
            raise ValueError("features hold NaN or infinity")
        w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.to("cpu", torch.float64)
        part = Moments(self.dim, float(w.sum()))
        if part.count:
            part.mean = w @ x / part.count
            centred = x - part.mean
            part.scatter = centred.T @ (centred * w[:, None])
        return self.merge(part)

    def merge(self, other: "Moments") -> "Moments":
        """Take in what another process saw (Chan, Golub & LeVeque 1979, Eq. 2.1). Returns itself."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge features of width {other.dim} into {self.dim}")
        count = self.count + other.count
        if other.count:
            gap = other.mean - self.mean
            self.mean = self.mean + gap * (other.count / count)
            self.scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * other.count / count)
            self.count = count
        return self

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased covariance (divided by count - 1). Raises ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {self.count:g}")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), the squared Fréchet distance of two Gaussians.

    Dowson & Landau 1982; of I3D's logits it is FVD (Unterthiner et al. 2018). Never below 0. With fewer features than
    their width a covariance is singular: the value is still defined, but far above that of many features.
    """
    s1, s2 = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * _roots(values) @ vectors.T
    middle = root @ s2 @ root
    cross = _roots(torch.linalg.eigvalsh((middle + middle.T) / 2)).sum()
    gap = a.mean - b.mean
    return max(0.0, float(gap @ gap + s1.trace() + s2.trace() - 2 * cross))


def _roots(values: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    # Eigenvalues that are 0 come out as rounding errors of either sign, and the root would make them large.
    floor = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > floor, values, 0).sqrt()


def frechet_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], wx: Float[Tensor, "b n"], wy: Float[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """The Fréchet distance for each row of weights, which say how often each feature counts."""
    x, y = (features.detach().to("cpu", torch.float64) for features in (x, y))
    rows = zip(wx, wy, strict=True)
    bar = tqdm(rows, total=len(wx), desc="bootstrap", leave=False, disable=None if len(wx) > 20 else True)
    if min(len(x), len(y)) > x.shape[1]:
        dim = x.shape[1]
        values = [frechet_distance(Moments(dim).add(x, a), Moments(dim).add(y, b)) for a, b in bar]
    else:
        values = [_frechet_of_few(x, y, a, b) for a, b in bar]
    return torch.tensor(values, dtype=torch.float64)


def _frechet_of_few(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor) -> float:
    """With S1 = A^T A and S2 = B^T B of few rows, tr (S1^1/2 S2 S1^1/2)^1/2 is the sum of A B^T's singular values."""
    mean_x, mean_y = wx @ x / wx.sum(), wy @ y / wy.sum()
    a = (x - mean_x) * (wx / (wx.sum() - 1)).sqrt()[:, None]
    b = (y - mean_y) * (wy / (wy.sum() - 1)).sqrt()[:, None]
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return max(0.0, float((mean_x - mean_y).square().sum() + a.square().sum() + b.square().sum() - 2 * cross))


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x·y/d + 1)³; may fall below 0.

    Gretton et al. 2012, Eq. 3; with this kernel it is KID (Bińkowski et al. 2018), and KVD of I3D's logits.
    """
    return float(kernel_distances(x, y, torch.ones(1, len(x)).double(), torch.ones(1, len(y)).double()))


def kernel_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], wx: Float[Tensor, "b n"], wy: Float[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """`kernel_distance` for each row of weights, which say how often each feature counts."""
    return _mmd(_kernels(x, y), wx, wy)


def _kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = (features.detach().to("cpu", torch.float64) for features in (x, y))
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"the unbiased MMD needs at least 2 features a set, not {len(x)} and {len(y)}")
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return k_xx.fill_diagonal_(0), k_yy.fill_diagonal_(0), k_xy


def _mmd(kernels: tuple[Tensor, Tensor, Tensor], wx: Float[Tensor, "b n"], wy: Float[Tensor, "b m"]) -> Tensor:
    """The MMD for each row of weights: weighted means over pairs of different features of a set, and across sets."""
    k_xx, k_yy, k_xy = kernels
    within = [((w @ k) * w).sum(1) / (w.sum(1) ** 2 - (w**2).sum(1)) for w, k in ((wx, k_xx), (wy, k_yy))]
    return within[0] + within[1] - 2 * ((wx @ k_xy) * wy).sum(1) / (wx.sum(1) * wy.sum(1))


@dataclass(frozen=True)
class Estimate:
    """A number, its jackknife standard error and its bootstrap 95 % interval; None for an error there is none of."""

    value: float
    standard_error: float | None
    interval: tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """Distances from one set to each of w sets, and what they are when groups are redrawn, or left out one by one.

    A redrawn set has fewer distinct rows and so a greater Fréchet distance: intervals are shifted by that much. They
    show the spread at this n, not how much smaller the distance would be with more features.
    """

    values: Float[Tensor, " w"]
    redrawn: Float[Tensor, "b w"]
    left_out: tuple[Float[Tensor, "g w"], Float[Tensor, "h w"]] | None

    def estimate(self, weights: Float[Tensor, " w"]) -> Estimate:
        """Of the distances' sum in these weights: one of them, their mean, their trend."""
        value, drawn = float(self.values @ weights), self.redrawn @ weights
        variance = math.nan if self.left_out is None else sum(_jackknife(part @ weights) for part in self.left_out)
        # NaN, too, where one group left out of two leaves a single row, hence no pair.
        return Estimate(value, None if math.isnan(variance) else variance**0.5, _interval(value, drawn))


def resample(
    distances: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    x: Float[Tensor, "n d"],
    ys: Sequence[Float[Tensor, "m d"]],
    *,
    x_groups: Int[Tensor, " n"] | None = None,
    y_groups: Int[Tensor, " m"] | None = None,
    resamples: int = 200,
    jackknife: bool = False,
    generator: torch.Generator,
) -> Resampled:
    """`distances` (`frechet_distances` or `kernel_distances`) from x to each of `ys`, redrawn `resamples` times.

    `*_groups` numbers the video that each row comes from, alike in all of `ys`: whole groups are redrawn (Efron 1979),
    the same in all of `ys`; every row is a group of its own if left out. The jackknife is that for two samples, which
    leaves out one group at a time (Arvesen 1969).
    """
    x_groups, y_groups = _groups(x, x_groups), _groups(ys[0], y_groups)
    one_x, one_y = torch.ones(1, len(x)).double(), torch.ones(1, len(ys[0])).double()
    parts = [(one_x, one_y)]
    parts += [(_redrawn(x_groups, resamples, generator), _redrawn(y_groups, resamples, generator))]
    if jackknife:
        left_x, left_y = _left_out(x_groups), _left_out(y_groups)
        parts += [(left_x, one_y.expand(len(left_x), -1)), (one_x.expand(len(left_y), -1), left_y)]
    wx, wy = (torch.cat(weights) for weights in zip(*parts, strict=True))
    found = torch.stack([distances(x, y, wx, wy) for y in ys], dim=1)
    values, redrawn, *left_out = found.split([len(weights) for weights, _ in parts])
    return Resampled(values[0], redrawn, (left_out[0], left_out[1]) if jackknife else None)


def _groups(features: Tensor, groups: Tensor | None) -> Int[Tensor, " n"]:
    """Group numbers 0, 1, …; a single group tells nothing of how groups differ, so then every row is its own."""
    if groups is not None and len(groups.unique()) > 1:
        return torch.searchsorted(groups.unique(), groups)
    return torch.arange(len(features))


def _redrawn(groups: Int[Tensor, " n"], resamples: int, generator: torch.Generator) -> Float[Tensor, "b n"]:
    """How often each row comes when as many groups as there are get drawn with replacement (Efron 1979).

    A draw of nothing but a single row is drawn anew: of that there is neither a covariance nor a pair.
    """
    sizes = groups.bincount()
    count = len(sizes)
    draws = torch.randint(count, (resamples, count), generator=generator)
    while (alone := (draws == draws[:, :1]).all(1) & (sizes[draws[:, 0]] == 1)).any():
        draws[alone] = torch.randint(count, (int(alone.sum()), count), generator=generator)
    times = torch.zeros(resamples, count, dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    return times[:, groups]


def _left_out(groups: Int[Tensor, " n"]) -> Float[Tensor, "g n"]:
    return (torch.arange(int(groups.max()) + 1)[:, None] != groups).double()


def _jackknife(values: Float[Tensor, " g"]) -> float:
    """The variance from values with one group left out each (Efron & Stein 1981, Eq. 1.4); NaN where one is NaN."""
    return float((values - values.mean()).square().sum() * (len(values) - 1) / len(values))


def _interval(value: float, drawn: Float[Tensor, " b"]) -> tuple[float, float]:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    centre = float(drawn.mean())
    return value + low - centre, value + high - centre
