"""Tiny random models, a session of them, and a server on a port of its own."""

import numpy as np
import pytest
import torch
from PIL import Image

from biflow import methods
from biflow.config import NetworkConfig
from biflow.model import Model, save_model
from biflow.networks import VideoUNet
from biflow.serve.app import app
from biflow.serve.models import load
from biflow.serve.session import Session
from tests.serve.helpers import Server, Watching, running

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Models with first frames, by name: BI-FLOW, FLOW and CONDIFF of 16x16, BI-FLOW of 24x24."""
    root = tmp_path_factory.mktemp("models")
    kinds = {"bi": (methods.BIFLOW, 16), "flow": (methods.FLOW, 16), "large": (methods.BIFLOW, 24)}
    kinds["con"] = (methods.CONDIFF, 16)
    folders = {}
    for name, (method, side) in kinds.items():
        torch.manual_seed(0)
        folders[name] = root / name
        network = VideoUNet(method, TINY)
        save_model(folders[name], Model(network, method, (3, side, side), eps=0.1, fps=10.0))
        (folders[name] / "first").mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folders[name] / "first" / f"{i}.png")
    return folders


@pytest.fixture(scope="module", autouse=True)  # not for the whole run: other tests want their engines
def torch_engine():
    """PyTorch as it is: OpenVINO takes seconds to get ready for each model. The command in test_server.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("biflow.serve.models.with_engine", lambda model: model)
        yield


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These networks gain nothing from more threads, which wait for each other when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(folders):
    return load(folders)


@pytest.fixture
def session(models):
    """A session without a thread, and one viewer of it."""
    session = Session("test", models)
    session.join(Watching())
    yield session
    session.recorder.close()


@pytest.fixture(scope="module")
def server(folders):
    guarded = app(folders, hosts={"127.0.0.1"})
    with running(guarded) as address:
        yield Server(address, guarded.app.state.hall)
