"""The card of a model says what is known of it, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from biflow import card
from biflow.config import Export, NetworkConfig, Shipped, TrainConfig
from biflow.files import sha256
from biflow.methods import BIFLOW
from biflow.model import WEIGHTS, Model, load_model, save_model, shipped_model, weights_file
from biflow.networks import VideoUNet
from biflow.training.export import export
from biflow.training.loop import train
from tests.command_line import printed, refused, run

TINY = NetworkConfig(channels=(32,), attention=(), patch=2)
CONFIG = {"batch": 4, "log_every": 2, "save_every": 2, "preview_every": 0, "network": TINY}


@pytest.fixture(autouse=True)
def short_pictures(monkeypatch):
    monkeypatch.setattr("biflow.training.picture.FRAMES", 12)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A run of 4 steps."""
    out = tmp_path_factory.mktemp("runs") / "squares"
    train(TrainConfig(steps=4, lr=1e-3, **CONFIG), prepared, out)
    return out


def metrics(weights):
    """What `biflow evaluate` writes, as far as the card reads it."""
    solver = {"method": "adams", "steps": None, "rtol": 0.01}
    settings = {"name": "quick", "samples": 16, "frames": 64, "eps": 0.1, "direction": "forward", "solver": solver}
    data = {"name": "squares", "split": "test", "clips": 2, "frames": 24}
    protocol = {"settings": settings, "data": data, "model": {"sha256": sha256(weights)}, "commit": "abc"}
    protocol |= {"hardware": "an abacus", "engine": "torch"}
    fvd = {"mean": 123.4, "interval": [100.0, 150.0], "per_window": [123.4], "slope": 0.0}
    return {"fvd": fvd, "nfe": {"mean": 5.5}, "seconds_per_frame": 0.08, "protocol": protocol}


def evaluation(folder, weights):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics(weights)))
    return folder


def rows(text):
    """The tables of a card, as one dictionary."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))


def test_training_writes_a_card_with_what_it_knows(trained):
    loaded = ModelCard.load(trained / "README.md")
    assert loaded.data.to_dict() == {
        "library_name": "biflow",
        "pipeline_tag": "image-to-video",
        "tags": ["biflow", "diffusers", "video-generation", "flow-matching"],
    }
    found = rows(loaded.text)
    assert (found["method"], found["frames"], found["name"]) == ("BI-FLOW", "72 of 16x16", "prepared")
    assert (found["steps"], found["samples"], found["clips"]) == ("4", "16 pairs of frames", "6")
    state = json.loads((trained / "checkpoints" / "step_00000004" / "state.json").read_text())
    assert (found["commit"], found["hardware"]) == (state["commit"], state["hardware"])
    assert "batch 4, lr 0.001" in found["settings"]
    assert f"v {state['losses']['v']:.3g}" in found["losses"]
    assert "No results of an evaluation are recorded" in loaded.text
    assert "Unknown: none was named" in loaded.text
    assert "stream.webp" not in loaded.text


def test_progress_and_results_of_a_run_are_told(trained, capsys, tmp_path):
    state = trained / "checkpoints" / "step_00000004" / "state.json"
    before = state.read_text()
    state.write_text(json.dumps({**json.loads(before), "config": {**json.loads(before)["config"], "steps": 400}}))
    try:
        evaluation(trained / "evaluated", weights_file(trained))
        text = printed("info", trained, capsys=capsys)
        assert re.search(rf"^  folder +{trained}$", text, re.MULTILINE)
        assert "4 of 400 (1%)" in text
        assert re.search(r"^  FVD +123.4 \(95 % interval 100 to 150\)$", text, re.MULTILINE)
        (trained / "evaluated" / "metrics.json").write_text(json.dumps(metrics(state)))  # of other weights
        assert "FVD" not in printed("info", trained, capsys=capsys)
    finally:
        state.write_text(before)
        (trained / "evaluated" / "metrics.json").unlink()


def test_an_exported_model_has_a_card_and_a_moving_picture(trained, tmp_path, capsys):
    folder = evaluation(tmp_path / "evaluated", weights_file(trained))
    export(Export(trained, tmp_path / "squares", license="cc-by-4.0", evaluated=folder))
    loaded = ModelCard.load(tmp_path / "squares" / "README.md")
    assert loaded.data.license == "cc-by-4.0"
    assert "![Streams of this model, each from one of its first frames](stream.webp)" in loaded.text
    found = rows(loaded.text)
    assert found["FVD"] == "123.4 (95 % interval 100 to 150)"
    assert found["protocol"] == "quick: 16 videos of 64 frames, noise level 0.1, adams, rtol 0.01, forward"
    assert found["speed"] == "5.50 evaluations and 0.080 s per frame on an abacus, torch"
    assert found["weights"].endswith("MB, BF16: diffusion_pytorch_model.safetensors")
    with Image.open(tmp_path / "squares" / "stream.webp") as picture:
        assert picture.n_frames > 10
        assert picture.size == (8 * (4 * 16 + 3), 8 * 16)
    capsys.readouterr()  # its progress
    text = printed("info", tmp_path / "squares", capsys=capsys)
    assert text.startswith("squares\nA BI-FLOW video model. It continues a picture as video, frame by frame, at 16x16")
    assert re.search(r"^  licence +cc-by-4.0$", text, re.MULTILINE)


def test_the_code_on_a_card_runs(trained, tmp_path, monkeypatch):
    for folder in (trained, tmp_path / "bare"):
        if folder != trained:
            save_model(folder, load_model(trained))
            card.write_card(folder)
        Image.new("RGB", (20, 20)).save(tmp_path / "photo.jpg")
        text = (folder / "README.md").read_text()
        programs = [part.split("```")[0] for part in text.split("```python\n")[1:]]
        assert len(programs) == 2
        monkeypatch.chdir(tmp_path)
        for program in programs:
            program = program.replace("MODEL", str(folder)).replace("num_frames=100", "num_frames=2")
            exec(program.replace("    ...", "    break"), {"image": Image.open("photo.jpg")})


def test_a_card_that_somebody_has_changed_is_left_alone(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path, Model(VideoUNet(BIFLOW, TINY), BIFLOW, (3, 16, 16)))
    card.write_card(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("not recorded") == 2  # of training and data
    (tmp_path / "README.md").write_text("Mine.")
    card.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == "Mine."
    (tmp_path / "README.md").write_text(text + "\nMore.")  # with the line that says who wrote it
    card.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize("licence", ["mit", "My own: terms | of #use"])
def test_a_licence_of_any_words_is_valid_yaml(licence, tmp_path):
    save_model(tmp_path, Model(VideoUNet(BIFLOW, TINY), BIFLOW, (3, 16, 16)))
    (tmp_path / "evidence.json").write_text(json.dumps({"license": licence}))
    card.write_card(tmp_path)
    front = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    expected = {"license": "mit"} if licence == "mit" else {"license": "other", "license_name": licence}
    assert {key: value for key, value in front.items() if key.startswith("license")} == expected


def test_results_of_other_weights_do_not_get_on_a_card(trained, tmp_path, capsys):
    folder = evaluation(tmp_path / "evaluated", trained / "config.json")
    sentence = refused("export", trained, tmp_path / "out", "--evaluated", folder, capsys=capsys)
    assert f"{folder} is an evaluation of other weights" in sentence
    (folder / "metrics.json").write_text("{}")
    assert "is not an evaluation" in refused("export", trained, tmp_path / "out", "--evaluated", folder, capsys=capsys)
    sentence = refused("export", trained, tmp_path / "out", "--push", "no id", capsys=capsys)
    assert sentence.startswith("--push is 'no id', but must be the id of a repository")
    assert not (tmp_path / "out").exists()


def test_export_uploads_the_folder(trained, tmp_path, hub, capsys):
    code, out, _ = run("export", trained, tmp_path / "out", "--push", "me/squares", capsys=capsys)
    assert code == 0
    assert f"Uploaded: {hub.address}/me/squares/commit/" in out
    assert hub.repositories["me/squares"]["README.md"] == (tmp_path / "out" / "README.md").read_bytes()
    assert {"stream.webp", "config.json", "evidence.json"} < hub.repositories["me/squares"].keys()


def test_info_on_the_hub_of_a_set_and_of_nothing(trained, prepared, tmp_path, hub, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.repositories["me/squares"] = {
        name: (trained / name).read_bytes() for name in ("config.json", "diffusion_pytorch_model.safetensors")
    }
    code, out, _ = run("info", "me/squares", capsys=capsys)
    assert (code, out.splitlines()[0]) == (0, "me/squares")
    text = printed("info", prepared, capsys=capsys)
    assert "train   5 clips, 60 frames" in text
    assert "frames  16x16" in text
    assert "No model in" in refused("info", tmp_path, capsys=capsys)
    assert "does not exist" in refused("info", tmp_path / "nowhere", capsys=capsys)


def test_a_model_without_first_frames_or_that_cannot_stream_is_exported_without_a_picture(trained, tmp_path, caplog):
    from biflow.training.picture import draw

    network = VideoUNet(BIFLOW, TINY)
    with torch.no_grad():
        network.nets[0].conv_out.bias.fill_(1e38)  # finite, as weights must be; frames are not
    save_model(tmp_path, Model(network, BIFLOW, (3, 16, 16)))
    (tmp_path / "stream.webp").touch()  # of another model
    draw(load_model(tmp_path), tmp_path / "stream.webp")
    assert "no first frames" in caplog.text
    (tmp_path / "first").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "first" / "0.png")
    draw(load_model(tmp_path), tmp_path / "stream.webp")
    assert "The card has no moving picture: Frame 1 could not be solved" in caplog.text
    assert not (tmp_path / "stream.webp").exists()


@pytest.mark.parametrize("name", get_args(Shipped))
def test_a_model_that_ships_has_the_card_that_this_code_writes(name, tmp_path):
    folder, copy = shipped_model(name), tmp_path / name
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path) if path.name != "README.md" else None
    card.write_card(copy)
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text()
    assert (folder / "stream.webp").stat().st_size < 1_500_000
    assert Path(folder / "config.json").read_text().count('"format": 1') == 1


def test_weights_that_git_lfs_left_out_are_a_sentence(tmp_path, capsys):
    shutil.copytree(shipped_model(), tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is not a safetensors file" in refused("info", tmp_path / "model", capsys=capsys)
