"""From a model to files: mp4 videos, a contact sheet and the numbers behind them."""

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from biflow import __version__, engines
from biflow.data.clips import natural
from biflow.data.pairs import FramePairs, is_prepared
from biflow.engines import Engine
from biflow.errors import UserError
from biflow.files import device, hardware, write_json
from biflow.networks import load_model, weights_file
from biflow.rollout import Direction, Frame, sample_generators, stream
from biflow.solvers import Solver, SolverError
from biflow.video import IMAGE_SUFFIXES, VideoWriter, contact_sheet, read_image, to_float, to_uint8

log = logging.getLogger("biflow")
COLUMNS = 9  # of a contact sheet, the given frame included
TITLES = {"flow": "FLOW", "biflow": "BI-FLOW", "condiff": "CONDIFF"}


def solver_settings(name: str, *, steps: int | None, rtol: float = 1e-2, atol: float | None = None) -> Solver:
    """The Solver of these command-line options; "reference" is the paper's. Raises UserError."""
    if name == "reference":
        name, reference = "heun", True
    else:
        reference = False
    try:
        return Solver(method=name, steps=steps, rtol=rtol, atol=rtol if atol is None else atol, reference=reference)
    except ValueError as error:
        raise UserError(str(error)) from error


def shipped_model() -> Path:
    """The folder of the model that comes with the package."""
    return Path(str(resources.files("biflow"))) / "models" / "maze"


def first_frames(source: Path, size: tuple[int, int], samples: int | None, seed: int) -> Tensor:
    """First frames as uint8 (b, 3, h, w): an image, the images of a folder, or frames of a prepared set's test split.

    An image of another size is resized, and the logger says so. With more `samples` than images, the images repeat.

    Raises:
        UserError: nothing to start from, or a prepared set of another size.
    """
    if is_prepared(source):
        test = FramePairs(source, split="test")
        if test.size != tuple(size):
            raise UserError(
                f"{source} holds {test.size[0]}x{test.size[1]} frames, the model takes {size[0]}x{size[1]}."
            )
        # As in the paper's code: the second frame of a random pair of the test split.
        picks = np.random.default_rng(seed).permutation(len(test))
        picks = np.resize(picks, samples or 8)
        return test.batch(picks)[:, 1]
    if not source.exists():
        raise UserError(f"--first: there is no {source}; give an image, a folder of images or a prepared set.")
    files = [source] if source.is_file() else _images(source)
    if not files:
        raise UserError(
            f"--first: there are no images in {source}; give an image, a folder of images or a prepared set."
        )
    count = samples or min(len(files), 8)
    frames = []
    for file in (files[i % len(files)] for i in range(count)):
        frame = read_image(file)
        if tuple(frame.shape[-2:]) != tuple(size):
            log.warning("%s is %dx%d; resized to %dx%d.", file, *frame.shape[-2:], *size)
            frame = read_image(file, size)
        frames.append(frame)
    return torch.stack(frames)


def sample(
    folder: Path,
    out: Path,
    *,
    first: Path | None = None,
    frames: int = 512,
    eps: float | None = None,
    direction: Direction = "forward",
    solver: Solver | None = None,
    engine: Engine = "auto",
    fps: float | None = None,
    fps_factor: int = 1,
    samples: int | None = None,
    batch: int = 8,
    seed: int = 0,
    png: bool = False,
) -> dict:
    """Stream videos from the model in `folder` into `out`, and return what stats.json says.

    Writes `sample_000.mp4` …, `sheet.png` and `stats.json` (`nfe`: samples x frames; `seconds`: of solving;
    `settings`; `seed`; `model_sha256`), with `png` also `sample_000/000000.png` …. Memory does not grow with `frames`.
    `first` is not part of the videos: their first frame is the first that the model made. A video's noise depends on
    `seed` and its number alone, not on how many are solved at once.

    Raises:
        UserError: no model, nothing to start from, or settings that do not go together.
    """
    for name, value in (("frames", frames), ("batch", batch), ("samples", samples or 1), ("fps-factor", fps_factor)):
        if value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1.")
    model = load_model(folder, device=device())
    solver = solver or Solver()
    begun = time.perf_counter()
    evaluate, used = engines.fields(model, engine, rtol=solver.rtol)
    making = time.perf_counter() - begun
    height, width = model.config["size"]
    start = first_frames(first or folder / "first", (height, width), samples, seed)
    frames = frames * fps_factor
    rate = (fps or model.config["fps"] or 25.0) * fps_factor
    done = _Done()
    with tqdm(total=len(start) * frames, unit="frame", desc="streaming") as bar:
        if making > 1:
            bar.set_postfix_str(f"{used} took {making:.0f} s to get ready")
        for low in range(0, len(start), batch):
            part = range(low, min(low + batch, len(start)))
            made = stream(
                model,
                to_float(start[part.start : part.stop]).to(device()),
                generators=sample_generators(seed, part),
                eps=eps,
                direction=direction,
                solver=solver,
                in_between=fps_factor,
                fields=evaluate,
            )
            _write(made, done, out=out, part=part, frames=frames, rate=rate, png=png, bar=bar)
            if done.stopped:
                break
    eps = float(model.config["eps"] if eps is None else eps) if model.method == "biflow" else 0.0
    made_frames = sum(len(nfe) for nfe in done.nfe)
    if not made_frames:
        raise KeyboardInterrupt("Stopped before the first frame.")
    per_frame = sum(sum(nfe) for nfe in done.nfe) / made_frames
    speed = made_frames / done.seconds
    stats = {
        "frames": max(len(nfe) for nfe in done.nfe),
        "samples": len(done.nfe),
        "nfe_per_frame": round(per_frame, 3),
        "fps": round(speed, 3),
        "seconds": round(done.seconds, 3),
        "settings": {
            "model": folder.name,
            "method": model.method,
            "eps": eps,
            "direction": direction,
            "solver": asdict(solver),
            "fps_factor": fps_factor,
            "engine": used,
            "batch": min(batch, len(start)),
            "device": str(device()),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "biflow": __version__,
            "torch": torch.__version__,
        },
        "seed": seed,
        "model_sha256": hashlib.sha256(weights_file(folder).read_bytes()).hexdigest(),
        "nfe": done.nfe,
    }
    how = f"{solver.steps} fixed steps" if solver.steps else f"adaptive, rtol {solver.rtol:g}"
    name = "reference" if solver.reference else solver.method
    captions = [
        f"{TITLES[model.method]}, eps {eps:g}, {direction}. Solver: {name}, {how}.",
        f"{per_frame:.1f} NFE per frame, {speed:.1f} frames/s on {hardware()}, {stats['settings']['batch']} at once.",
        f"First column: given frame. Then frames {', '.join(str(i + 1) for i in _columns(frames))}.",
    ]
    contact_sheet([[start[i], *shown] for i, shown in enumerate(done.shown[:16])], out / "sheet.png", captions)
    write_json(out / "stats.json", stats, indent=None)  # long: nfe is samples x frames
    if done.stopped:
        raise KeyboardInterrupt(f"Stopped after {made_frames} frames; they are saved in {out}.")
    return stats


@dataclass
class _Done:
    """What has been streamed so far, a list entry for each sample."""

    nfe: list[list[int]] = field(default_factory=list)
    shown: list[list[Tensor]] = field(default_factory=list)  # the frames of the contact sheet
    seconds: float = 0.0  # of solving, without encoding
    stopped: bool = False


def _write(
    made: Iterator[Frame], done: _Done, *, out: Path, part: range, frames: int, rate: float, png: bool, bar: tqdm
) -> None:
    """Drain `frames` frames of a stream into one mp4 a sample. Ctrl-C ends it early, with whole files."""
    nfe: list[list[int]] = [[] for _ in part]
    shown: list[list[Tensor]] = [[] for _ in part]
    columns = set(_columns(frames))
    with ExitStack() as files:
        writers: list[VideoWriter] = []
        begun = time.perf_counter()
        try:
            for index, frame in enumerate(islice(made, frames)):
                pixels = to_uint8(frame.x).cpu()
                done.seconds += time.perf_counter() - begun  # the copy waited for the device
                if not writers:
                    size = (pixels.shape[-2], pixels.shape[-1])
                    paths = [out / f"sample_{sample:03d}.mp4" for sample in part]
                    scale = max(1, 256 // max(size))
                    writers = [files.enter_context(VideoWriter(path, rate, size, scale=scale)) for path in paths]
                for i, evaluations in enumerate(frame.nfe.tolist()):
                    writers[i].write(pixels[i])
                    nfe[i].append(evaluations)
                    if index in columns:
                        shown[i].append(pixels[i])
                    if png:
                        _write_png(out / f"sample_{part[i]:03d}" / f"{index:06d}.png", pixels[i])
                bar.update(len(part))
                begun = time.perf_counter()
        except KeyboardInterrupt:
            done.stopped = True
        except SolverError as error:
            raise UserError(f"Frame {len(nfe[0]) + 1} could not be solved: {error}") from error
    if writers:
        done.nfe += nfe
        done.shown += shown


def demo(out: Path, *, frames: int, samples: int, seed: int) -> dict:
    """Stream from the shipped model, one video at a time, as it would live, and return what demo.json says.

    Writes `demo.mp4` (the first video), `demo.png` (a sheet of all), `demo.json` (`frames`, `nfe_per_frame`, `fps`,
    `settings` …), and what `sample` writes into `demo/`.
    """
    stats = sample(shipped_model(), out / "demo", frames=frames, samples=samples, batch=1, seed=seed)
    shutil.copyfile(out / "demo" / "sample_000.mp4", out / "demo.mp4")
    shutil.copyfile(out / "demo" / "sheet.png", out / "demo.png")
    write_json(out / "demo.json", {key: value for key, value in stats.items() if key != "nfe"})
    for name in ("demo.mp4", "demo.png", "demo.json"):
        print(out / name)
    return stats


def _images(folder: Path) -> list[Path]:
    """The images directly in a folder, by the integers in their names."""
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=lambda f: natural(f.name))


def _columns(frames: int) -> list[int]:
    """The frames that a contact sheet shows: uniformly over the video, the last one included."""
    return sorted(set(np.linspace(0, frames - 1, COLUMNS - 1).round().astype(int).tolist()))


def _write_png(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
