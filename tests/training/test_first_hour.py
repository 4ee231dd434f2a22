"""What a newcomer does first: train, look at what it says and draws, stream from the run, export it."""

import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biflow.config import NetworkConfig, TrainConfig
from biflow.data.starts import starts
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF
from biflow.model import Model
from biflow.serve.models import load
from biflow.training import loop
from biflow.training.begin import rms_change
from biflow.training.loop import train
from biflow.training.overview import overview
from tests.command_line import run

TINY = ("--batch", 4, "--context", 2, "--network.channels", "[32, 32]", "--network.attention", "[]")
CONFIG = TrainConfig(
    steps=2, batch=4, ema=0.0, context=2, preview_every=2, network=NetworkConfig((32, 32), attention=())
)


def test_a_run_streams_by_the_command_that_it_names(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("train", "--data", prepared, "--out", "my run", "--steps", 2, *TINY, capsys=capsys)
    assert code == 0
    assert out.startswith("Settings: preset own.\nBI-FLOW on ")
    assert "Previews: none before step 50." in out
    command = re.search(r"Stream from it with: biflow (.*)", out)[1]
    assert command == "sample 'my run'"
    fast = ("--samples", 2, "--frames", 2, "--engine", "torch", "--solver", "euler", "--steps", 1)
    assert run(*shlex.split(command), *fast, capsys=capsys)[0] == 0
    assert len(list(Path("samples").glob("sample_*.mp4"))) == 2
    first = starts(Path("my run", "first"), (16, 16), past=2).frames
    assert first.shape == (8, 3, 3, 16, 16)
    test = Windows(prepared, "test").clip(0)
    assert all(any(torch.equal(clip[-1], frame) for frame in test) for clip in first)
    assert run("export", "my run", "model", capsys=capsys)[0] == 0
    assert torch.equal(starts(Path("model", "first"), (16, 16), past=2).frames, first)
    assert torch.equal(load({"model": Path("model")})["model"].first, first)


def test_what_goes_wrong_with_a_preview_does_not_stop_the_run(prepared, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise UserError("Frame 1 could not be solved.")

    monkeypatch.setattr(loop, "preview", fails)
    assert train(CONFIG, prepared, tmp_path)["step"] == 2
    assert "No preview after step 2: Frame 1 could not be solved." in capsys.readouterr().out


def test_ctrl_c_while_a_preview_is_drawn_saves_the_run(prepared, tmp_path, monkeypatch):
    def interrupted(*_, stopped, **__):
        signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # as Python does after Ctrl-C
        assert stopped()
        return False

    monkeypatch.setattr(loop, "preview", interrupted)
    with pytest.raises(KeyboardInterrupt, match="Stopped at step 3; everything is saved"):
        train(replace(CONFIG, steps=100), prepared, tmp_path)


def test_a_run_says_what_it_uses_and_what_to_expect(prepared, tmp_path):
    windows = Windows(prepared)
    model = Model(torch.nn.Linear(1000, 2500), BIFLOW, (3, 16, 16))

    def about(step=0, **changes) -> str:
        config = replace(CONFIG, steps=1000, preview_every=1000, **changes)
        return "\n".join(overview(config, model, windows, tmp_path, step, bf16=True))

    new = about()
    assert f": 1 process of {torch.get_num_threads()} thread" in new
    assert ", bf16.\n" in new
    assert f"Data: {prepared}, 16x16, 60 frames (55 pairs) in 5 clips; 1 clip for testing.\n" in new
    assert "2.5 million parameters, beginning with random weights; it also sees 2 past frames.\n" in new
    assert "Steps: 1000 of 4 pairs, 72.7 passes over the data.\n" in new
    assert f"a picture that stands still has v {rms_change(windows) ** 2:.2g}," in new
    assert "n, the error of the noise, begins at 1" in new
    assert new.endswith(f"Previews: in {tmp_path / 'previews'}, the first after step 50.")
    later = about(step=60)
    assert "resuming after step 60" in later
    assert "begins" not in later
    assert "the next after step 100." in later
    assert "beginning with runs/other; it also" in about(init="runs/other")
    model = replace(model, method=CONDIFF)
    assert "Losses" not in about()
