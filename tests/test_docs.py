"""The documentation: its programs, its examples and the tour run, biflow takes its commands, and its links lead on."""

import doctest
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import biflow
from biflow import NetworkConfig, TrainConfig, cli, train
from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.data.readers import READERS
from biflow.evaluation.over_time import MEASURES
from biflow.methods import METHODS
from biflow.tableaus import TABLEAUS

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "SECURITY.md", "benchmarks/README.md", "CHANGELOG.md"))]
PAGES += sorted(ROOT.glob("docs/*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REGISTRIES = (METHODS, TABLEAUS, READERS, MEASURES)


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """The code blocks of a page in one of these languages, with the line that each begins at."""
    text = page.read_text()
    found = [match for match in FENCE.finditer(text) if match[1] in languages]
    return [(text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def place(page: Path) -> str:
    return str(page.relative_to(ROOT))


PROGRAMS = [
    pytest.param(page, line, code, id=f"{place(page)}:{line}")
    for page in PAGES
    for line, code in blocks(page, "python")
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small take many times longer on several threads if other work runs beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """What the pages presuppose, tiny: `datasets/mine`, a prepared set, and `runs/mine`, a run of a few steps on it."""
    root = tmp_path_factory.mktemp("mine")
    (root / "clips").mkdir()
    for clip in range(5):
        frames = np.full((24, 16, 16, 3), 40, np.uint8)
        for i in range(24):
            left = (clip + i) % 13
            frames[i, 2 * clip : 2 * clip + 5, left : left + 4] = (220, 180, 30 * clip)
        np.save(root / "clips" / f"{clip}.npy", frames)
    prepare(Prepare(root / "clips", root / "datasets" / "mine", size=16), progress=False)
    network = NetworkConfig(channels=(32, 32), layers=1)
    config = TrainConfig(steps=4, batch=4, save_every=4, preview_every=0, network=network)
    train(config, root / "datasets" / "mine", root / "runs" / "mine")
    return root


@pytest.fixture
def elsewhere(mine, tmp_path, monkeypatch):
    """A working directory outside the project that holds `mine`; what a program registers is forgotten after it."""
    for name in ("datasets", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").symlink_to(mine / name / "mine", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(mine / "cache"))
    before = [dict(registry) for registry in REGISTRIES]
    yield tmp_path
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.mark.parametrize(("page", "line", "code"), PROGRAMS)
def test_a_program_in_the_docs_runs_as_it_stands(page, line, code, elsewhere):
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "program"})  # the lines are the page's


@pytest.mark.parametrize("thing", [biflow, biflow.stream], ids=["biflow", "biflow.stream"])
def test_an_example_in_a_docstring_runs_as_it_stands(thing):
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, "example", globs={})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def commands(text: str) -> list[str]:
    """The `biflow` commands in a shell block, without the program that starts them."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:[\w./]*biflow|.*-m biflow\.cli) (\w.*)", line.strip()) for line in lines)
    return [match[1] for match in found if match]


def settings_in(text: str) -> list[str]:
    """The commands `biflow train …` with settings that stand within sentences or tables."""
    found = re.findall(r"`biflow (train [^`\n]*--[^`\n]*)`", FENCE.sub("", text))
    return [command for command in found if not re.search("…|[A-Z]{3}", command)]  # FILE stands for one


COMMANDS = [
    pytest.param(command, id=f"{place(page)}: {command}")
    for page in PAGES
    for _, text in blocks(page, "", "sh")
    for command in commands(text)
]
COMMANDS += [
    pytest.param(f"{command} --data datasets/mine --out runs/mine", id=f"{place(page)}: {command}")
    for page in PAGES
    for command in settings_in(page.read_text())
    if "--data" not in command
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_docs_is_one_that_biflow_takes(command, monkeypatch):
    """All but what it does: words, names of settings, values, and the YAML file."""
    monkeypatch.chdir(ROOT)
    run, _ = cli.parsed(shlex.split(command, comments=True))
    assert run in cli.COMMANDS.values()


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tour_runs_from_its_first_cell_to_its_last(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "biflow_tour.ipynb", as_version=4)
    for cell in notebook.cells:  # the same with shorter streams and a shorter training
        steps = ("--steps 20", "--steps 4 --processes 1")
        for long, short in (("*48", "*12"), ("count=48", "count=12"), ("*18", "*6"), steps):
            cell.source = cell.source.replace(long, short)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    nbclient.NotebookClient(notebook, timeout=170, resources={"metadata": {"path": tmp_path}}).execute(env=environment)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    streams = [output for output in shown if "data:image/webp" in output.get("data", {}).get("text/html", "")]
    assert (len(pictures), len(streams)) == (3, 2)
