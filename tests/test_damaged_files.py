"""Every command that reads files of ours: a damaged one of each kind is exit code 2 and one sentence that names it."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.command_line import refused
from tests.fuzz.documents import make

STEP = "run/checkpoints/step_00000004"
WEIGHTS = "model/diffusion_pytorch_model.safetensors"
SAMPLE = ("sample", "model", "--first", "set", "--frames", 1, "--samples", 1, "--engine", "torch")
TRAIN = ("train", "--data", "set", "--out", "run", "--processes", 1)
EVALUATE = ("evaluate", "model", "--data", "set", "--out", "out")
REPORT, EXPORT = ("report", "evaluated"), ("export", "run", "exported")
PLAYED = (*SAMPLE[:2], "--engine", "torch", "--actions", "recording.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    make(root)
    return root


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "files"


def edited(path, *keys, value):
    """Set a value in a JSON file."""
    content = json.loads(path.read_text())
    inside = content
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    path.write_text(json.dumps(content))


CASES = [
    (
        SAMPLE,
        "model/config.json",
        ("size",),
        [10**6, 8],
        r"size\[0\] must be a whole number of at most 4096, not",
    ),
    (SAMPLE, "model/config.json", ("network", "channels"), [10**9], "channels: 1000000000 is wider than 8192"),
    (SAMPLE, "model/config.json", ("network", "channels"), [48], "channels: 48 is not a multiple of 32"),
    (SAMPLE, "model/config.json", ("network", "layers"), 10**9, "layers is 1000000000, but must be at most 16"),
    (SAMPLE, "model/config.json", ("context",), 10**6, "context must be a whole number of at most 256, not 1000000"),
    (SAMPLE, "model/config.json", ("context",), 2, "another shape"),
    (SAMPLE, "model/config.json", ("eps",), float("nan"), "eps must be a number of at least 0"),
    (SAMPLE, "model/config.json", ("fps",), 1e308, "fps must be a number of at most 1000, not 1e"),
    (SAMPLE, "model/config.json", ("v_scale",), "big", "v_scale must be a number, not 'big'"),
    (SAMPLE, "model/config.json", ("actions", "columns"), "ab", "actions.columns must be a list, not 'ab'"),
    (
        SAMPLE,
        "set/index.json",
        ("clips", 0, "start"),
        -1,
        r"clips\[0\]\.start must be a whole number of at least 0",
    ),
    (SAMPLE, "set/index.json", ("clips", 0, "frames"), 7, "overlap other ones or are not among its 12 frames"),
    (SAMPLE, "set/index.json", ("clips", 1, "frames"), 10**9, "test.mp4 has frames 6 to 1000000006, which"),
    (SAMPLE, "set/index.json", ("size",), [16, 16], r"frames\.npy holds \|u1 of shape \(12, 3, 8, 8\)"),
    (SAMPLE, "set/index.json", ("clips",), {}, "clips must be a list"),
    (TRAIN, "set/index.json", ("format",), 2, "format must be another value, not 2. Prepare the folder again"),
    (
        TRAIN,
        f"{STEP}/state.json",
        ("samples",),
        "many",
        "No checkpoint of the run in run is whole; .*state.json",
    ),
    (TRAIN, f"{STEP}/state.json", ("sha256",), {"../../../x": "0" * 64}, "is whole; damaged: .*state.json"),
    (EXPORT, f"{STEP}/state.json", ("seconds",), None, "is whole; damaged: .*state.json"),
    (
        EXPORT,
        "model/../run/config.json",
        ("method",),
        3,
        "does not describe a biflow model: method must be text",
    ),
    (EVALUATE, "model/config.json", ("size",), "8x8", "size must be a list"),
    (EVALUATE, "set/index.json", ("clips", 0, "split"), "val", r"clips\[0\]\.split must be another value, not 'val'"),
    ((*EVALUATE, "--protocol", "protocol.json"), "protocol.json", ("frames",), 10**12, "at most 1000000"),
    (
        (*EVALUATE, "--protocol", "protocol.json"),
        "protocol.json",
        ("solver", "class_path"),
        "os.x",
        r"solver\.class_path",
    ),
    (REPORT, "evaluated/metrics.json", ("fvd", "mean"), float("nan"), "fvd.mean must be a number"),
    (REPORT, "evaluated/metrics.json", ("fvd", "per_window"), [1.0], "fvd has 1 windows, but its settings give 2"),
    (REPORT, "evaluated/metrics.json", ("protocol", "data", "name"), "../x", "data.name must be text of another form"),
    ((*SAMPLE, "--actions", "actions.json"), "actions.json", ("actions", 0), ["x", 1], "row 0 has 'x' for move"),
    (PLAYED, "recording.json", ("recording", "first"), [], "recording.first|first must be a list of length at least 1"),
    (
        PLAYED,
        "recording.json",
        ("recording", "first"),
        ["####"],
        "A picture of the recording recording.json cannot be read",
    ),
    (PLAYED, "recording.json", ("recording", "in_between"), 10**9, "in_between must be a whole number of at most 1000"),
    (PLAYED, "recording.json", ("recording", "solver"), {"class_path": "os.x"}, "no setting class_path"),
]


@pytest.mark.parametrize(("words", "file", "keys", "value", "sentence"), CASES)
def test_a_value_that_does_not_fit_is_named(words, file, keys, value, sentence, folder, capsys):
    edited(folder / file, *keys, value=value)
    found = refused(*words, capsys=capsys)
    assert re.search(sentence, found), found


@pytest.mark.parametrize(
    ("words", "file"),
    [
        *((words, "model/config.json") for words in (SAMPLE, EVALUATE)),
        *((words, WEIGHTS) for words in (SAMPLE, EVALUATE)),
        *((words, f"set/{name}") for words in (SAMPLE, TRAIN, EVALUATE) for name in ("index.json", "frames.npy")),
        (TRAIN, "set/actions.npy"),
        *((words, f"{STEP}/{name}") for words in (TRAIN, EXPORT) for name in ("state.json", "model.safetensors")),
        (TRAIN, f"{STEP}/optimizer.safetensors"),
        (EXPORT, "run/config.json"),
        (REPORT, "evaluated/metrics.json"),
        ((*EVALUATE, "--protocol", "protocol.json"), "protocol.json"),
        ((*TRAIN, "--config", "settings.yaml"), "settings.yaml"),
        ((*SAMPLE, "--actions", "actions.json"), "actions.json"),
        ((*SAMPLE, "--actions", "actions.csv"), "actions.csv"),
        (PLAYED, "recording.json"),
    ],
)
@pytest.mark.parametrize("content", [b"\xff\x00{", b"[" * 9000])
def test_a_file_that_is_something_else_is_named(words, file, content, folder, capsys):
    (folder / file).write_bytes(content)
    assert (folder / file).name in refused(*words, capsys=capsys)


def test_a_model_that_cannot_be_served_ends_the_server_with_its_sentence(folder):
    edited(folder / "model" / "config.json", "fps", value=-1)
    command = [sys.executable, "-m", "biflow.cli", "serve", "model", "--port", "0"]  # it has signals of its own
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "fps must be a number of at least 1e-06, not -1" in ended.stderr.splitlines()[-1]
    assert ended.stderr.count("fps must be") == 1
    assert "Traceback" not in ended.stderr
