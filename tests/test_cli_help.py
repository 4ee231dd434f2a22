"""Help texts and completion, as a newcomer meets them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biflow import cli
from biflow.config.arguments import arguments, examples
from tests.command_line import printed

ROOT = Path(__file__).parents[1]
COMMANDS = list(cli.COMMANDS)


def process(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "biflow.cli", *words], text=True, stderr=subprocess.PIPE, **options)


def test_help_lists_every_command_in_a_line_and_says_how_to_go_on(capsys):
    lines = printed("--help", capsys=capsys).splitlines()
    for command in COMMANDS:
        assert any(re.fullmatch(rf"  {command} +[A-Z].{{10,}}\.", line) for line in lines), command
    assert "Run `biflow COMMAND --help` for the options of a command, with examples." in lines
    assert any('eval "$(biflow completion bash)"' in line for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("--help", ["", "help", "-h"]),
        ("sample --help", ["help sample", "sample -h", "sample m --frames 3 --help"]),
        ("data fetch --help", ["help data fetch"]),
        ("--version", ["-V", "version"]),
    ],
)
def test_help_and_version_are_found_in_every_way(words, others, capsys):
    expected = printed(*words.split(), capsys=capsys)
    assert {printed(*other.split(), capsys=capsys) for other in others} == {expected}


def test_the_version_is_that_of_the_package_and_a_group_lists_its_commands(capsys):
    assert printed("--version", capsys=capsys) == f"biflow {cli.__version__}\n"
    assert "  fetch    " in printed("data", "--help", capsys=capsys)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_of_a_command_has_types_defaults_and_an_example_that_a_person_can_read(
    command, columns, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed(*command.split(), "--help", capsys=capsys)
    body, _, shown = out.partition("\nexamples:\n")
    assert body.startswith(f"usage: biflow {command} ")
    assert max(map(len, body.splitlines())) <= max(columns, 80)
    assert shown == "".join(f"  {line}\n" for line in examples(cli.COMMANDS[command][0]).splitlines())
    assert command == "completion" or f"  biflow {command} " in shown or f"  biflow {command}\n" in shown
    assert not re.search(r"class|Union|Path\(|PosixPath|None|Literal|tuple|==", body), body
    body = " ".join(body.split())
    for argument in arguments(cli.COMMANDS[command][0]):
        flag = argument.metavar if argument.positional else f"{argument.name} {argument.metavar}".rstrip()
        assert f" {flag} {' '.join(argument.help.split())}" in body


def test_help_shows_defaults_and_choices_plainly(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = " ".join(printed(command, "--help", capsys=capsys) for command in ("sample", "train"))
    out = " ".join(out.split())
    for text in (
        "--first PATH What to start from",
        "(default: 512)",
        "--eps NUMBER ",
        "--direction {forward,backward} Direction in time. (default: forward)",
        "--png Also write every frame as a PNG. --out PATH The folder for the results. (default: samples)",
        "--lr NUMBER Largest learning rate, reached after the warm-up. (default: 0.0001)",
        "--network.channels N ... Width of each resolution, from full to coarsest; multiples of 32. "
        "(default: [64, 64, 128])",
        "--coarse-noise NUMBER Share",
        "(default: 0)",
        "usage: biflow train --data PATH --out PATH [options]",
    ):
        assert text in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_command_are_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in examples(cli.COMMANDS[command][0]).splitlines():
        words = shlex.split(line.removeprefix('eval "$(').removesuffix(')"'))
        begin = words.index("biflow.cli" if "biflow.cli" in words else "biflow")
        namespace = cli.parser().parse_args(words[begin + 1 :])
        content = namespace.command.content(namespace)
        if "config" in content:
            content = namespace.command.over_file(content, Path(content["config"]))
        namespace.command.read(content)


def test_help_needs_neither_torch_nor_anything_else_that_is_slow_to_import():
    slow = ("torch", "numpy", "diffusers", "msgspec", "yaml", "docstring_parser", "shtab", "tqdm", "logging")
    for words, allowed in (("--help",), ()), (("sample", "--help"), ("docstring_parser",)):
        script = f"import sys; from biflow import cli\ntry: cli.main({list(words)})\nexcept SystemExit: pass\n"
        script += f"print(*[name for name in {slow} if name in sys.modules], file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert tuple(done.stderr.split()) == allowed


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """What bash offers after some words, of which the last is being written."""
    path = tmp_path_factory.mktemp("completion") / "biflow.bash"
    with path.open("w") as file:
        assert process("completion", "bash", stdout=file).returncode == 0
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", path], check=True)

    def offered(*words) -> list[str]:
        script = f'source {path}\nCOMP_WORDS=("$@")\nCOMP_CWORD=$(($# - 1))\n_shtab_biflow\necho "${{COMPREPLY[*]}}"'
        line = ["bash", "-c", script, "bash", "biflow", *words]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout.split()

    return offered


def test_bash_completes_commands_options_values_and_files(bash):
    assert set(bash("")) == {command.split()[0] for command in COMMANDS}
    assert bash("sa") == ["sample"]
    assert bash("data", "") == ["fetch"]
    assert bash("weights", "fetch", "i") == ["i3d", "inception"]
    assert bash("sample", "runs", "--fps-") == ["--fps-factor"]
    assert bash("sample", "runs", "--direction", "") == ["forward", "backward"]
    assert bash("sample", "--png", "--fr") == ["--frames"]  # a switch takes no value
    assert "configs/own.yaml" in bash("train", "--config", "configs/")
    assert bash("sample", "pypro") == ["pyproject.toml"]
    assert bash("train", "--network.channels", "64", "64", "--network.l") == ["--network.layers"]
    assert bash("completion", "") == ["bash", "zsh", "tcsh"]


def test_every_option_is_offered_by_every_shell(bash, capsys):
    zsh, tcsh = printed("completion", "zsh", capsys=capsys), printed("completion", "tcsh", capsys=capsys)
    assert zsh.startswith("#compdef biflow\n")
    for command, (cls, _) in cli.COMMANDS.items():
        options = {argument.name for argument in arguments(cls) if not argument.positional}
        assert set(bash(*command.split(), "-")) == {*options, "-h", "--help"}
        for option in options:
            assert f'"{option}[' in zsh
            assert re.search(rf"[( ]{option[2:]}[) ]", tcsh)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("completion", "zsh")])
def test_a_closed_pipe_is_no_traceback(words, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*words, stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
