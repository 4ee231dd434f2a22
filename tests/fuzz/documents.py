"""Damaged files through the functions that read them: `python -m tests.fuzz.documents SECONDS`.

Each case damages one file, reads it as the commands do, and puts it back. What is read, or refused by a UserError, is
right; any other exception, and a case of more than LIMIT seconds, is a finding.
"""

import base64
import io
import json
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from biflow.actions import Actions
from biflow.config import NetworkConfig, Sample, Solver, TrainConfig, parse, read_yaml
from biflow.data.action_csv import read_csv
from biflow.data.actions import table
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation.evaluate import _claim
from biflow.evaluation.jobs import Job
from biflow.evaluation.networks.features import Features
from biflow.evaluation.protocol import WITHOUT, Protocol, load_protocol
from biflow.evaluation.report import texts
from biflow.evaluation.report.runs import groups, read_runs
from biflow.evaluation.videos import Videos, read_costs
from biflow.files import write_json, write_tensors
from biflow.methods import BIFLOW
from biflow.model import Model, empty_conditions, load_model, save_model
from biflow.moments import FILE, read_moments
from biflow.networks import VideoUNet
from biflow.playback import playback
from biflow.rollout import stream
from biflow.training import checkpoint
from biflow.training.average import Average
from biflow.training.fingerprint import admitted, fingerprint
from biflow.training.log import _trim
from biflow.training.raw import _read_record
from biflow.video import to_float
from tests.fuzz.mutations import damage

LIMIT = 2.0  # seconds of processor time
ACTIONS = Actions(("move", "turn"), ((0.0, 1.0), (-1.0, 1.0)))
NETWORK = NetworkConfig(channels=(32,), attention=(), patch=2)
CONFIG = TrainConfig(network=NETWORK, batch=2, context=1)
SETTINGS = """steps: 20
lr: 1e-4
network:
  channels: [32, 64]
  attention: [-1]
"""


def make(root: Path) -> None:
    """Write a file of each kind."""
    write_set(root / "set")
    seen = empty_conditions(1, (3, 1, 1), 1, ACTIONS)
    network = VideoUNet(BIFLOW, NETWORK, conditions=seen)
    model = Model(network, BIFLOW, (3, 8, 8), 0.1, 10.0, 1, 0.05, ACTIONS)
    save_model(root / "model", model)
    moments = {"pictures": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "rows": torch.full((2, 3, 2), 0.5)}
    write_tensors(root / "model" / "first" / FILE, moments)
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    data = {**fingerprint(Windows(root / "set")), "since": 0}
    history = {"samples": 8, "seconds": 1.5, "losses": {"v": 0.5}, "processes": 1, "v_scale": 0.2, "data": data}
    checkpoint.save(root / "run", 4, model, optimizer, Average(network.parameters(), 0.9), CONFIG, history)
    state = root / "run" / "checkpoints" / "step_00000004" / "state.json"
    content = json.loads(state.read_text())
    write_json(state, {key: value for key, value in content.items() if key != "sha256"})  # damage is found later
    (root / "run" / "log.jsonl").write_text('{"step": 1, "v": 0.5}\n{"step": 2, "v": 0.25}\n')
    write_json(root / "run" / "made_from.json", {"source": "clips", "settings": {"size": 8}, "files": "0" * 64})
    write_evaluation(root / "evaluated")
    write_json(root / "protocol.json", asdict(Protocol(solver=Solver())))
    (root / "settings.yaml").write_text(SETTINGS)
    write_actions(root)


def write_set(folder: Path) -> None:
    """A prepared set of two clips with actions."""
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8)
    rows = np.full((12, 2), 0.5, np.float32)
    rows[[5, 11]] = np.nan
    clips = [
        {"name": f"{split}.mp4", "source": f"{split}.mp4", "start": start, "frames": 6, "fps": 10.0, "split": split}
        for start, split in ((0, "train"), (6, "test"))
    ]
    np.save(folder / "frames.npy", frames)
    np.save(folder / "actions.npy", rows)
    index = {"format": 1, "size": [8, 8], "channels": 3, "stride": 1, "actions": ACTIONS.as_json(), "clips": clips}
    write_json(folder / "index.json", index)


def write_evaluation(folder: Path) -> None:
    """The files of an evaluation of two videos of 8 frames."""
    (folder / "videos").mkdir(parents=True)
    for sample in range(2):
        np.save(folder / "videos" / f"{sample:03d}.npy", np.full((8, 8, 8, 3), 100, np.uint8))
    np.save(folder / "first.npy", np.full((2, 3, 8, 8), 100, np.uint8))
    write_json(folder / "costs" / "000.json", {"nfe": [3] * 8, "seconds": 0.5})
    write_tensors(folder / "features.safetensors", {"features": torch.zeros(2, 4)})
    distance = {"mean": 3.0, "interval": [1.0, 4.0], "slope": 0.5, "per_window": [2.0, 4.0]}
    distance["per_window_intervals"] = [[1.0, 3.0], [3.0, 5.0]]
    settings = {**asdict(Protocol(solver=Solver())), "samples": 2, "frames": 8, "window": 4, "stride": 4, "eps": 0.1}
    settings["actions"] = "data"
    over_time = {"frames": list(range(8)), "generated": [1.5] * 8, "real": 1.0}
    ratio = {"generated": 1.0, "real": 2.0, "over_real": 0.5, "interval": [0.4, 0.6], "last_over_real": 0.25}
    inverse = {"pairs": {"generated": 28, "real": 99}, "inverse_model": {"sha256": "0123456789"}}
    palettes = {"palettes": 3, "hold": 8, "frames": {"generated": 28, "real": 200}}
    turning = {"script": "left*22 right*22", "videos": 3, "unrelated": "64 pairs of frames"}
    real = {"back": 0.02, "away": 1.1, "turns": 46}
    values = {"model": {"mean": [30.0]}, "dropped": {"mean": [25.0]}, "copy": {"mean": [24.0]}}
    extra = {
        "control": {**ratio, "chance": 0.333, "protocol": inverse},
        "palette": {**ratio, "protocol": palettes},
        "turning": {"back": 0.3, "away": 1.2, "interval": [0.2, 0.4], "unrelated": 0.5, "real": real},
        "truth": {"frames": [1], "psnr": values, "ssim": values, "protocol": {"videos": 3}},
        "motion": {**ratio, "protocol": {}},
        "grid": {**ratio, "protocol": {"period": 2}},
        "notes": [],
    }
    extra["turning"]["protocol"] = turning
    protocol = {
        "settings": settings,
        "engine": "torch",
        "model": {"method": "biflow", "sha256": "0" * 64, **WITHOUT},
        "data": {"name": "squares", "sha256": "0" * 64, "fps": 10.0},
        "networks": {"i3d": {"name": "I3D"}},
    }
    metrics = {"fvd": distance, "kvd": distance, "nfe": {"mean": 2.5, "p95": 3.0}, "seconds_per_frame": 0.1}
    metrics |= {"over_time": {"motion": over_time}, "windows": {"real": 3, "generated": 2}, "note": None}
    write_json(folder / "metrics.json", {**metrics, "protocol": protocol, "past_and_actions": extra})
    write_json(folder / "protocol.json", {key: protocol[key] for key in ("settings", "model", "data", "networks")})


def write_actions(root: Path) -> None:
    """Actions in JSON and CSV, and the JSON beside a recording."""
    rows = [[0.5, -1.0], [1.0, 0.0], [0.0, 0.5]]
    write_json(root / "actions.json", {**ACTIONS.as_json(), "actions": rows})
    (root / "actions.csv").write_text("move,turn\n0.5,-1\n1,0\n0,0.5\n")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    recording = {"seed": 5, "index": 3, "eps": 0.1, "context_eps": 0.05, "direction": "forward", "in_between": 1}
    recording |= {"solver": asdict(Sample(root).full_solver()), "changed": False, "engine": "torch"}
    recording["first"] = [base64.b64encode(picture.getvalue()).decode()]
    write_json(root / "recording.json", {**ACTIONS.as_json(), "actions": [None, *rows], "recording": recording})


class Readers:
    """Reads the files that `make` has written into `root`, as the commands do."""

    def __init__(self, root: Path) -> None:
        self.root, self.model = root, load_model(root / "model")
        self.record = json.loads((root / "evaluated" / "protocol.json").read_text())
        self.kinds: dict[str, tuple[list[str], Callable[[], object]]] = {
            "index": (["set/index.json"], self.prepared_set),
            "frames": (["set/frames.npy"], self.prepared_set),
            "set's actions": (["set/actions.npy"], self.prepared_set),
            "model": (["model/config.json"], self.stream),
            "weights": (["model/diffusion_pytorch_model.safetensors"], lambda: load_model(root / "model")),
            "state": (["run/checkpoints/step_00000004/state.json"], self.resume),
            "checkpoint": ([f"run/checkpoints/step_00000004/{name}.safetensors" for name in FILES], self.load),
            "log": (["run/log.jsonl"], lambda: _trim(root / "run" / "log.jsonl", 2)),
            "source": (["run/made_from.json"], lambda: _read_record(root / "run" / "made_from.json")),
            "metrics": (["evaluated/metrics.json"], self.report),
            "videos": (["evaluated/videos/000.npy", "evaluated/first.npy"], self.videos),
            "costs": (["evaluated/costs/000.json"], lambda: read_costs(root / "evaluated", 0, 8)),
            "features": (["evaluated/features.safetensors"], self.features),
            "claim": (["evaluated/protocol.json"], self.claim),
            "protocol": (["protocol.json"], lambda: load_protocol(str(root / "protocol.json"))),
            "settings": (["settings.yaml"], lambda: parse(TrainConfig, read_yaml(root / "settings.yaml"), "it")),
            "actions": (["actions.json", "actions.csv"], self.actions),
            "moments": ([f"model/first/{FILE}"], lambda: read_moments(root / "model", ACTIONS)),
            "recording": (["recording.json"], lambda: self.play("recording.json")),
        }

    def prepared_set(self) -> None:
        windows = Windows(self.root / "set", "all")
        windows.with_past([0, len(windows) - 1], 1)
        for clip in range(len(windows.clips)):
            windows.clip(clip)
        if windows.actions:
            windows.action_rows(0)
        fingerprint(windows)

    def stream(self) -> None:
        model = load_model(self.root / "model")
        if model.size == (8, 8):  # others take long, as they should
            first = to_float(torch.full((1, 3, 8, 8), 100, dtype=torch.uint8))
            next(stream(model, first, solver=Sample(self.root, solver="euler", steps=1).full_solver()))

    def resume(self) -> None:
        if resumed := checkpoint.newest_whole(self.root / "run"):
            checkpoint.check_settings(resumed, CONFIG)
            admitted(Windows(self.root / "set"), self.root / "run", resumed.state, "refuse")
            assert resumed.v_scale > 0

    def load(self) -> None:
        folder = self.root / "run" / "checkpoints" / "step_00000004"
        network = VideoUNet(BIFLOW, NETWORK, conditions=empty_conditions(1, (3, 1, 1), 1, ACTIONS))
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        checkpoint.load(folder, network, optimizer, Average(network.parameters(), 0.9))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()

    def report(self) -> None:
        runs = read_runs([self.root / "evaluated"])
        texts.comma_separated(runs)
        texts.markdown([(group, []) for group in groups(runs)])

    def videos(self) -> None:
        first = torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)
        Videos(self.root / "evaluated", first, None, 8, np.zeros((2, 2), int)).whole(0)
        self.report()

    def features(self) -> None:
        network = Features("none", "0" * 64, "none", 4, 1, lambda clips: clips.flatten(1))
        Job(self.root / "evaluated" / "features.safetensors", network, lambda: None, [0, 1], 1).features()

    def claim(self) -> None:
        _claim(self.root / "evaluated", self.record)

    def play(self, name: str) -> None:
        first = None if name == "recording.json" else self.root / "set"  # a recording has its own
        playback(Sample(self.root / "model", first=first, actions=str(self.root / name)), self.model)

    def actions(self) -> None:
        for name, rows, settings in read_csv((self.root / "actions.csv").read_bytes(), "actions.csv"):
            table(str(name), rows, settings)
        self.play("actions.csv")
        self.play("actions.json")

    def case(self, kind: str, random: Random) -> str:
        """Damage a file of that kind and read it: "read" or "refused". Anything else that happens is raised."""
        files, read = self.kinds[kind]
        path = self.root / random.choice(files)
        content = path.read_bytes()
        try:
            damage(random, path)
            with limited():
                read()
            return "read"
        except UserError as error:
            if not str(error).isprintable() or len(str(error)) > 1100:
                raise AssertionError("not one sentence") from error
            return "refused"
        finally:
            path.write_bytes(content)


FILES = ("model", "ema", "optimizer")


class TooSlow(BaseException):
    """A case has taken too long."""


@contextmanager
def limited():
    """Raise TooSlow in a body that takes more than LIMIT seconds of processor time."""

    def stop(*_):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main(seconds: float, kinds: list[str] | None = None) -> int:
    """Damage files for so many seconds, print a table of what happened, and return the number of findings."""
    import logging

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    findings, seed = 0, int(time.time())
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        readers = Readers(Path(folder))
        names = kinds or list(readers.kinds)
        print(f"{'reader':14} {'tried':>8} {'read':>8} {'refused':>8} {'findings':>8}   (seed {seed})")
        for name in names:
            counts, end = Counter(), time.monotonic() + seconds / len(names)
            while time.monotonic() < end:
                number = counts.total()
                try:
                    counts[readers.case(name, Random(f"{seed} {name} {number}"))] += 1
                except KeyboardInterrupt:
                    raise
                except BaseException:
                    counts["findings"] += 1
                    if counts["findings"] <= 3:
                        text = traceback.format_exc(limit=-4)
                        print(f"{name}, case {seed} {name} {number}:\n{text[-1500:]}", flush=True)
            line = [f"{counts[key]:8}" for key in ("read", "refused", "findings")]
            print(f"{name:14} {counts.total():8}", *line, flush=True)
            findings += counts["findings"]
    return findings


if __name__ == "__main__":
    sys.exit(min(1, main(float(sys.argv[1]), sys.argv[2:] or None)))
