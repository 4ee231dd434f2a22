"""Tiny random models, a session of them, and a server on a port of its own."""

from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from biflow import methods
from biflow.actions import Actions
from biflow.config import NetworkConfig
from biflow.model import Model, empty_conditions, save_model
from biflow.networks import VideoUNet
from biflow.serve.app import app
from biflow.serve.models import load
from biflow.serve.session import Session
from tests.serve.browser import Look, launched
from tests.serve.helpers import Server, Watching, running, until

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
        first_frames(folders[name], side)
    return folders


def first_frames(folder, side):
    """Put images to start from into a model folder."""
    (folder / "first").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "first" / f"{i}.png")


@pytest.fixture(scope="session")
def steered_folders(folders, tmp_path_factory):
    """A model of 16x16 that sees two past frames, takes actions and spins, and BI-FLOW of 16x16 and 24x24 without."""
    folder = tmp_path_factory.mktemp("steered") / "walk"
    keys = {"forward": {"move": 1.0}, "back": {"move": -1.0}, "left": {"turn": -1.0}, "right": {"turn": 1.0}}
    actions = Actions(("move", "turn", "jump"), ((-1.0, 1.0), (-1.0, 1.0), (0.0, 2.0)), keys | {"jump": {"jump": 2.0}})
    torch.manual_seed(1)
    network = VideoUNet(methods.BIFLOW, TINY, conditions=empty_conditions(1, (3, 1, 1), 2, actions))
    for name, weights in network.named_parameters():
        if ".class_embedding.vector." in name:  # zero until it is trained, and then no action would matter
            torch.nn.init.normal_(weights, std=0.5)
    save_model(folder, Model(network, methods.BIFLOW, (3, 16, 16), 0.1, 10.0, 2, 0.2, actions, spin=1))
    first_frames(folder, 16)
    return {"walk": folder, "bi": folders["bi"], "large": folders["large"]}


@pytest.fixture(scope="module")
def steered(steered_folders):
    return load(steered_folders, None, Event())


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
    return load(folders, None, Event())


@pytest.fixture
def session(models):
    """A session without a thread, and one viewer of it."""
    session = Session("test", models)
    session.join(Watching())
    yield session
    session.recorder.close()


@pytest.fixture(scope="module")
def server(folders):
    with serving(folders) as server:
        yield server


@pytest.fixture
def shared(steered):
    """A session without a thread, and two viewers of it."""
    session = Session("test", steered)
    for _ in range(2):
        viewer = Watching()
        viewer.number = next(session.numbers)
        session.join(viewer)
    session.change({"solver": "midpoint", "steps": 2})
    session.advance()
    yield session
    session.recorder.close()


@pytest.fixture(scope="module")
def steered_server(steered_folders):
    with serving(steered_folders) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(f"http://{server.address}/")
    yield page
    page.close()
    assert not errors


@pytest.fixture
def look(page, server):
    look = Look(page, server.hall)
    until(lambda: look.index >= 2)
    return look


@contextmanager
def serving(folders):
    guarded = app(folders, hosts={"127.0.0.1"})
    with running(guarded) as address:
        yield Server(address, guarded.app.state.hall)
