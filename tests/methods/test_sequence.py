"""Full-sequence diffusion: its loss, and a model of it from training to files."""

import json

import pytest
import torch

from biflow.config import NetworkConfig, Solver, TrainConfig
from biflow.errors import UserError
from biflow.evaluation.evaluate import evaluate
from biflow.evaluation.protocol import Protocol
from biflow.methods.sequence import SEQUENCE, sequence_loss
from biflow.model import load_model
from biflow.paths import Fields
from biflow.pipeline import BiFlowPipeline
from biflow.reference import import_reference
from biflow.serve.models import load
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


def test_its_card_names_what_it_can_do(trained):
    text = (trained / "README.md").read_text()
    assert "biflow.clips(" in text
    assert "biflow serve" not in text
    assert "It does not stream" in text


def test_samples_are_single_clips_unless_more_is_asked_for(trained, tmp_path, capsys):
    for asked, frames in (([], 4), (["--frames", 9], 9)):
        assert run("sample", trained, "--samples", 2, *asked, "--out", tmp_path / "out", capsys=capsys)[0] == 0
        stats = json.loads((tmp_path / "out" / "stats.json").read_text())
        assert (stats["samples"], stats["frames"], stats["settings"]["engine"]) == (2, frames, "torch")
        assert sum(stats["nfe"][0][:4]) == sum(stats["nfe"][1][:4]) or frames == 9
        assert all(sum(counts[:4]) >= 4 for counts in stats["nfe"])


def test_it_is_evaluated_as_the_others_are(trained, prepared, tmp_path):
    settings = {"samples": 2, "frames": 6, "window": 6, "stride": 6, "frame_stride": 6, "networks": (), "nearest": 0}
    protocol = Protocol(**settings, solver=Solver("euler", steps=4))
    result = evaluate(load_model(trained), prepared, tmp_path / "evaluated", protocol)
    assert result["nfe"]["over_time"] == [1, 1, 1, 1, 1, 1]  # a clip with one given frame, and half of one more
    assert "drift" not in result["over_time"]


def test_the_pipeline_of_diffusers_makes_its_clips(trained):
    frames = BiFlowPipeline.from_pretrained(trained)(num_frames=4, output_type="np").frames
    assert frames.shape == (1, 4, 16, 16, 3)


def test_what_cannot_be_done_is_refused(trained, prepared, tmp_path, capsys):
    sentence = "SEQUENCE makes clips of 5 frames at once, and cannot stream"
    with pytest.raises(UserError, match=sentence):
        load({"clips": trained})
    assert sentence in refused("export", trained, "--onnx", tmp_path / "onnx", capsys=capsys)
    assert "SEQUENCE does not stream" in refused("export", trained, "--web", tmp_path / "page", capsys=capsys)
    assert "takes no noise" in refused("sample", trained, "--eps", 0.2, "--out", tmp_path / "out", capsys=capsys)
    for settings, sentence in (({"span": 1}, "set span to their number of frames"), ({"context": 1}, "use context=0")):
        with pytest.raises(UserError, match=sentence):
            train(TrainConfig(**{"method": "sequence", "span": 4, "network": TINY, **settings}), prepared, tmp_path)
    with pytest.raises(UserError, match="There are no checkpoints of SEQUENCE"):
        import_reference(tmp_path / "model.safetensors", method="sequence", width=32, size=16)


def test_a_server_leaves_it_out(trained, tmp_path, prepared, caplog):
    config = TrainConfig(method="flow", steps=1, batch=2, save_every=1, preview_every=0, network=TINY)
    train(config, prepared, tmp_path / "flow")
    assert list(load({"clips": trained, "flow": tmp_path / "flow"})) == ["flow"]
    assert "clips is left out: SEQUENCE makes clips" in caplog.text
