"""Models that are quick to trace, and queries for them."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from biflow.config import NetworkConfig
from biflow.methods import BIFLOW, CONDIFF, FLOW, Method
from biflow.model import Model, save_model
from biflow.networks import VideoUNet
from biflow.paths import Fields, Query

TINY = NetworkConfig(channels=(32, 32), attention=(1,), patch=2)


def tiny(method: Method, *, v_scale: float = 0.5, **config) -> Model:
    torch.manual_seed(0)
    network = VideoUNet(method, NetworkConfig(**{**vars(TINY), **config}), v_scale=v_scale).eval()
    return Model(network, method, (3, 16, 16), eps=0.1 if method.takes_eps else 0.0)


def save_tiny(folder: Path, first: Image.Image, card: str, *, eps: float) -> Path:
    """Write a model folder with a first frame and a card."""
    model = tiny(BIFLOW, v_scale=1.0, channels=(32,), attention=())
    save_model(folder, replace(model, eps=eps, fps=10.0))
    (folder / "first").mkdir()
    first.save(folder / "first" / "000.png")
    (folder / "README.md").write_text(card)
    return folder


def query_of(method: Method, batch: int) -> Query:
    x, condition = torch.randn(2, batch, 3, 16, 16)
    t, alpha = torch.rand(2, batch)
    return {FLOW: Query(x, t), BIFLOW: Query(x, t, alpha), CONDIFF: Query(x, alpha=alpha, condition=condition)}[method]


def assert_same_fields(got: Fields, expected: Fields) -> None:
    torch.testing.assert_close(got.v, expected.v, atol=1e-4, rtol=1e-4)
    if expected.n is None:
        assert got.n is None
    else:
        torch.testing.assert_close(got.n, expected.n, atol=1e-4, rtol=1e-4)
