"""Palettes: the colours that stay throughout a clip and differ between clips, as the walls of a maze do.

What a picture shows changes its colours too, so that colours alone say little. A frame's histogram of colours is
therefore measured in units of how much histograms vary within real clips (as in Fisher's discriminant analysis). In
these units the means of the training clips form clusters, and each cluster is a palette.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from biflow.data.windows import Windows, evenly
from biflow.files import cache_folder, write_tensors
from biflow.tensors import Entry, entries, read_tensors

SETTINGS = {
    "levels": 4,  # of each colour channel, in a histogram
    "clips": 2000,  # of the training split at most, evenly spread: the silhouette compares each with each
    "every": 5,  # n-th frame of them
    "shrinkage": 0.05,  # of the covariance to a multiple of the identity
    "most": 8,  # palettes
    "silhouette": 0.6,  # least, of the clusters, for there to be several palettes
    "starts": 20,  # of k-means
    "seed": 0,
}
HOLD = 8  # frames that a palette has to stay for its change to count


@dataclass(frozen=True)
class Palettes:
    """The palettes of a set.

    Attributes:
        transform: from the square roots of a histogram to units in which real clips vary alike in all directions.
        centres: of the palettes, in these units.
        silhouette: how well they are apart, at most 1.
    """

    transform: Float[Tensor, "d d"]
    centres: Float[Tensor, "k d"]
    silhouette: float

    def of(self, frames: UInt8[Tensor, "t 3 h w"]) -> Int[Tensor, " t"]:
        """The number of the palette of each frame."""
        return torch.cdist(histograms(frames) @ self.transform, self.centres).argmin(1)


def load_palettes(training: Windows, sha256: str) -> Palettes | None:
    """The palettes of a training split, from the user's cache if they are there; None if its clips have one in common.

    `sha256` is the checksum of the split.
    """
    key = hashlib.sha256(json.dumps([sha256, SETTINGS]).encode()).hexdigest()[:32]
    path = cache_folder() / "evaluation" / "palettes" / f"{key}.safetensors"
    if not path.exists():
        numbers = evenly(len(training.clips), SETTINGS["clips"]).tolist()
        parts = [training.parts(number, 50 * SETTINGS["every"]) for number in numbers]
        found = find_palettes(torch.cat([part[:: SETTINGS["every"]] for part in clip]) for clip in parts)
        tensors = {"transform": found.transform, "centres": found.centres}
        write_tensors(path, {**tensors, "silhouette": torch.tensor(found.silhouette, dtype=torch.float64)})
    count, size = entries(path).get("centres", Entry((1,), "F64")).shape[0], SETTINGS["levels"] ** 3
    shapes = {"transform": (size, size), "centres": (count, size), "silhouette": ()}
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    tensors = read_tensors(path, expected, what="a file of palettes")
    palettes = Palettes(tensors["transform"], tensors["centres"], float(tensors["silhouette"]))
    return palettes if len(palettes.centres) > 1 else None


def find_palettes(clips: Iterable[UInt8[Tensor, "t 3 h w"]]) -> Palettes:
    """The palettes of clips. They have a single one if clusters of their means are not well apart."""
    rows = [histograms(clip) for clip in clips]
    means = torch.stack([clip.mean(0) for clip in rows])
    within = torch.cat([clip - mean for clip, mean in zip(rows, means, strict=True)])
    covariance = within.T @ within / len(within)
    least = covariance.diagonal().mean() * SETTINGS["shrinkage"] + 1e-8
    values, vectors = torch.linalg.eigh(covariance + least * torch.eye(len(covariance)))
    transform = vectors * values.rsqrt()
    points, best = means @ transform, (0.0, (means @ transform).mean(0, keepdim=True))
    for count in range(2, min(SETTINGS["most"], len(points) - 1) + 1):
        centres = k_means(points, count)
        apart = silhouette(points, torch.cdist(points, centres).argmin(1))
        best = max(best, (apart, centres), key=lambda pair: pair[0])
    if best[0] < SETTINGS["silhouette"]:
        return Palettes(transform, points.mean(0, keepdim=True), best[0])
    return Palettes(transform, best[1], best[0])


def histograms(frames: UInt8[Tensor, "t 3 h w"]) -> Float[Tensor, "t d"]:
    """The square root of the share of each coarse colour, whose distances are Hellinger's."""
    levels, counts = SETTINGS["levels"], []
    for frame in frames:
        red, green, blue = (frame.int() * levels) // 256
        counts.append(((red * levels + green) * levels + blue).flatten().bincount(minlength=levels**3))
    return (torch.stack(counts).double() / frames[0, 0].numel()).sqrt()


def k_means(points: Float[Tensor, "n d"], count: int) -> Float[Tensor, "k d"]:
    """The centres of the best of several runs, begun as k-means++ does (Arthur & Vassilvitskii 2007)."""
    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    best = (torch.inf, points[:count])
    for _ in range(SETTINGS["starts"]):
        centres = points[torch.randint(len(points), (1,), generator=generator)]
        while len(centres) < count:
            chances = torch.cdist(points, centres).min(1).values.square() + 1e-12
            centres = torch.cat([centres, points[torch.multinomial(chances, 1, generator=generator)]])
        for _ in range(50):
            nearest = torch.cdist(points, centres).argmin(1)
            members = [points[nearest == number] for number in range(count)]
            centres = torch.stack([m.mean(0) if len(m) else c for m, c in zip(members, centres, strict=True)])
        error = float(torch.cdist(points, centres).min(1).values.square().sum())
        best = min(best, (error, centres), key=lambda pair: pair[0])
    return best[1]


def silhouette(points: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
    """How much nearer points are to their own cluster than to the next one, from -1 to 1 (Rousseeuw 1987)."""
    apart, found = torch.cdist(points, points), []
    for row, label in zip(apart, labels, strict=True):
        own = labels == label
        if own.sum() == 1:
            found.append(0.0)
            continue
        near = row[own].sum() / (own.sum() - 1)
        far = torch.stack([row[labels == other].mean() for other in labels.unique() if other != label] or [near]).min()
        found.append(float((far - near) / torch.maximum(near, far).clamp(min=1e-12)))
    return sum(found) / len(found)


def changes(labels: Int[Tensor, " t"], hold: int = HOLD) -> int:
    """How often the palette changes to another that then stays for `hold` frames. The first frame's is the one before.

    A shorter visit to another palette is none. Where a video ends counts as an end of the stay.
    """
    runs = torch.unique_consecutive(labels, return_counts=True)
    kept = [label for label, length in zip(*(part.tolist() for part in runs), strict=True) if length >= hold]
    sequence = list(chain(labels[:1].tolist(), kept))
    return sum(a != b for a, b in pairwise(sequence))
