"""What a past and actions are for, in numbers: control, truth, palette, turning back, motion and grid.

Each part holds its numbers and, as `protocol`, what they mean and depend on beyond the settings of the evaluation. A
part that does not apply is left out: control, truth and turning need a model with actions, LPIPS its weights, and the
palette a set whose clips differ in it. The usual turn has to occur in the test clips: where left and right steer a car,
they do not turn back. `notes` says why, where that is not plain.

- `control`: `generated` and `real`, the share of actions that an inverse model reads correctly, mean over `columns`;
  `over_real`, their ratio, with its `interval`; `chance`, and `above_chance`, the ratio of what exceeds it.
- `truth`: PSNR, SSIM and LPIPS to the real clip at each of `frames`, as `biflow.evaluation.truth.summed` has them.
- `palette`: changes per 100 frames, `generated` with its `interval` and `real`; `over_real`, with one change added to
  those generated and to those expected of real clips in as many frames.
- `turning`: LPIPS from the first frame to the last (`back`) and to the farthest (`away`), over that of `unrelated`
  frames, with the `interval` of `back`; `real` holds the same of the real clips' own turns.
- `motion` and `grid`: `generated`, `real`, `over_real` with its `interval`, and `last_over_real` of the last 16 frames.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from biflow.data.starts import starts
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation import actions, control, intervals, palette, truth, turning
from biflow.evaluation.jobs import Evaluation
from biflow.evaluation.metrics import PerFrame
from biflow.evaluation.networks.features import Features, load_networks
from biflow.evaluation.networks.lpips import SMALLEST
from biflow.evaluation.protocol import Protocol, data_record
from biflow.evaluation.videos import Videos
from biflow.model import Model

log = logging.getLogger("biflow")
PARTS = ("control", "truth", "palette", "turning", "motion", "grid")
LAST = 16  # frames at the end of a video, of which motion and grid are also measured


def short_videos(model: Model, test: Windows, protocol: Protocol, out: Path) -> dict[str, Videos]:
    """The videos that are needed beside those of the protocol: "truth" and "dropped" (without actions), and "turn"."""
    count, found = protocol.short_videos, {}
    if model.actions is None or protocol.direction == "backward" or not count:
        return found
    choice: dict[str, Any] = {"samples": count, "seed": protocol.seed, "past": model.context}
    if protocol.truth and actions.same(model, test):
        frames = max(protocol.truth)
        try:
            begin = starts(test.root, test.size, **choice, actions=frames)
        except UserError as error:
            log.warning("Truth is left out: %s", error)
        else:
            assert begin.actions is not None
            assert begin.places is not None
            found["truth"] = Videos(out / "truth", begin.frames, begin.actions, frames, begin.places)
            dropped = np.full_like(begin.actions, np.nan)
            found["dropped"] = Videos(out / "dropped", begin.frames, dropped, frames, begin.places)
    rows = actions.turn(model, protocol.turn)
    if rows is not None and (protocol.turn or _real_turns(model, test, rows)):
        begin = starts(test.root, test.size, **choice)
        assert begin.places is not None
        repeated = np.repeat(rows[None], count, 0)
        found["turn"] = Videos(out / "turn", begin.frames, repeated, len(rows), begin.places)
    return found


def measure(
    model: Model, evaluation: Evaluation, networks: Mapping[str, Features], per_frame: PerFrame, *, progress: bool
) -> dict:
    """All of it. The videos of the evaluation are done, and `per_frame` is what `biflow.evaluation.metrics.frames` has.

    Of the `networks`, LPIPS is used; if it is not there, its weights are loaded.
    """
    protocol, notes = evaluation.protocol, []
    training = Windows(evaluation.test.root, split="train")
    record = data_record(training)
    lpips = networks.get("lpips")
    if min(evaluation.test.size) < SMALLEST:
        lpips = None
        notes += [f"LPIPS needs frames of {SMALLEST} pixels a side: parts by it are left out."] * bool(evaluation.short)
    elif evaluation.short and lpips is None:
        try:
            lpips = load_networks(("lpips",), model.device)["lpips"]
        except UserError as error:
            notes.append(str(error))
    result = {"control": None, "truth": _truth(evaluation, lpips), "palette": _palette(evaluation, training, record)}
    if protocol.actions == actions.OWN and protocol.direction == "forward":
        result["control"] = _control(model, evaluation, training, record, progress=progress)
    result["turning"] = _turning(model, evaluation, lpips)
    if _turns_nowhere(model, evaluation):
        script = actions.USUAL_TURN
        notes.append(f"Turning back is left out, as no test clip turns away and back as {script} does.")
    result |= _motion_and_grid(evaluation, per_frame)
    return {**{name: part for name, part in result.items() if part}, "notes": notes}


def _control(model: Model, evaluation: Evaluation, training: Windows, record: dict, *, progress: bool) -> dict | None:
    test, videos, protocol = evaluation.test, evaluation.videos, evaluation.protocol
    digest = record["sha256"] + record["actions_sha256"]
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # whose pools need sizes that divide
    reader = control.load_reader(training, digest, device, progress=progress)
    if reader is None or test.actions is None or videos.rows is None:
        return None
    generated = [reader.correct(videos.whole(i), videos.rows[i]) for i in range(len(videos))]
    clips = range(len(test.clips))
    real = [reader.correct(test.clip(i), test.action_rows(i), control.EVERY) for i in clips]
    read, read_real = (torch.cat([right for right, _ in part]).mean(0) for part in (generated, real))
    classes = torch.cat([truth for _, truth in real])
    chance = torch.stack([column.bincount().max() / len(column) for column in classes.unbind(1)]).double()
    ours, theirs = (_sums([right.mean(1) for right, _ in part]) for part in (generated, real))
    names = [test.actions.columns[column] for column in reader.classes.columns]
    each = zip(names, read.tolist(), read_real.tolist(), chance.tolist(), strict=True)
    fair, fair_real, fair_chance = (float(part.mean()) for part in (read, read_real, chance))
    return {
        "generated": fair,
        "real": fair_real,
        "chance": fair_chance,
        "over_real": fair / max(fair_real, 1e-12),
        "interval": intervals.of_ratio(ours, theirs, protocol.resamples, protocol.seed),
        "above_chance": (fair - fair_chance) / (fair_real - fair_chance) if fair_real > fair_chance else None,
        "columns": {name: dict(zip(("generated", "real", "chance"), row, strict=True)) for name, *row in each},
        "protocol": {
            "pairs": {"generated": sum(len(right) for right, _ in generated), "real": len(classes)},
            "classes": control.described(reader.classes, test.actions),
            "inverse_model": {**control.SETTINGS, "sha256": reader.sha256, "training_sha256": digest},
            "every": control.EVERY,
        },
    }


def _truth(evaluation: Evaluation, lpips: Features | None) -> dict | None:
    if "truth" not in evaluation.short:
        return None
    own, dropped, protocol = evaluation.short["truth"], evaluation.short["dropped"], evaluation.protocol
    real = [evaluation.test.clip(c)[place + 1 : place + 1 + own.frames] for c, place in own.places.tolist()]
    values = truth.measure(own, dropped, real, protocol.truth, lpips)
    how = {"videos": len(own), "lpips": lpips.record() if lpips else None}
    how |= {"psnr": "at most 58.9 dB", "ssim": "Gaussian window of 11 pixels, mean over RGB"}
    return {
        "frames": list(protocol.truth),
        **truth.summed(values, protocol.resamples, protocol.seed),
        "protocol": how,
    }


def _palette(evaluation: Evaluation, training: Windows, record: dict) -> dict | None:
    test, videos, protocol = evaluation.test, evaluation.videos, evaluation.protocol
    palettes = palette.load_palettes(training, record["sha256"])
    if palettes is None:
        return None
    clips = (test.clip(number) for number in range(len(test.clips)))
    real = [(palette.changes(palettes.of(clip)), len(clip) - 1) for clip in clips]  # generated: less the first frame
    each = torch.tensor([palette.changes(palettes.of(videos.whole(i))) for i in range(len(videos))]).double()
    rate = 100 * sum(count for count, _ in real) / sum(length for _, length in real)
    expected = rate / 100 * len(videos) * videos.frames
    return {
        "generated": 100 * float(each.mean()) / videos.frames,
        "interval": [100 * end / videos.frames for end in intervals.of_mean(each, protocol.resamples, protocol.seed)],
        "real": rate,
        "over_real": (float(each.sum()) + 1) / (expected + 1),
        "changes": int(each.sum()),
        "protocol": {
            "palettes": len(palettes.centres),
            "silhouette": palettes.silhouette,
            "hold": palette.HOLD,
            "frames": {"generated": len(videos) * videos.frames, "real": sum(length for _, length in real)},
            **palette.SETTINGS,
        },
    }


def _turning(model: Model, evaluation: Evaluation, lpips: Features | None) -> dict | None:
    videos, test, protocol = evaluation.short.get("turn"), evaluation.test, evaluation.protocol
    if videos is None or lpips is None or model.actions is None or videos.rows is None:
        return None
    script = videos.rows[0]
    apart = turning.unrelated(lpips, test, protocol.seed)
    where = "different clips" if len(test.clips) > 1 else "one clip"
    found = turning.generated(lpips, videos, turning.farthest(script - model.actions.neutral)) / apart
    turns = _real_turns(model, test, script)
    real = turning.real(lpips, test, turns) / apart
    away, back = (dict(zip(("away", "back"), part.mean(0).tolist(), strict=True)) for part in (found, real))
    return {
        **away,
        "interval": intervals.of_mean(found[:, 1], protocol.resamples, protocol.seed),
        "real": {**back, "turns": len(turns)} if turns else None,
        "unrelated": apart,
        "protocol": {
            "script": " ".join((protocol.turn or actions.USUAL_TURN).split()),
            "videos": len(videos),
            "unrelated": f"{turning.PAIRS} pairs of frames of {where}",
            "lpips": lpips.record(),
        },
    }


def _real_turns(model: Model, test: Windows, script: Float[np.ndarray, "n k"]) -> list[turning.Turn]:
    """The turns of the test clips that are like the script; none if their actions are not the model's."""
    if model.actions is None or not actions.same(model, test):
        return []
    return turning.find_turns(test, script, model.actions)


def _turns_nowhere(model: Model, evaluation: Evaluation) -> bool:
    """Whether the usual turn is left out because no test clip has one like it. It need not come back then."""
    protocol = evaluation.protocol
    wanted = protocol.direction == "forward" and protocol.short_videos and protocol.turn is None
    return bool(wanted and "turn" not in evaluation.short and actions.turn(model, None) is not None)


def _motion_and_grid(evaluation: Evaluation, per_frame: PerFrame) -> dict:
    how = {"motion": {"measure": "mean absolute change, grey levels"}, "grid": {"period": evaluation.period}}
    return {
        name: {**_over_real(*per_frame[name], evaluation.protocol), "protocol": {**part, "last": LAST}}
        for name, part in how.items()
    }


def _over_real(ours: list[Float[Tensor, " t"]], theirs: list[Float[Tensor, " _"]], protocol: Protocol) -> dict:
    last = torch.stack([part[-LAST:].mean() for part in ours])
    mean, real = torch.cat(ours).mean(), torch.cat(theirs).mean().clamp(min=1e-12)
    return {
        "generated": float(mean),
        "real": float(real),
        "over_real": float(mean / real),
        "interval": intervals.of_ratio(_sums(ours), _sums(theirs), protocol.resamples, protocol.seed),
        "last_over_real": float(last.mean() / real),
    }


def _sums(parts: list[Float[Tensor, " _"]]) -> Float[Tensor, "n 2"]:
    """The sum and the number of the values of each video."""
    return torch.stack([torch.stack([part.sum(), torch.tensor(float(len(part)))]).double() for part in parts])


def summary(parts: dict) -> list[str]:
    """The numbers in a line each."""
    lines = []
    if part := parts.get("control"):
        read = f"{part['generated']:.1%} of the actions read correctly, {part['real']:.1%} of real ones"
        lines.append(f"Control {part['over_real']:.2f} {_between(part)} of real: {read}; chance {part['chance']:.1%}.")
    if part := parts.get("truth"):
        at = [
            f"{number} {value:.1f}" for number, value in zip(part["frames"], part["psnr"]["model"]["mean"], strict=True)
        ]
        last = {name: values["mean"][-1] for name, values in part["psnr"].items()}
        others = f"{last['dropped']:.1f} without actions, {last['copy']:.1f} for the first frame"
        lines.append(f"Truth: PSNR in dB at frame {', '.join(at)} (there {others}).")
    if part := parts.get("palette"):
        rates = f"{part['generated']:.3f} {_between(part, 3)} per 100 frames, {part['real']:.3f} in real clips"
        lines.append(f"Palette changes {rates}; {part['over_real']:.2f} over real.")
    if part := parts.get("turning"):
        real = f"; real clips {part['real']['back']:.2f}, {part['real']['away']:.2f}" if part["real"] else ""
        end = f"LPIPS to the start {part['back']:.2f} {_between(part)} of that of unrelated frames, {part['away']:.2f}"
        lines.append(f"Turned away and back: {end} when turned away{real}.")
    for name in ("motion", "grid"):
        if part := parts.get(name):
            end = f"{part['over_real']:.2f} {_between(part)} of real, {part['last_over_real']:.2f} at the end"
            lines.append(f"{name.capitalize()} {end}.")
    return lines


def explained(parts: dict) -> list[str]:
    """What the numbers are, with their protocol, in a sentence each."""
    lines = []
    if part := parts.get("control"):
        pairs, chance = part["protocol"]["pairs"], f"chance {part['chance']:.2f}"
        network = f"an inverse model (sha256 {part['protocol']['inverse_model']['sha256'][:8]})"
        end = f"{pairs['generated']} generated and {pairs['real']} real pairs (real {part['real']:.2f}, {chance})"
        lines.append(f"Control: the share of actions that {network} reads correctly, mean over columns; {end}.")
    if part := parts.get("palette"):
        how = part["protocol"]
        frames = f"{how['frames']['generated']} generated frames, {how['frames']['real']} real ones"
        what = f"changes between {how['palettes']} palettes that stay for {how['hold']} frames"
        end = f"{part['real']:.3f} in real clips; over real with one change added to both"
        lines.append(f"Palette: {what}; {frames}; {end}.")
    if part := parts.get("turning"):
        how, real = part["protocol"], part["real"]
        found = f"; real clips' own turns {real['back']:.2f}, away {real['away']:.2f} ({real['turns']})" if real else ""
        over = f"over that of {how['unrelated']}, {part['unrelated']:.3f}"
        lines.append(f"Turned: LPIPS to the start after {how['script']}, {how['videos']} videos, {over}{found}.")
    if part := parts.get("grid"):
        period = f"the power of what repeats every {part['protocol']['period']} pixels"
        lines.append(f"Motion: the mean change from frame to frame. Grid: {period}. Both over the mean of real clips.")
    return lines


def _between(part: dict, digits: int = 2) -> str:
    low, high = part["interval"]
    return f"[{low:.{digits}f}, {high:.{digits}f}]"
