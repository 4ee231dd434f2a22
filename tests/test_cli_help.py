"""Help texts and completion, as a newcomer meets them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cyclopts
import pytest

from biflow import cli, config, shipped_model
from tests.command_line import printed

ROOT = Path(__file__).parents[1]
COMMANDS = list(cli.COMMANDS)


def process(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "biflow.cli", *words], text=True, stderr=subprocess.PIPE, **options)


def arguments(command: str):
    """The arguments of a command, as the help shows them."""
    app = cli.application()
    for word in command.split():
        app = app[word]
    spelled = cyclopts.Parameter(name_transform=cli.flag)
    found = app.assemble_argument_collection(default_parameter=spelled, parse_docstring=True)
    return [argument for argument in found if argument.show]


def help_of(command: str, capsys) -> tuple[str, str]:
    """The help of a command without its frame, and its examples."""
    body, _, examples = printed(*command.split(), "--help", capsys=capsys).partition("\n\nExamples:\n")
    return " ".join(re.sub("[│╭╮╰╯─]", " ", body).split()), examples


def test_help_lists_every_command_and_says_how_to_continue(capsys):
    out = printed("--help", capsys=capsys)
    for command in COMMANDS:
        group, *rest = command.split()
        assert re.search(rf"│ {group} +[A-Z].*{''.join(rest)}.{{10,}}", out)
        if rest:
            assert re.search(rf"│ {rest[0]} +[A-Z].{{20,}}", printed(group, "--help", capsys=capsys))
    lines = out.splitlines()
    assert "Run `biflow COMMAND --help` for the settings of a command, with examples." in lines
    assert any('eval "$(biflow completion bash)"' in line for line in lines)
    assert "    biflow prepare my_clips datasets/mine" in lines
    assert max(map(len, lines)) <= 80
    assert re.findall(r"^│ (\w+) ", out, re.MULTILINE)[:4] == ["demo", "prepare", "train", "sample"]


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("--help", ["", "help", "-h"]),
        ("sample --help", ["help sample", "sample -h", "sample m --frames 3 --help"]),
        ("data fetch --help", ["help data fetch"]),
        ("data --help", ["data", "help data"]),
        ("--version", ["-V", "version"]),
    ],
)
def test_help_and_version_are_found_in_every_way(words, others, capsys):
    expected = printed(*words.split(), capsys=capsys)
    assert {printed(*other.split(), capsys=capsys) for other in others} == {expected}


def test_the_version_is_that_of_the_package(capsys):
    assert printed("--version", capsys=capsys) == f"biflow {cli.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_of_a_command_has_types_and_an_example_that_a_person_can_read(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed(*command.split(), "--help", capsys=capsys)
    assert max(map(len, out.splitlines())) <= columns
    body, examples = help_of(command, capsys)
    assert body.startswith(f"Usage: biflow {command} ")
    assert f"biflow {command}" in examples
    assert columns == 60 or re.search(rf"^    .*{command}", examples, re.MULTILINE)
    assert not re.search(r"class|Union|Path\(|PosixPath|None\b|Literal|tuple|==|--no-|--empty-|\(\w+,\)", body), body


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_the_text_of_every_argument_with_its_default(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    body, examples = help_of(command, capsys)
    assert all(line.startswith("    ") for line in examples.splitlines())
    preset = {cli.flag(name): value for name, value in config.preset("own").items()} if command == "train" else {}
    for argument in arguments(command):
        help = " ".join(argument.parameter.help.split())
        assert help[0].isupper() or help[0] in '"`'
        assert help.endswith(".")
        default = preset.get(argument.name.removeprefix("--"), argument.field_info.default)
        note = f" [default: {list(default) if isinstance(default, tuple) else default}]"
        if argument.required:
            note = " [required]"
        elif default is None or default is False or default in ("", ()):
            note = ""
        name = rf" {re.escape(argument.name)}( [A-Z|]+(\.\.\.)?)? "
        assert re.search(
            rf"{name}{re.escape(help)}( \[choices: [\w, -]+\])?{re.escape(note)}( \*)?( [A-Z]+)?( -|$)", body
        )


def test_help_shows_defaults_and_choices_plainly(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    out = " ".join(help_of(command, capsys)[0] for command in ("sample", "train"))
    for text in (
        "MODEL --model A run of `biflow train`, a model folder, or the id of a model on the Hugging Face Hub "
        "(user/name). [required]",
        "--first PATH What to start from",
        "By default 512, or one per action.",
        "--eps FLOAT ",
        "--direction CHOICE Direction in time. [choices: forward, backward] [default: forward]",
        "--png Also write every frame as a PNG. --out PATH The folder for the results. "
        "Those of an earlier run in it are replaced. [default: samples]",
        "--lr FLOAT Largest learning rate, reached after the warm-up. [default: 0.001]",
        "--network.channels INT... Width of each resolution, from full to coarsest; multiples of 32. "
        "[default: [64, 64, 128]]",
        "--coarse-noise FLOAT Share",
        "[default: 0.0]",
        "Usage: biflow train --data PATH --out PATH [OPTIONS]",
    ):
        assert text in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_command_are_accepted(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "300")
    lines = help_of(command, capsys)[1].splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.strip().removeprefix('eval "$(').removesuffix(')"'))
        begin = words.index("biflow.cli" if "biflow.cli" in words else "biflow")
        cli.parsed(words[begin + 1 :])


def test_help_needs_neither_torch_nor_anything_else_that_is_slow_to_import():
    slow = ("torch", "numpy", "diffusers", "msgspec", "yaml", "tqdm", "markdown_it", "pygments", "pydantic", "PIL")
    for words in (["--help"], ["sample", "--help"], ["version"]):
        script = f"import sys; from biflow import cli; cli.main({words})\n"
        script += f"print(*[name for name in {slow} if name in sys.modules], file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == "\n"


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """What bash offers after some words, of which the last is being written."""
    if not shutil.which("bash"):
        pytest.skip("no bash")
    path = tmp_path_factory.mktemp("completion") / "biflow.bash"
    with path.open("w") as file:
        assert process("completion", "bash", stdout=file).returncode == 0
    subprocess.run(["bash", "-n", path], check=True)

    def offered(*words) -> list[str]:
        script = f'source {path}\nCOMP_WORDS=("$@")\nCOMP_CWORD=$(($# - 1))\n_biflow\necho "${{COMPREPLY[*]}}"'
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
    assert "examples/01_two_moons.py" in bash("train", "--config", "examples/")
    assert bash("sample", "pypro") == ["pyproject.toml"]
    assert bash("train", "--network.channels", "64", "64", "--network.l") == ["--network.layers"]
    assert bash("completion", "") == ["bash", "zsh"]


def test_every_option_is_offered_by_every_shell(bash, capsys):
    zsh = printed("completion", "zsh", capsys=capsys)
    assert zsh.startswith("#compdef biflow\n")
    for command in COMMANDS:
        options = {argument.name for argument in arguments(command)}
        assert options <= set(bash(*command.split(), "-"))
        assert {"-h", "--help"} <= set(bash(*command.split(), "-"))
        for option in options:
            assert re.search(rf"{re.escape(option)}['\[=]", zsh), option


def test_zsh_accepts_its_script(tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("no zsh")
    with (tmp_path / "_biflow").open("w") as file:
        assert process("completion", "zsh", stdout=file).returncode == 0
    subprocess.run(["zsh", "-n", tmp_path / "_biflow"], check=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("completion", "zsh"), ("version",)])
def test_a_closed_pipe_is_no_traceback(words, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*words, stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_a_name_that_the_output_cannot_encode_is_no_traceback(tmp_path):
    folder = tmp_path / "\u65e5\u672c"
    shutil.copytree(shipped_model(), folder, ignore=shutil.ignore_patterns("first"))
    done = process("info", str(folder), stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_an_output_that_is_full_or_closed_is_no_traceback():
    for words in (["--help"], ["version"], ["train", "--data", "x", "--out", "y", "--dry-run"]):
        with open("/dev/full", "w") as full:
            done = process(*words, stdout=full)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("biflow: No space left to write")
    for closed, code in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("nothing 2>/dev/full", 2), ("nothing >&- 2>&-", 2)):
        line = f"{sys.executable} -m biflow.cli {'' if 'nothing' in closed else 'version'} {closed}"
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, "")
