"""Control: can the actions be read from generated frames as well as from real ones?

A small inverse model reads from two adjacent frames what was done in between. It is trained on real pairs of the
training split, and reads generated pairs, whose actions are known, and real pairs of the test split.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from biflow.actions import Actions
from biflow.data.windows import Windows, window_order
from biflow.evaluation.networks.weights import tensors_sha256
from biflow.files import cache_folder, write_tensors
from biflow.tensors import read_tensors
from biflow.video import to_float

SETTINGS = {"version": 1, "steps": 800, "batch": 64, "rate": 2e-3, "side": 64, "values": 8, "seed": 0}
EVERY = 4  # n-th real pair of the test split is read
AT_ONCE = 256  # pairs to read


class InverseModel(nn.Module):
    """The scores of the classes of all columns, one after another, from the earlier frame and the difference."""

    def __init__(self, classes: int):
        super().__init__()
        convolutions, channels = [], 6
        for width, kernel in ((32, 5), (64, 3), (64, 3)):
            convolutions += [nn.Conv2d(channels, width, kernel, 2, kernel // 2), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.scores = nn.Sequential(nn.Linear(16 * channels, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, pairs: UInt8[Tensor, "b 2 3 h w"]) -> Float[Tensor, "b c"]:
        """The scores. Frames above 64 pixels are averaged down."""
        before, after = to_float(pairs).unbind(1)
        x = torch.cat([before, after - before], 1)
        if max(x.shape[-2:]) > SETTINGS["side"]:
            height, width = (min(side, SETTINGS["side"]) for side in x.shape[-2:])
            x = F.adaptive_avg_pool2d(x, (height, width))
        return self.scores(self.features(x))


@dataclass(frozen=True)
class Classes:
    """What of an action is read: for each column that varies, one of a few classes.

    Attributes:
        columns: the numbers of these columns.
        edges: of each, the values between its classes.
        values: of each, whether a class is a single value in the training split, or a third of the values' range.
    """

    columns: list[int]
    edges: list[Float[np.ndarray, " _"]]
    values: list[bool]

    @property
    def counts(self) -> list[int]:
        """Of each column, the number of classes."""
        return [len(edges) + 1 for edges in self.edges]

    def of(self, rows: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "n c"]:
        """The classes of actions."""
        found = [np.searchsorted(edges, rows[:, c]) for c, edges in zip(self.columns, self.edges, strict=True)]
        return np.stack(found, 1).astype(np.int64)


def find_classes(rows: Float[np.ndarray, "n k"]) -> Classes:
    """The classes of a training split's actions, of which none are unknown.

    Of at most 8 different values, each is a class. Of more, the classes are the thirds of the range that 95 % of the
    values lie in.
    """
    columns, edges, values = [], [], []
    for column in range(rows.shape[1]):
        different = np.unique(rows[:, column])
        if len(different) < 2:
            continue
        single = len(different) <= SETTINGS["values"]
        low, high = np.quantile(rows[:, column], [0.025, 0.975])
        low, high = (low, high) if low < high else (different[0], different[-1])
        thirds = np.array([low + (high - low) * part / 3 for part in (1, 2)])
        columns.append(column)
        values.append(single)
        edges.append((different[1:] + different[:-1]) / 2 if single else thirds)
    return Classes(columns, edges, values)


@dataclass(frozen=True)
class Reader:
    """A trained inverse model and the classes that it tells apart."""

    network: InverseModel
    classes: Classes
    sha256: str

    def correct(
        self, frames: UInt8[Tensor, "t 3 h w"], rows: Float[np.ndarray, "n k"], every: int = 1
    ) -> tuple[Float[Tensor, "p c"], Int[Tensor, "p c"]]:
        """Of every n-th pair of adjacent frames with a known action: what is read correctly (1 or 0), and the classes.

        rows: what was done after each frame but the last.
        """
        places = np.flatnonzero(np.isfinite(rows[: len(frames) - 1]).all(1))[::every]
        truth = torch.from_numpy(self.classes.of(rows[places]))
        pairs = torch.stack([frames[places], frames[places + 1]], 1)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            scores = torch.cat([self.network(part.to(device)).cpu() for part in pairs.split(AT_ONCE)])
        read = torch.stack([part.argmax(1) for part in scores.split(self.classes.counts, 1)], 1)
        return (read == truth).double(), truth


def load_reader(training: Windows, sha256: str, device: torch.device, *, progress: bool = True) -> Reader | None:
    """The inverse model of a training split, from the user's cache if it is there; None if no action ever varies.

    `sha256` is the checksum of the split.
    """
    assert training.actions is not None
    rows = np.concatenate([training.action_rows(clip) for clip in range(len(training.clips))])
    known = np.isfinite(rows).all(1)
    classes = find_classes(rows[known])
    if not classes.columns:
        return None
    key = hashlib.sha256(json.dumps([sha256, SETTINGS]).encode()).hexdigest()[:32]
    path = cache_folder() / "evaluation" / "control" / f"{key}.safetensors"
    if not path.exists():
        write_tensors(path, train(training, classes, device, progress=progress).state_dict())
    with torch.device("meta"):  # no random numbers are drawn
        network = InverseModel(sum(classes.counts))
    network.load_state_dict(read_tensors(path, network.state_dict()), assign=True)
    return Reader(network.to(device).eval(), classes, tensors_sha256(network.state_dict()))


def train(training: Windows, classes: Classes, device: torch.device, *, progress: bool = True) -> InverseModel:
    """Train an inverse model on the pairs of a split (two frames a window) whose actions are known."""
    steps, size, seed = SETTINGS["steps"], SETTINGS["batch"], SETTINGS["seed"]
    every = [training.action_rows(clip) for clip in range(len(training.clips))]
    with torch.random.fork_rng([]):  # nothing else sees the seed of the weights
        torch.manual_seed(seed)
        network = InverseModel(sum(classes.counts)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), SETTINGS["rate"])
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for step in tqdm(range(steps), "inverse model", unit="step", disable=not progress or None):
        picks = window_order(len(training), seed=seed, step=step, batch=size)
        rows = np.stack([every[clip][place] for clip, place in training.places[picks]])
        known = np.isfinite(rows).all(1)
        if not known.any():
            continue
        truth = torch.from_numpy(classes.of(rows[known])).to(device)
        scores = network(training.batch(picks[known]).to(device)).split(classes.counts, 1)
        loss = torch.stack([F.cross_entropy(s, t) for s, t in zip(scores, truth.unbind(1), strict=True)]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return network.eval()


def described(classes: Classes, actions: Actions) -> dict[str, dict]:
    """What the classes of each column are, for the protocol."""
    return {
        actions.columns[column]: {"classes": "values" if single else "thirds", "edges": edges.round(6).tolist()}
        for column, edges, single in zip(classes.columns, classes.edges, classes.values, strict=True)
    }
