"""Tiny random models, a session of them, and a server on a port of its own."""

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import NetworkConfig
from biflow.networks import VideoUNet
from biflow.serve.app import app
from biflow.serve.models import load
from biflow.serve.session import Session
from biflow.training.checkpoint import save_model
from tests.serve.helpers import Server, Watching, running

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Three models with first frames, by name: BI-FLOW and FLOW of 16x16, BI-FLOW of 24x24."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, method, side in (("bi", "biflow", 16), ("flow", "flow", 16), ("large", "biflow", 24)):
        torch.manual_seed(0)
        made[name] = root / name
        save_model(made[name], VideoUNet(method, TINY, (side, side), eps=0.1, fps=10.0), None, {})
        (made[name] / "first").mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(made[name] / "first" / f"{i}.png")
    return made


@pytest.fixture(scope="module", autouse=True)  # not the session: other tests want their engines
def torch_engine():
    """PyTorch as it is: OpenVINO takes seconds to get ready for each model. The command in test_app.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("biflow.serve.models.engines.fields", lambda model, engine: (model, "torch"))
        yield


@pytest.fixture(scope="module")
def models(folders):
    return load(folders)


@pytest.fixture
def session(models):
    """A session without a thread, and one viewer of it."""
    made = Session("test", models)
    made.join(Watching())
    yield made
    made.recorder.close()


@pytest.fixture(scope="module")
def server(folders):
    guarded = app(folders, hosts={"127.0.0.1"})
    with running(guarded) as address:
        yield Server(address, guarded.app.state.hall)
