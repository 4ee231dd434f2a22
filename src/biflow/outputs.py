"""From a model to files: mp4 videos, a contact sheet and the numbers behind them."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from biflow import __version__
from biflow.animation import AnimationWriter
from biflow.background import InTurn
from biflow.config import Demo, Sample, eps_text
from biflow.config.checks import check_writable
from biflow.engines import with_engine
from biflow.errors import UserError
from biflow.files import alone, check_not_others, is_earlier, sha256, together, write_json
from biflow.hub import repository
from biflow.machine import device, hardware
from biflow.model import Model, load_model, shipped_model, weights_file
from biflow.playback import Playback, playback, reseeded
from biflow.rollout import Shown, drain, sample_generators
from biflow.sequences import follow
from biflow.solvers import SolverError
from biflow.summaries import cost, counts, demo_summary, summary
from biflow.video import VideoWriter, contact_sheet, to_float

log = logging.getLogger("biflow")
COLUMNS = 9  # of a contact sheet, the given frame included
# What `sample` writes.
OWN = re.compile(r"sample_\d{3,}\.(mp4|webp|gif)|sample_\d{3,}/\d{6,}\.png|sheet\.png|stats\.json")


def sample(settings: Sample) -> dict:
    """Stream videos from a model into `settings.out`, and return the content of stats.json.

    Writes `sample_000.mp4` …, `sheet.png` and `stats.json` (`nfe`: samples x frames; `eps`: likewise, for eps "auto";
    `seconds`: of solving; `settings`; `seed`; `model_sha256`; `asked`, the numbers of samples and frames, if it was
    interrupted), with `png` also `sample_000/000000.png` …. They appear together at the end, in place of those that an
    earlier run has left; other files stay. Memory does not grow with `frames`. The first frame that is given is not
    part of the videos. A video's noise depends on `seed` and its number alone, not on how many are solved at once.

    Raises:
        UserError: no model, nothing to start from, settings that do not go together, files of others in the way, or a
            frame that cannot be solved, with everything before it saved.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, with everything so far saved. Its message says what that is.
    """
    check_writable(settings.out)
    _check_own(settings.out)
    with alone(settings.out), together(settings.out, sync=False) as new:
        stats = _sample(settings, new)
        _remove_earlier(settings.out)
    return _whole(stats, summary(settings.out, stats))


def _whole(stats: dict, saved: str) -> dict:
    """The same; raises what ended it before all was there."""
    if failure := stats.get("failure"):
        raise UserError(f"{failure} What was made before is saved: {counts(stats)}.")
    if "asked" in stats:
        raise KeyboardInterrupt(f"Stopped. These are saved:\n{saved}")
    return stats


def _sample(settings: Sample, out: Path) -> dict:
    """Stream videos into the folder `out`."""
    model = load_model(settings.model, device=device())
    model = with_engine(model, settings.engine, rtol=settings.rtol)
    play, results = playback(settings, model), _Results(out)
    first = play.frames[:, -1]
    with tqdm(total=len(first) * play.length * play.how["in_between"], unit="frame", desc="streaming") as bar:
        for part in (range(len(first))[low : low + settings.batch] for low in range(0, len(first), settings.batch)):
            start = to_float(play.frames[part.start : part.stop]).to(model.device)
            generators = sample_generators(settings.seed, part)
            frames = follow(model, start, actions=play.actions(part), generators=generators, **play.how)
            frames = reseeded(frames, generators, play.noise) if play.noise else frames
            _write(drain(frames), results, settings, play, model, part, bar)
            if results.interrupted:
                break
        with suppress(BrokenPipeError):
            bar.close()
    if not results.nfe:
        raise results.failure or KeyboardInterrupt("Stopped before the first frame.")
    stats = _stats(settings, play, model, results, min(settings.batch, len(first)))
    rows = [[first[i], *shown] for i, shown in enumerate(results.sheet[:16])]
    contact_sheet(rows, out / "sheet.png", _captions(play, model, stats))
    write_json(out / "stats.json", stats, indent=None)  # long: nfe is samples x frames
    return stats


def _named_as_own(out: Path) -> list[Path]:
    """The files in `out` that have the names of what `sample` writes."""
    names = ((path, path.relative_to(out).as_posix()) for path in (*out.glob("*"), *out.glob("sample_*/*.png")))
    return [path for path, name in names if OWN.fullmatch(name) and path.is_file()]


def _check_own(out: Path) -> None:
    """Raise UserError if files in `out` that would be replaced are not those of an earlier `sample`."""
    found = _named_as_own(out)
    if found and not is_earlier(out / "stats.json", '"model_sha256"'):
        raise UserError(f"{out} holds other files, such as {found[0].name}. Name a new folder.", setting="out")


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier `sample` has written into `out`, so that nothing of it stands among the new files."""
    found = _named_as_own(out)
    if found:
        log.warning("Replacing what an earlier run has written into %s.", out)
    for path in found:
        path.unlink()
    for folder in {path.parent for path in found} - {out}:
        if not any(folder.iterdir()):
            folder.rmdir()


@dataclass
class _Results:
    """What has been streamed so far into the folder `out`, a list entry for each sample."""

    out: Path
    nfe: list[list[int]] = field(default_factory=list)
    eps: list[list[float]] = field(default_factory=list)  # where the level was chosen from frame to frame
    sheet: list[list[Tensor]] = field(default_factory=list)  # the frames of the contact sheet
    seconds: float = 0.0  # of solving, without encoding
    interrupted: bool = False
    failure: UserError | None = None  # of a frame, before which the stream ends


def _write(
    frames: Iterator[Shown], results: _Results, settings: Sample, play: Playback, model: Model, part: range, bar: tqdm
) -> None:
    """Drain a stream into one mp4 per sample. Ctrl-C ends it early, with whole files."""
    columns, factor = _columns(play), play.how["in_between"]
    rate, scale = (settings.fps or model.fps or 25.0) * factor, settings.scale or max(1, 256 // max(model.size))
    nfe, eps, sheet = ([[] for _ in part] for _ in range(3))
    bases = [results.out / f"sample_{sample:03d}" for sample in part]
    paths = [[base.with_suffix(kind) for kind in _kinds(settings)] for base in bases]
    with ExitStack() as files:
        writers: list[list[VideoWriter | AnimationWriter]] = []

        def write(index: int, frame: Shown) -> None:
            for i, (base, pixels) in enumerate(zip(bases, frame.pixels, strict=True)):
                for writer in writers[i]:
                    writer.write(pixels)
                if settings.png:
                    base.mkdir(exist_ok=True)
                    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(base / f"{index:06d}.png")
                nfe[i].append(frame.nfe[i])
                eps[i] += [round(frame.eps[i], 4)] if frame.eps else []
                if index in columns:
                    sheet[i].append(pixels)
            results.seconds += frame.seconds

        behind = InTurn(write)
        try:
            for index, frame in enumerate(islice(frames, play.length * factor)):
                if not writers:
                    how = {"fps": rate, "size": model.size, "scale": scale}
                    writers = [[files.enter_context(_writer(path)(path, **how)) for path in group] for group in paths]
                    files.callback(behind.wait)  # before the files are closed
                behind.do(index, frame)
                with suppress(BrokenPipeError):  # whoever reads the output may be gone, as `tee` after Ctrl-C
                    bar.update(len(part))
        except KeyboardInterrupt:
            results.interrupted = bar.disable = True  # for the same reason
        except UserError as error:
            if not isinstance(error.__cause__, SolverError):
                raise
            results.failure, results.interrupted = error, True
    if writers:
        results.nfe += nfe
        results.eps += eps
        results.sheet += sheet


def _kinds(settings: Sample | Demo) -> list[str]:
    """The suffixes of the files that each video is written to."""
    return [".mp4", *([".webp"] if settings.webp else []), *([".gif"] if settings.gif else [])]


def _writer(path: Path) -> type[VideoWriter] | type[AnimationWriter]:
    return VideoWriter if path.suffix == ".mp4" else AnimationWriter


def _stats(settings: Sample, play: Playback, model: Model, results: _Results, batch: int) -> dict:
    frames, how = sum(map(len, results.nfe)), play.how
    folder = model.folder or settings.model
    used = {
        "model": repository(folder) or folder.resolve().name,
        "method": model.method.name,
        "eps": "auto" if any(results.eps) else float(model.eps if how["eps"] is None else how["eps"]),
        "direction": how["direction"],
    }
    used |= {
        "solver": asdict(how["solver"]),
        "fps_factor": how["in_between"],
        "engine": model.engine,
        **{kind: getattr(settings, kind) for kind in ("webp", "gif", "png")},
    }
    used |= {"actions": settings.actions} if settings.actions else {}
    if model.context:
        used["context_eps"] = float(model.context_eps if how["context_eps"] is None else how["context_eps"])
    used |= {"spin": model.spin} if model.spin else {}
    made_on = {"batch": batch, "device": str(model.device), "hardware": hardware(), "threads": torch.get_num_threads()}
    made_on |= {"biflow": __version__, "torch": torch.__version__}
    asked = {"samples": len(play.frames), "frames": play.length * how["in_between"]}
    return {
        **({"asked": asked} if results.interrupted else {}),
        **({"failure": str(results.failure)} if results.failure else {}),
        "frames": max(map(len, results.nfe)),
        "samples": len(results.nfe),
        "nfe_per_frame": round(sum(map(sum, results.nfe)) / frames, 3),
        "fps": round(frames / results.seconds, 3),
        "seconds": round(results.seconds, 3),
        "settings": used | made_on,
        "seed": play.noise[0] if play.noise else settings.seed,
        "model_sha256": sha256(weights_file(folder, ema=model.ema)),
        "nfe": results.nfe,
        **({"eps": results.eps} if any(results.eps) else {}),
    }


def _captions(play: Playback, model: Model, stats: dict) -> list[str]:
    reached = [str(index + 1) for index in _columns(play) if index < stats["frames"]]
    how, chosen = play.how, [level for levels in stats.get("eps", []) for level in levels]
    eps = eps_text(stats["settings"]["eps"], sum(chosen) / len(chosen) if chosen else None)
    return [
        f"{model.method.title}, eps {eps}, {how['direction']}. Solver: {how['solver']}.",
        cost(stats),
        *([f"{counts(stats)}."] if "asked" in stats else []),
        f"First column: the given frame. Then frames {', '.join(reached)}.",
    ]


def demo(settings: Demo) -> dict:
    """Stream from a shipped model, one video at a time as it would be live, and return the content of demo.json.

    Writes `demo.mp4` (the first video), `demo.png` (a sheet of all), `demo.json` (`frames`, `nfe_per_frame`, `fps`,
    `settings` …) into `settings.out`, and what `sample` writes into `demo/` there. Raises what `sample` raises.
    """
    out, folder = settings.out, settings.out / "demo"
    check_writable(folder)
    _check_own(folder)
    kinds = _kinds(settings)
    check_not_others(out, [*(f"demo{kind}" for kind in kinds), "demo.png"], "demo.json", '"nfe_per_frame"')
    frames, samples, seed = settings.frames, settings.samples, settings.seed
    how = {"frames": frames, "samples": samples, "batch": 1, "seed": seed, "webp": settings.webp, "gif": settings.gif}
    with alone(out), together(out, sync=False) as new:
        (new / "demo").mkdir()
        stats = _sample(Sample(shipped_model(settings.name), **how, out=folder), new / "demo")
        for source, name in (*((f"sample_000{kind}", f"demo{kind}") for kind in kinds), ("sheet.png", "demo.png")):
            shutil.copyfile(new / "demo" / source, new / name)
        _remove_earlier(folder)
        if is_earlier(out / "demo.json", '"nfe_per_frame"'):
            for kind in {".webp", ".gif"}.difference(kinds):
                (out / f"demo{kind}").unlink(missing_ok=True)
        write_json(new / "demo.json", {key: value for key, value in stats.items() if key != "nfe"})
    return _whole(stats, demo_summary(out, stats))


def _columns(play: Playback) -> list[int]:
    """The frames that a contact sheet shows: uniformly over the video, the last one included."""
    last = play.length * play.how["in_between"] - 1
    return sorted(set(np.linspace(0, last, COLUMNS - 1).round().astype(int).tolist()))
