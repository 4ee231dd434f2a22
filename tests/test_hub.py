"""Models of the Hugging Face Hub, from a stub of its HTTP interface on loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from biflow import hub as hub_module
from biflow.config import Sample
from biflow.errors import UserError
from biflow.model import load_model
from biflow.outputs import sample
from biflow.serve.models import find
from tests.command_line import refused, run
from tests.engines.tiny import save_tiny
from tests.hub import COMMIT

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a first frame, and things beside it that are never downloaded."""
    first = Image.new("RGB", (16, 16), (90, 60, 30))
    folder = save_tiny(tmp_path_factory.mktemp("model"), first, "A model.", eps=0.1)
    for name in ("pytorch_model.bin", "pipeline.py", "checkpoints/step_1/optimizer.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"never")
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["me/squares", "me/squares@main", "me/squares@v1", f"me/squares@{COMMIT}"])
def test_a_model_is_loaded_by_its_id_and_nothing_but_its_files_is_downloaded(name, hub, folder, elsewhere):
    hub.add("me/squares", folder)
    model = load_model(name)
    expected = load_model(folder)
    assert all(
        torch.equal(*pair) for pair in zip(model.weights.parameters(), expected.weights.parameters(), strict=True)
    )
    assert hub_module.repository(model.folder) == f"me/squares@{COMMIT[:12]}"
    assert hub.downloads == ["README.md", "config.json", WEIGHTS, "first/000.png"]


def test_a_model_that_was_downloaded_needs_no_network(hub, folder, elsewhere, monkeypatch):
    hub.add("me/squares", folder)
    first = load_model("me/squares")
    hub.asked.clear()
    load_model("me/squares")
    assert not hub.downloads
    hub.close()
    assert load_model("me/squares").folder == first.folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("me/squares").folder == first.folder


def test_a_local_folder_goes_before_an_id(hub, folder, elsewhere):
    shutil.copytree(folder, "me/squares")
    assert load_model("me/squares").folder.absolute() == elsewhere / "me" / "squares"
    assert not hub.asked


@pytest.mark.parametrize("text", ["runs", "./a/b", "../a/b", "/a/b", "a/b/c", "~/a", "a/", "a/b@", "a b/c", ""])
def test_a_path_of_another_form_is_no_id(text):
    assert not hub_module.is_id(text)


def test_every_command_takes_an_id(hub, folder, elsewhere, prepared, capsys):
    hub.add("me/squares", folder)
    words = ("--frames", 2, "--solver", "euler", "--steps", 1, "--engine", "torch")
    assert run("sample", "me/squares@v1", *words, "--out", "out", capsys=capsys)[0] == 0
    stats = json.loads((elsewhere / "out" / "stats.json").read_text())
    assert stats["settings"]["model"] == f"me/squares@{COMMIT[:12]}"
    ((name, found),) = find(Path("me/squares")).items()
    assert (name, found) == ("squares", load_model("me/squares").folder)
    tiny = ("--network.channels", "[32]", "--network.attention", "[]", "--context", 0, "--own_frames", 0)
    train = ("train", "--data", prepared, "--out", "run", "--steps", 1, "--from", "me/squares", "--preview_every", 0)
    assert run(*train, *tiny, "--batch", 4, "--processes", 1, capsys=capsys)[0] == 0


def test_what_is_no_model_of_the_hub_is_refused_in_a_sentence(hub, folder, elsewhere, capsys):
    hub.add("me/squares", folder)
    hub.gated.add("me/gated")
    hub.repositories["me/text"] = {"README.md": b"", "config.json": b'{"model_type": "gpt2"}', "pytorch_model.bin": b""}
    hub.repositories["me/set"] = {"README.md": b""}
    for name, part in {
        "me/nothing": "no folder me/nothing, and no model me/nothing on the Hugging Face Hub that you may read.",
        "me/gated": "me/gated is a gated model, and you have no access yet. Ask for access on",
        "me/squares@v9": "me/squares has no revision v9;",
        "me/text": "me/text is not a biflow model: it has no diffusion_pytorch_model.safetensors.",
        "me/set": "me/set is not a biflow model: it has no config.json.",
    }.items():
        assert part in refused("sample", name, capsys=capsys)
    assert "hf auth login" in refused("sample", "me/gated", capsys=capsys)
    assert "hf auth login" in refused("serve", "me/nothing", capsys=capsys)
    assert not (elsewhere / "samples").exists()


def test_a_model_of_a_newer_format_or_of_another_program_is_refused(hub, folder, elsewhere, capsys):
    hub.add("me/newer", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1
    hub.repositories["me/newer"]["config.json"] = json.dumps({**config, "format": 3}).encode()
    sentence = refused("sample", "me/newer", capsys=capsys)
    assert "describes a model of format 3, and this biflow reads formats up to 2." in sentence
    assert sentence.endswith("pip install -U biflow")
    hub.add("me/unet", folder)
    hub.repositories["me/unet"]["config.json"] = b'{"_class_name": "UNet2DModel", "sample_size": 16}'
    assert "does not describe a biflow model" in refused("sample", "me/unet", capsys=capsys)
    hub.repositories["me/pickled"] = {**hub.repositories["me/newer"], "config.json": json.dumps(config).encode()}
    hub.repositories["me/pickled"][WEIGHTS] = b"\x80\x04K\x01."
    assert "not a safetensors file" in refused("sample", "me/pickled", capsys=capsys)


def test_weights_that_are_pickles_are_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle, which is never loaded"):
        load_model(tmp_path / "model")


def test_without_a_network_the_sentence_says_what_to_put_where(elsewhere, capsys):
    sentence = refused("sample", "me/squares@v1", capsys=capsys)  # conftest.py: nothing listens there
    assert sentence.startswith("There is no folder me/squares: check the path. If this is the id of a model on the H")
    assert "the model at revision v1 cannot be downloaded (it cannot be reached)" in sentence
    files = f"get config.json, {WEIGHTS} and the folder first from http://127.0.0.1:9/me/squares/tree/v1"
    assert files in sentence
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_answer_of_the_hub_that_is_an_error_is_said(status, hub, elsewhere, monkeypatch):
    hub.status = status
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(UserError, match=f"it answers {status}"):
        load_model("me/squares")


def test_offline_mode_is_said(hub, folder, elsewhere, monkeypatch):
    hub.add("me/squares", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        load_model("me/squares")
    assert not hub.asked


def test_the_usual_variables_of_huggingface_hub_hold(hub, folder, elsewhere):
    """As a user has them: in the environment of a process."""
    hub.add("me/squares", folder)
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(elsewhere / "home")}
    env["PYTHONPATH"] = str(Path(hub_module.__file__).parents[1])
    code = "from biflow.hub import model_folder; print(model_folder('me/squares'))"
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert out.startswith(str(elsewhere / "home" / "hub" / "models--me--squares" / "snapshots" / COMMIT))


def test_a_download_that_breaks_off_leaves_nothing_that_counts_as_the_model(hub, folder, elsewhere, monkeypatch):
    hub.add("me/squares", folder)
    whole = hub.repositories["me/squares"][WEIGHTS]
    find_file = hub._find

    def torn(command, path, body):
        status, headers, content = find_file(command, path, body)
        if path.startswith("/storage") and path.endswith(WEIGHTS):
            headers = {**headers, "Content-Length": str(len(whole)), "Connection": "close"}
            content = content[:1000]
        return status, headers, content

    monkeypatch.setattr(hub, "_find", torn)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_model("me/squares")
    monkeypatch.setattr(hub, "_find", find_file)
    assert sample(Sample(Path("me/squares"), frames=1, solver="euler", steps=1, engine="torch"))["frames"] == 1
