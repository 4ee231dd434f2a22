"""Distances between two sets of features, in float64: Fréchet (FVD, FID) and kernel (KVD, KID), with their errors.

Features are (n, d), one row per clip. Rows from one video are not independent, so standard errors and intervals leave
out and redraw whole groups of rows, if groups are given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), the squared Fréchet distance of two Gaussians.

    m and S are the means and the unbiased covariances of the features. Dowson & Landau 1982. For I3D's logits it is FVD
    (Unterthiner et al. 2018). It is never negative. With fewer features than dimensions, a covariance is singular: the
    value is defined, but much larger than with many features. Raises ValueError for fewer than two features in a set,
    or features that are not finite.
    """
    return float(frechet_distances(x, y, *_once(x, y)))


def frechet_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], wx: Float[Tensor, "b n"], wy: Float[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """`frechet_distance` for each row of weights, which are how often each feature counts."""
    x, y = _float64(x, y)
    centre = x.mean(0)  # what is far from the origin would lose digits in the squares
    x, y = x - centre, y - centre
    means = (wx @ x / wx.sum(1, keepdim=True), wy @ y / wy.sum(1, keepdim=True))
    apart = (means[0] - means[1]).square().sum(1)
    traces = [
        (w @ part.square().sum(1) - w.sum(1) * mean.square().sum(1)) / (w.sum(1) - 1)
        for w, part, mean in zip((wx, wy), (x, y), means, strict=True)
    ]
    cross = _cross_terms(x, y, wx, wy)
    return (apart + traces[0] + traces[1] - 2 * cross).clamp(min=0)


def _cross_terms(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor) -> Float[Tensor, " b"]:
    """tr (S1^1/2 S2 S1^1/2)^1/2 for each row of weights: for S1 = A^T A and S2 = B^T B, the singular values of A B^T.

    A and B have the rows of x and y less their mean, times the root of what each counts. With few rows A B^T comes from
    the products of all rows, which are the same for all weights; with many, from the triangular factors of A and B.
    """
    products = x @ y.T if min(len(x), len(y)) <= x.shape[1] else None
    found = []
    for p, q in tqdm(zip(wx, wy, strict=True), "bootstrap", len(wx), leave=False, disable=len(wx) <= 20 or None):
        root_p, root_q = ((w / (w.sum() - 1)).sqrt()[:, None] for w in (p, q))
        p, q = p / p.sum(), q / q.sum()
        if products is None:
            parts = (x - p @ x) * root_p, (y - q @ y) * root_q
            a, b = (torch.linalg.qr(part, mode="r").R for part in parts)
            product = a @ b.T
        else:
            centred = products - (products @ q)[:, None] - p @ products + p @ products @ q
            product = (centred * root_p * root_q.T)[p > 0][:, q > 0]
        found.append(torch.linalg.svdvals(product).sum())
    return torch.stack(found)


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³. It may be negative.

    Gretton et al. 2012, Eq. 3. With this kernel it is KID (Bińkowski et al. 2018), and for I3D's logits KVD.
    """
    return float(kernel_distances(x, y, *_once(x, y)))


def kernel_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], wx: Float[Tensor, "b n"], wy: Float[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """`kernel_distance` for each row of weights, which are how often each feature counts."""
    x, y = _float64(x, y)
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    # Weighted means over pairs of different features of a set, and over pairs across the sets.
    pairs = ((wx, k_xx.fill_diagonal_(0)), (wy, k_yy.fill_diagonal_(0)))
    within = [((w @ k) * w).sum(1) / (w.sum(1) ** 2 - (w**2).sum(1)) for w, k in pairs]
    return within[0] + within[1] - 2 * ((wx @ k_xy) * wy).sum(1) / (wx.sum(1) * wy.sum(1))


def _float64(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Raises ValueError for fewer than two features, or features that are not finite."""
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"a distance needs at least 2 features per set, not {len(x)} and {len(y)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features contain NaN or infinity")
    return x.detach().to("cpu", torch.float64), y.detach().to("cpu", torch.float64)


def _once(x: Tensor, y: Tensor) -> tuple[Float[Tensor, "1 n"], Float[Tensor, "1 m"]]:
    """Weights that count each feature once."""
    return torch.ones(1, len(x), dtype=torch.float64), torch.ones(1, len(y), dtype=torch.float64)


@dataclass(frozen=True)
class Estimate:
    """A value with its jackknife standard error, None if it has none, and its bootstrap 95 % interval."""

    value: float
    standard_error: float | None
    interval: tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """Distances from one set to each of w sets: their values, and the values when groups are redrawn or left out.

    A redrawn set has fewer distinct rows and therefore a larger Fréchet distance; intervals are shifted back by the
    difference. They show the spread at this n, not how much smaller the distance would be with more features.
    """

    values: Float[Tensor, " w"]
    redrawn: Float[Tensor, "b w"]
    left_out: list[Float[Tensor, "_ w"]]

    def estimate(self, weights: Float[Tensor, " w"]) -> Estimate:
        """The estimate of a weighted sum of the distances: one of them, their mean, or their trend."""
        value, drawn = float(self.values @ weights), self.redrawn @ weights
        variance = sum(_jackknife(part @ weights) for part in self.left_out) if self.left_out else math.nan
        low, high = (value + float(drawn.quantile(share) - drawn.mean()) for share in (0.025, 0.975))
        # The variance is also NaN if one group left out of two leaves a single row, hence no pair.
        return Estimate(value, None if math.isnan(variance) else variance**0.5, (low, high))


def resample(
    x: Float[Tensor, "n d"],
    ys: Sequence[Float[Tensor, "m d"]],
    x_groups: Int[Tensor, " n"] | None = None,
    y_groups: Int[Tensor, " m"] | None = None,
    *,
    resamples: int = 200,
    seed: int,
) -> tuple[Resampled, Resampled]:
    """The Fréchet and the kernel distance from x to each of `ys`, redrawn `resamples` times.

    The groups are the number of the video that each row comes from, the same for all of `ys`. Whole groups are redrawn
    (Efron 1979), the same ones in all of `ys` and for both distances. By default every row is a group. The two-sample
    jackknife, for the kernel distance only, leaves out one group at a time (Arvesen 1969).
    """
    generator = torch.Generator().manual_seed(seed)
    groups = _groups(x, x_groups), _groups(ys[0], y_groups)
    one_x, one_y = _once(x, ys[0])
    left_x, left_y = ((torch.arange(int(part.max()) + 1)[:, None] != part).double() for part in groups)
    redrawn_x, redrawn_y = (_redrawn(part, resamples, generator) for part in groups)
    weights = [(one_x, one_y), (redrawn_x, redrawn_y)]
    left_out = [(left_x, one_y.expand(len(left_x), -1)), (one_x.expand(len(left_y), -1), left_y)]
    return _resampled(frechet_distances, x, ys, weights), _resampled(kernel_distances, x, ys, weights + left_out)


def _resampled(distances: Callable, x: Tensor, ys: Sequence[Tensor], parts: list[tuple[Tensor, Tensor]]) -> Resampled:
    """`distances` (`frechet_distances` or `kernel_distances`) by these pairs of weights: of all, redrawn, left out."""
    wx, wy = (torch.cat(weights) for weights in zip(*parts, strict=True))
    found = torch.stack([distances(x, y, wx, wy) for y in ys], dim=1)
    values, redrawn, *left_out = found.split([len(weights) for weights, _ in parts])
    return Resampled(values[0], redrawn, left_out)


def _groups(features: Tensor, groups: Tensor | None) -> Int[Tensor, " n"]:
    """Group numbers 0, 1, …; if there is only one group, whose spread is unknown, every row becomes a group."""
    if groups is not None and len(groups.unique()) > 1:
        return torch.searchsorted(groups.unique(), groups)
    return torch.arange(len(features))


def _redrawn(groups: Int[Tensor, " n"], resamples: int, generator: torch.Generator) -> Float[Tensor, "b n"]:
    """How often each row occurs if all groups are drawn with replacement (Efron 1979).

    A draw that consists of a single row is repeated, because it has neither a covariance nor a pair.
    """
    sizes = groups.bincount()
    count = len(sizes)
    draws = torch.randint(count, (resamples, count), generator=generator)
    while (alone := (draws == draws[:, :1]).all(1) & (sizes[draws[:, 0]] == 1)).any():
        draws[alone] = torch.randint(count, (int(alone.sum()), count), generator=generator)
    return torch.stack([draw.bincount(minlength=count)[groups] for draw in draws]).double()


def _jackknife(values: Float[Tensor, " g"]) -> float:
    """The variance from the values with one group left out (Efron & Stein 1981, Eq. 1.4); NaN if one of them is."""
    return float((values - values.mean()).square().sum() * (len(values) - 1) / len(values))


# What a set of one video, or of one clip, means for the intervals.
SINGLE = "its overlapping windows are treated as independent: the intervals are too narrow."


def too_few(n: int, dim: int, *, of: str = "windows", names: tuple[str, str] = ("fvd", "kvd")) -> str | None:
    """A warning about distances of so few features, or None. n features span n - 1 dimensions."""
    frechet, kernel = (name.upper() for name in names)
    biased = f"{dim} feature dimensions: the covariance is singular and {frechet} biased upwards."
    hint = f"{kernel} is more reliable; compare {frechet} only at the same N."
    return None if n > dim else f"N = {n} {of} are too few for {biased} {hint}"
