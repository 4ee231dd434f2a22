"""`biflow export`: what it takes, what it refuses, and what it leaves alone."""

import json
import shutil

import pytest
import torch

from biflow import load_model, save_model
from biflow.config import Export
from biflow.engines import onnx
from biflow.errors import UserError
from biflow.methods import BIFLOW
from biflow.training.export import export
from biflow.web import build as web
from biflow.web.build import Built
from tests.command_line import printed, refused
from tests.engines.tiny import tiny


@pytest.fixture
def folder(tmp_path):
    """A model folder."""
    save_model(tmp_path / "mine", tiny(BIFLOW, channels=(32,), attention=()))
    (tmp_path / "mine" / "evidence.json").write_text('{"step": 7, "hours": 1.5}')
    return tmp_path / "mine"


def test_a_model_folder_is_exported_like_a_run(folder, tmp_path, capsys):
    small = tmp_path / "small"
    told = f"Exported {folder} as {small}. {small / 'README.md'} says what is known of it.\n"
    assert printed("export", folder, small, capsys=capsys) == told
    assert json.loads((tmp_path / "small" / "evidence.json").read_text()) == {"step": 7, "hours": 1.5}
    ours, theirs = (load_model(path).weights.state_dict() for path in (tmp_path / "small", folder))
    assert all(torch.equal(ours[name], theirs[name].bfloat16().float()) for name in theirs)


def test_a_folder_that_cannot_be_finished_is_not_there(folder, tmp_path, capsys):
    words = ("export", folder, tmp_path / "small", "--first", folder)
    assert "prepared" in refused(*words, capsys=capsys)
    assert not (tmp_path / "small").exists()


def test_something_to_write_is_needed(folder, capsys):
    assert refused("export", folder, capsys=capsys).startswith("Say what to write: a model folder (OUT), ONNX files")


@pytest.mark.parametrize("option", ["onnx", "web"])
def test_a_folder_of_other_files_is_not_replaced(option, folder, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    sentence = refused("export", folder, f"--{option}", tmp_path / "home", capsys=capsys)
    assert sentence == f"--{option}: {tmp_path / 'home'} holds other files, which would be lost. Name a new folder."
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_what_is_no_model_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    sentence = f"{tmp_path / 'empty'} has no checkpoint to export; give a run of biflow train, or a model folder."
    assert refused("export", tmp_path / "empty", "--web", tmp_path / "site", capsys=capsys) == sentence
    assert not (tmp_path / "site").exists()


def test_steps_of_the_frame_are_fixed(folder, tmp_path, capsys):
    words = ("export", folder, "--onnx", tmp_path / "onnx")
    assert refused(*words, "--steps", 0, capsys=capsys) == "--steps is 0, but must be at least 1."
    assert "adaptive Heun" in refused(*words, "--solver", "reference", capsys=capsys)
    assert not (tmp_path / "onnx").exists()


def test_it_says_what_it_has_written_and_how_exact_it_is(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "write_folder", lambda model, out, solver: (6e-6, 2e-7))
    monkeypatch.setattr(web, "build", lambda served, out: Built("fp16", 0.5 / 127.5, 9_300_000, 9_100_000))
    out = printed("export", folder, "--onnx", tmp_path / "onnx", "--web", tmp_path / "site", capsys=capsys)
    assert "From PyTorch differ network.onnx by at most 6e-06, frame.onnx by 2e-07." in out
    assert "(9.3 MB, 9.1 MB compressed; weights in fp16, frames differ from PyTorch's by 0.5 grey levels)" in out
    assert f"python -m http.server --directory {tmp_path / 'site'}" in out


def test_a_model_that_solves_several_frames_at_once_is_no_page_and_no_onnx(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "span": 4, "format": 2}))
    for kind in ("onnx", "web"):
        with pytest.raises(UserError, match="solves 4 frames at once"):
            export(Export(model, **{kind: tmp_path / kind}))
        assert not (tmp_path / kind).exists()


def test_an_export_over_another_model_leaves_nothing_of_it(folder, tmp_path):
    other = tiny(BIFLOW, channels=(32,), attention=())
    out = tmp_path / "out"
    save_model(out, other, ema=other.weights.state_dict())
    (out / "stream.webp").write_bytes(b"a picture of the other")
    export(Export(folder, out), say=str)
    ours, theirs = (load_model(path).weights.state_dict() for path in (out, folder))
    assert all(torch.equal(ours[name], theirs[name].bfloat16().float()) for name in theirs)
    assert not (out / "stream.webp").exists()


def test_a_model_saved_over_one_with_averaged_weights_is_the_one_that_is_read(folder, tmp_path):
    other, out = tiny(BIFLOW, channels=(32,), attention=()), tmp_path / "out"
    save_model(out, other, ema=other.weights.state_dict())
    save_model(out, load_model(folder))
    ours, theirs = (load_model(path).weights.state_dict() for path in (out, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_named_first_of_other_files_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "home" / "first").mkdir(parents=True)
    (tmp_path / "home" / "first" / "holiday.jpg").write_text("years ago")
    assert "holds another first, which would be lost" in refused("export", folder, tmp_path / "home", capsys=capsys)
    assert (tmp_path / "home" / "first" / "holiday.jpg").read_text() == "years ago"


@pytest.mark.parametrize("name", ["config.json", "stream.webp", "evidence.json"])
def test_files_of_a_project_that_have_the_names_of_a_model_are_not_replaced(name, folder, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text('{"mine": 1}')
    sentence = refused("export", folder, tmp_path / "home", capsys=capsys)
    assert name in sentence and "would be lost" in sentence.lower()  # noqa: PT018
    assert (tmp_path / "home" / name).read_text() == '{"mine": 1}'
    assert len(list((tmp_path / "home").iterdir())) == 1


def test_a_site_with_a_service_worker_of_its_own_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "sw.js").write_text("mine")
    assert "holds other files" in refused("export", folder, "--web", tmp_path / "home", capsys=capsys)
    assert (tmp_path / "home" / "sw.js").read_text() == "mine"


def test_no_model_is_written_over_a_run_from_python_either(folder, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is a run of `biflow train`"):
        export(Export(folder, tmp_path / "run"))


def test_what_was_put_beside_an_earlier_export_is_not_removed(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "_write", lambda module, inputs, outputs, path, **options: float(path.touch() or 0))
    export(Export(folder, onnx=tmp_path / "o"), say=str)
    export(Export(folder, onnx=tmp_path / "o"), say=str)  # it may be replaced as it is
    (tmp_path / "o" / ".git").mkdir()
    monkeypatch.setattr(onnx, "_write", None)  # nothing is computed for a folder that cannot be written
    sentence = refused("export", folder, "--onnx", tmp_path / "o", capsys=capsys)
    assert "also holds other files, such as .git, which would be lost." in sentence
    assert (tmp_path / "o" / ".git").is_dir()
