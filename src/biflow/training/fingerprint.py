"""What a run records of its data, so that it resumes on the same."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from biflow.data.windows import AGAIN, Windows
from biflow.documents import map_array
from biflow.errors import UserError
from biflow.files import sha256
from biflow.schemas import State

HASHED = 64 << 20  # bytes of frames: 5,000 frames of 64x64


def fingerprint(windows: Windows) -> dict:
    """Counts, size, rate and checksums of the whole set that these windows are of.

    Of the pixels, as many frames are hashed as HASHED bytes hold, evenly spread over the set. Names and places of clips
    do not matter.
    """
    index, actions = windows.index, windows.root / "actions.npy"
    clips = [[clip.get(key) for key in ("start", "frames", "fps", "split", "actions")] for clip in index["clips"]]
    frames = map_array(windows.root / "frames.npy", np.uint8, (None, 3, *windows.size), AGAIN)
    count = min(len(frames), max(2, HASHED // frames[0].nbytes))
    pixels = hashlib.sha256(str(frames.shape).encode())
    for i in np.linspace(0, len(frames) - 1, count).round().astype(int):
        pixels.update(frames[i].tobytes())
    return {
        "clips": sum(not clip["name"].endswith("[end]") for clip in index["clips"]),  # parts of a clip are one
        "frames": sum(clip["frames"] for clip in index["clips"]),
        "size": list(windows.size),
        "fps": windows.fps,
        "columns": list(windows.actions.columns) if windows.actions else [],
        "index_sha256": hashlib.sha256(json.dumps([clips, index.get("actions")]).encode()).hexdigest(),
        "pixels_sha256": pixels.hexdigest(),
        "actions_sha256": sha256(actions) if windows.actions else None,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two fingerprints, as text for people; "" if nothing does."""
    parts = [f"{then[key]} {key} then, {now[key]} now" for key in ("clips", "frames") if then[key] != now[key]]
    if then["size"] != now["size"]:
        parts.append("{}x{} pixels then, {}x{} now".format(*then["size"], *now["size"]))
    if then["fps"] != now["fps"]:
        rates = [f"{fps:g} frames per second" if fps else "no known rate" for fps in (then["fps"], now["fps"])]
        parts.append(f"{rates[0]} then, {rates[1]} now")
    if then["columns"] != now["columns"]:
        columns = [", ".join(one["columns"]) or "none" for one in (then, now)]
        parts.append(f"actions then: {columns[0]}; now: {columns[1]}")
    names = {"index": "other lengths, rates or splits of clips", "pixels": "other pixels", "actions": "other actions"}
    return "; ".join(parts or [text for key, text in names.items() if then[f"{key}_sha256"] != now[f"{key}_sha256"]])


def admitted(windows: Windows, out: Path, state: State | None, new_data: str) -> dict:
    """The fingerprint of these data, and the step `since` which the run has trained on them.

    `state` is that of the checkpoint in `out` that the run resumes from, None for a new run.

    Raises:
        UserError: other data than the run has been trained on, unless `new_data` is "accept".
    """
    now = fingerprint(windows)
    if state is None:
        return {**now, "since": 0}
    then = state.get("data")  # None in checkpoints of older versions
    changes = differences(then, now) if then else "unknown"
    if then and not changes:
        return {**now, "since": then["since"]}
    if then and then["columns"] != now["columns"]:
        raise UserError(f"The run in {out} was trained on data with other actions ({changes}). Give another folder.")
    if new_data != "accept":
        what = f"was trained on other data ({changes})" if then else "does not record what data it was trained on"
        raise UserError(
            f"The run in {out} {what}: give new_data='accept' to resume it on these, with the v_scale that it has, or "
            "another folder to start anew."
        )
    return {**now, "since": state["step"]}
