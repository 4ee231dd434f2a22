"""A finished run as a small folder to share: bf16 weights, their evidence, and a few first frames."""

import json
import shutil
from pathlib import Path

import torch
from PIL import Image

from biflow.data.pairs import FramePairs
from biflow.errors import UserError
from biflow.files import hardware, write_json, write_tensors
from biflow.networks import load_model
from biflow.training.checkpoint import latest

FIRST = 8  # frames of the test split


def export(run: Path, out: Path, first: Path | None) -> None:
    """Write the run's averaged weights to `out` in bf16, with `evidence.json` and, given a prepared set, `first/*.png`.

    The evidence says what was trained how long on what: step, samples, seconds, losses, config, commit, hardware.

    Raises:
        UserError: `run` has no checkpoint yet.
    """
    checkpoint = latest(run)
    if checkpoint is None:
        raise UserError(f"{run} has no checkpoint to export; give a run of biflow train.")
    model = load_model(run)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    evidence = json.loads((checkpoint / "state.json").read_text())
    evidence["hours"] = round(evidence.pop("seconds") / 3600, 3)
    evidence["hardware"] = hardware()
    write_json(out / "config.json", json.loads(model.to_json_string()))
    write_tensors(out / "diffusion_pytorch_model.safetensors", weights, {"step": str(evidence["step"])})
    write_json(out / "evidence.json", evidence)
    if first:
        test = FramePairs(first, split="test")
        shutil.rmtree(out / "first", ignore_errors=True)
        (out / "first").mkdir()
        # From the middle of clips that lie evenly over the split.
        for i in range(min(FIRST, len(test.clips))):
            clip = i * len(test.clips) // min(FIRST, len(test.clips))
            frame = test.frame(clip, test.clips[clip]["frames"] // 2)
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(out / "first" / f"{i:03d}.png")
