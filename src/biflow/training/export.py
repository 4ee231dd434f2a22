"""A finished run as a small folder to share: bf16 weights, their evidence, and a few first frames."""

import torch
from PIL import Image

from biflow.config import Export
from biflow.data.starts import held_out
from biflow.errors import UserError
from biflow.files import replacing, write_json, write_tensors
from biflow.machine import hardware
from biflow.model import WEIGHTS, load_model, load_weights
from biflow.training.checkpoint import newest_whole

FIRST = 8  # frames of the test split, where there is one


def export(settings: Export) -> None:
    """Write the run's averaged weights in bf16, with `evidence.json` and, given a prepared set, first frames.

    These are images in `first/`; for a model with context folders of images, each with a frame and those before it.

    The evidence states what was trained how long on what: step, samples, seconds, losses, config, commit, hardware.

    Raises:
        UserError: the run has no checkpoint yet, or the first frames cannot be had.
    """
    checkpoint, out = newest_whole(settings.run), settings.out
    if checkpoint is None:
        raise UserError(f"{settings.run} has no checkpoint to export; give a run of biflow train.")
    test = held_out(settings.first) if settings.first else None
    model = load_model(settings.run)
    averaged = checkpoint.folder / "ema.safetensors"
    load_weights(model.weights, averaged if averaged.exists() else checkpoint.folder / "model.safetensors")
    weights = {name: value.to(torch.bfloat16) for name, value in model.weights.state_dict().items()}
    evidence = {key: value for key, value in checkpoint.state.items() if key != "sha256"}
    evidence["hours"] = round(evidence.pop("seconds") / 3600, 3)
    evidence["hardware"] = hardware()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", model.config)
    write_tensors(out / WEIGHTS, weights, {"step": str(evidence["step"])})
    write_json(out / "evidence.json", evidence)
    if test is None:
        return
    with replacing(out / "first") as folder:
        folder.mkdir()
        # From the middle of clips that lie evenly over the split.
        for i in range(min(FIRST, len(test.clips))):
            clip = i * len(test.clips) // min(FIRST, len(test.clips))
            newest = test.clips[clip]["frames"] // 2
            for index in range(max(0, newest - model.context), newest + 1):
                place = folder / f"{i:03d}" / f"{index:06d}.png" if model.context else folder / f"{i:03d}.png"
                place.parent.mkdir(exist_ok=True)
                Image.fromarray(test.frame(clip, index).permute(1, 2, 0).numpy()).save(place)
