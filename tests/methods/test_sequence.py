"""Full-sequence diffusion: its loss, and a model of it from training to files."""

import json

import pytest
import torch

from biflow.config import NetworkConfig, TrainConfig
from biflow.errors import UserError
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.methods.sequence import SEQUENCE, sequence_loss
from biflow.model import load_model
from biflow.paths import Fields
from biflow.serve.models import load, warm_up
from biflow.training.loop import train
from tests.command_line import refused, run

TINY = NetworkConfig(channels=(32,), attention=(), patch=2)
CONFIG = TrainConfig(method="sequence", span=5, steps=6, batch=2, save_every=6, preview_every=6, lr=1e-3, network=TINY)


def test_the_loss_is_that_of_flow_matching_on_whole_clips():
    clips, n = torch.rand(2, 3, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([0.0, 0.5, 1.0])
    seen = []

    def network(query):
        seen.append(query)
        return Fields(clips - n + 2)

    assert sequence_loss(network, clips, n, alpha)["v"].tolist() == pytest.approx([4] * 3)
    torch.testing.assert_close(seen[0].x, torch.stack([n[0], (n[1] + clips[1]) / 2, clips[2]]))
    assert torch.equal(seen[0].alpha, alpha)


def test_its_windows_are_clips_and_so_are_its_states():
    assert (SEQUENCE.frames(16), SEQUENCE.state((3, 8, 8), 16)) == (16, (16, 3, 8, 8))


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "clips"
    train(CONFIG, prepared, out)
    return out


def test_a_run_draws_previews_and_its_model_knows_its_span(trained):
    assert (trained / "previews" / "step_00000006.png").exists()
    assert load_model(trained).span == 5
    assert "It makes clips of 5 frames, all at once" in (trained / "README.md").read_text()
    assert "12 windows of 5 frames" in (trained / "README.md").read_text()


def test_samples_are_single_clips_unless_more_is_asked_for(trained, tmp_path, capsys):
    for asked, frames in (([], 4), (["--frames", 9], 9)):
        assert run("sample", trained, "--samples", 2, *asked, "--out", tmp_path / "out", capsys=capsys)[0] == 0
        stats = json.loads((tmp_path / "out" / "stats.json").read_text())
        assert (stats["samples"], stats["frames"], stats["settings"]["engine"]) == (2, frames, "torch")
        assert all(counts[0] > 0 and not any(counts[1:4]) for counts in stats["nfe"])


def test_it_is_evaluated_as_the_others_are(trained, prepared, tmp_path):
    settings = {"samples": 2, "frames": 6, "window": 6, "stride": 6, "frame_stride": 6, "networks": (), "nearest": 0}
    result = evaluate(load_model(trained), prepared, tmp_path / "evaluated", Protocol(**settings))
    assert result["nfe"]["mean"] > 0


def test_what_cannot_be_done_is_refused(trained, prepared, tmp_path, capsys):
    with pytest.raises(UserError, match="SEQUENCE makes clips of 5 frames at once, and cannot stream"):
        warm_up(load({"clips": trained})["clips"])  # what a server does first
    assert "eps" in refused("sample", trained, "--eps", 0.2, "--out", tmp_path / "out", capsys=capsys)
    for settings, sentence in (({"span": 1}, "set span to their number of frames"), ({"context": 1}, "set context")):
        with pytest.raises(UserError, match=sentence):
            train(TrainConfig(**{"method": "sequence", "span": 4, "network": TINY, **settings}), prepared, tmp_path)
