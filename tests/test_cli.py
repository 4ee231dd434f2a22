"""From words to settings, and what is refused. tests/test_commands.py runs the commands."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from inspect import signature
from pathlib import Path
from typing import Annotated

import pytest
import torch
import yaml

from biflow import cli, config
from biflow.errors import UserError
from tests.command_line import printed, refused, run

TRAIN = ("train", "--data", "x", "--out", "y")


def settings(*words):
    """The settings that `biflow words` is run with."""
    return cli.parsed([str(word) for word in words])[1].arguments["settings"]


def test_hyphens_and_underscores_are_the_same():
    assert settings("sample", "m", "--fps-factor", 4) == settings("sample", "m", "--fps_factor=4")
    hyphens = settings(*TRAIN, "--network.head-dim", 64, "--dry-run", "--log-every=2")
    assert hyphens == settings(*TRAIN, "--network.head_dim", 64, "--dry_run", "--log_every=2")
    assert (hyphens.network.head_dim, hyphens.dry_run, hyphens.log_every) == (64, True, 2)
    assert settings("sample", "m", "--first", "my_clips/a_b=c.png").first == Path("my_clips/a_b=c.png")


@pytest.mark.parametrize(
    ("words", "png"),
    [
        ((), False),
        (("--png",), True),
        (("--png", "true"), True),
        (("--png", "True"), True),
        (("--png=true",), True),
        (("--png", "false"), False),
        (("--png=false",), False),
        (("--png", "--frames", "3"), True),
    ],
)
def test_a_switch_needs_no_value_and_takes_one(words, png):
    for line in (("m", *words), (*words, "m")):  # a switch does not swallow what follows it
        assert (settings("sample", *line).model, settings("sample", *line).png) == (Path("m"), png)


def test_a_range_may_begin_with_a_minus():
    for words in (["--range", "-1,1"], ["--range=-1,1"]):
        assert settings("prepare", "a", "b", *words).range == "-1,1"


@pytest.mark.parametrize("words", [["[64, 64, 128]"], ["64", "64", "128"], ["[64,64,128]"]])
def test_a_list_is_written_in_brackets_or_as_words(words):
    assert settings(*TRAIN, "--network.channels", *words, "--steps", 3).network.channels == (64, 64, 128)
    assert settings(*TRAIN, "--network.channels=[64, 64, 128]").network.channels == (64, 64, 128)


def test_a_list_may_be_negative_or_empty():
    for words in (["-2", "-1"], ["[-2, -1]"]):
        assert settings(*TRAIN, "--network.attention", *words).network.attention == (-2, -1)
    assert settings(*TRAIN, "--network.attention", "[]").network.attention == ()
    assert settings(*TRAIN, "--network.attention", "--steps", "3").network.attention == ()


@pytest.mark.parametrize(
    ("option", "word", "value"),
    [
        ("eps", "0.2", 0.2),
        ("eps", ".2", 0.2),
        ("eps", "1e-1", 0.1),
        ("eps", "1e-3", 1e-3),
        ("eps", "none", None),
        ("eps", "null", None),
        ("fps", "25", 25.0),
        ("frames", "1_000", 1000),
        ("frames", "12.0", 12),
        ("seed", "0x10", 16),
        ("out", "eps0.1:t12:30", Path("eps0.1:t12:30")),
        ("out", "12", Path("12")),
        ("out", "true", Path("true")),
        ("out", "~", Path("~")),
        ("out", "help", Path("help")),
        ("out", "two\nlines", Path("two\nlines")),
        ("direction", "backward", "backward"),
    ],
)
def test_words_become_the_values_that_they_look_like(option, word, value):
    for words in ((f"--{option}", word), (f"--{option}={word}",)):
        assert getattr(settings("sample", "m", *words), option) == value


def test_text_stays_text():
    assert settings("serve", "m", "--token", "0123", "--host", "true") == config.Serve(
        Path("m"), token="0123", host="true"
    )


def test_what_is_positional_has_its_place_among_options():
    expected = config.Prepare(Path("a"), Path("b"), size=16, crop=True)
    for words in ("a b --size 16 --crop", "--size 16 a --crop b", "--crop --size=16 a b", "--size 16 --crop -- a b"):
        assert settings("prepare", *words.split()) == expected
    assert settings("report", "a", "b", "--out", "c").runs == (Path("a"), Path("b"))
    assert settings("fvd", "--", "-a", "--b").fake == Path("--b")


def test_an_unknown_option_names_the_nearest(capsys):
    sentence = "There is no option --stepz. The nearest is --steps. See `biflow train --help`."
    assert refused(*TRAIN, "--stepz", 3, capsys=capsys) == sentence
    assert "The nearest is --frames." in refused("sample", "m", "--framez", 3, capsys=capsys)
    assert "no option --fps_factr. The nearest is --fps-factor." in refused("sample", "--fps_factr=3", capsys=capsys)
    assert "The nearest is --network.head-dim." in refused(*TRAIN, "--network.head_dims", 3, capsys=capsys)
    assert "The nearest is --network.layers." in refused(*TRAIN, "--network.layer", 3, capsys=capsys)
    assert "no option -f. The nearest is --fps." in refused("sample", "m", "-f", 3, capsys=capsys)
    assert "no option -s. The nearest is --s" in refused("sample", "m", "-s", 3, capsys=capsys)
    far = "There is no option --dry-run. See `biflow prepare --help`."
    assert refused("prepare", "a", "b", "--dry-run", capsys=capsys).endswith(far)
    assert "Did you mean --data instead of --dat?" in refused("train", "--dat", "x", "--out", "y", capsys=capsys)
    assert "no option --frame. The" in refused("sample", "m", "--frame", 3, capsys=capsys)  # no guessing


def test_an_unknown_command_names_the_nearest(capsys):
    sentence = "There is no command 'prepar'. The nearest is 'prepare'; `biflow --help` lists all."
    assert refused("prepar", "a", "b", capsys=capsys) == sentence
    assert "nearest is 'data fetch'" in refused("fetch", capsys=capsys)
    assert "nearest is 'weights fetch'" in refused("weights", "fetchh", "i3d", capsys=capsys)
    assert "nearest is 'sample'" in refused("help", "sampel", capsys=capsys)
    assert "no command '--frames'" in refused("--frames", 3, "sample", capsys=capsys)


def test_the_renderer_that_became_a_program_is_named(capsys):
    assert "python datasets/maze.py" in refused("data", "render", "somewhere", "--clips", 3, capsys=capsys)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--lr", "abc", "--lr must be a number, not 'abc'."),
        ("--steps", 0, "--steps is 0, but must be at least 1."),
        ("--steps", "many", "--steps must be a whole number, not 'many'."),
        ("--ema", 1.5, "--ema is 1.5, but must be at least 0 and below 1."),
        ("--coarse_noise", -1, "--coarse-noise is -1.0, but must be from 0 to 1000."),
        ("--eps", 2000, "--eps is 2000.0, but must be from 0 to 1000."),
        ("--from", "", "--from is empty: name a run or a model, or leave it out."),
        ("--v-scale", 1e-300, "--v-scale is 1e-300, but must be from 1e-6 to 1e6."),
        ("--compile", "=maybe", "--compile must be true or false, not 'maybe'."),
        ("--schedule", "linear", "--schedule must be one of constant, cosine, not 'linear'."),
        ("--network.channels", "[48]", "--network.channels: 48 is not a multiple of 32, the groups of the norms."),
        ("--network.channels", '["a"]', "--network.channels must be a whole number, not 'a'."),
        ("--network.channels", "[32.5]", "--network.channels must be a whole number, not '32.5'."),
        ("--network.channels", "64,64", "--network.channels must be a list such as \"[64, 64]\", not '64,64'."),
        ("--network.channels", "[64,", "--network.channels must be a list such as \"[64, 64, 128]\", not '[64,'."),
        (
            "--network.channels",
            '{"a": 1}',
            '--network.channels must be a list such as "[64, 64, 128]", not \'{"a": 1}\'.',
        ),
        ("--network.channels", "[]", "--network.channels is empty, but must have a width or more."),
        ("--network.layers", "none", "--network.layers must be a whole number, not 'none'."),
        ("--network.layers", 0, "--network.layers is 0, but must be at least 1."),
        ("--network.pair", "=maybe", "--network.pair must be true or false, not 'maybe'."),
        ("--network", 3, "--network is a group of settings; set one of them, such as --network.channels."),
        (
            "--network",
            '{"layers": 2}',
            "--network is a group of settings; set one of them, such as --network.channels.",
        ),
        ("--steps", 1.5, "--steps must be a whole number, not '1.5'."),
        ("--steps", "", "--steps must be a whole number, not ''."),
        ("--steps", "inf", "--steps must be a whole number, not 'inf'."),
        ("--size", 0, "--size is 0, but must be at least 4."),
        ("--seed", -1, "--seed is -1, but must be at least 0 and below 2^63."),
        ("--lr", "inf", "--lr is inf, but must be positive."),
        ("--eps", "nan", "--eps is nan, but must be from 0 to 1000."),
        ("--precision", "BF16", "--precision must be one of auto, fp32, bf16, not 'BF16'. Did you mean 'bf16'?"),
        ("--config", "", "--config is empty, but must be a path."),
        ("--out", "z", "--out is given twice. Give it once."),
    ],
)
def test_a_bad_setting_is_named_as_it_is_written(option, value, sentence, capsys):
    words = (f"{option}{value}",) if str(value).startswith("=") else (option, value)
    assert refused(*TRAIN, *words, capsys=capsys) == sentence


def test_what_is_missing_or_too_much_is_named(capsys):
    assert refused("sample", capsys=capsys) == "MODEL needs a value. See `biflow sample --help`."
    assert refused("train", capsys=capsys) == "--data needs a value. See `biflow train --help`."
    sentence = refused("import", "reference", "w", "--width", 3, capsys=capsys)
    assert sentence == "OUT needs a value. See `biflow import reference --help`."
    assert "--frames needs a value" in refused("sample", "m", "--frames", capsys=capsys)
    assert "--frames needs a value" in refused("sample", "m", "--frames", "--png", capsys=capsys)
    assert refused("sample", "a", "b", capsys=capsys) == "'b' is one argument too many. See `biflow sample --help`."
    sentence = refused("weights", "fetch", "i4d", capsys=capsys)
    assert sentence == "NAME must be one of i3d, inception, lpips, not 'i4d'. Did you mean 'i3d'?"
    assert refused("sample", "", capsys=capsys) == "MODEL is empty, but must be a path."


def test_an_error_of_the_library_names_the_option_of_this_command(capsys, monkeypatch):
    for error, sentence in (
        (UserError("There is nothing.", setting="first"), "--first: There is nothing."),
        (UserError("No model there.", setting="model"), "--model: No model there."),
        (UserError("fps_factor is odd.", setting="fps_factor"), "--fps-factor is odd."),
        (UserError("firsts are bad.", setting="first"), "--first: firsts are bad."),
        (UserError("The colour is off.", setting="colour"), "The colour is off."),
        (UserError("All is lost."), "All is lost."),
    ):
        raises(error, monkeypatch)
        assert refused("sample", "m", capsys=capsys) == sentence


def raises(error, monkeypatch) -> None:
    """From now on, `biflow sample` raises this."""

    def sample(settings: Annotated[config.Sample, cli.FLAT]) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "sample", sample)


def test_an_extra_that_is_missing_is_shown_with_its_command(capsys, monkeypatch):
    raises(ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"), monkeypatch)
    assert refused("sample", "m", capsys=capsys).endswith('pip install "biflow[serve]"')
    raises(ModuleNotFoundError("No module named 'other'", name="other"), monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["sample", "m"])


NO_MEMORY, HERE = "There is not enough memory", Path(".")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 728. TiB for an array"),  # NumPy's are of this kind
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.96 GB)"),
        RuntimeError("Another process of this run has failed:\ntorch.OutOfMemoryError: CUDA out of memory."),
        RuntimeError("Another process of this run has failed:\nMemoryError"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_one_sentence_that_names_what_to_reduce(error, capsys, monkeypatch):
    raises(error, monkeypatch)
    assert refused("sample", "m", capsys=capsys) == f"--batch: {NO_MEMORY} for this batch. Use a smaller one."


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (config.Train(data=HERE, out=HERE, batch=16, accumulate=16), ". Close other programs, or use smaller or fewer"),
        (
            config.Train(data=HERE, out=HERE, batch=16),
            " for this batch. Use a smaller one, or --accumulate 2",
        ),
        (
            config.Train(data=HERE, out=HERE, batch=16, accumulate=4),
            "or --accumulate 8 to compute it in parts",
        ),
        (config.Train(data=HERE, out=HERE, batch=6, accumulate=2), " for this batch. Use a smaller one."),
        (config.Evaluate(HERE, data=HERE, out=HERE), "Use a smaller one, or --feature-batch 1."),
        (config.Sample(HERE, batch=1), ". Close other programs, or use smaller or fewer frames."),
        (None, ". Close other programs, or use smaller or fewer frames."),
    ],
)
def test_the_advice_about_memory_fits_the_settings(settings, advice):
    sentence = cli._sentence(MemoryError(), settings)
    assert NO_MEMORY in sentence
    assert advice in sentence


def test_an_error_in_the_code_keeps_its_traceback(monkeypatch):
    raises(ValueError("a defect"), monkeypatch)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["sample", "m"])
    raises(RuntimeError("a tensor's data is not allocated yet"), monkeypatch)
    with pytest.raises(RuntimeError, match="not allocated yet"):
        cli.main(["sample", "m"])


def test_ctrl_c_is_130_with_the_sentence_of_the_library(capsys, monkeypatch):
    raises(KeyboardInterrupt("Stopped after 3 frames."), monkeypatch)
    assert run("sample", "m", capsys=capsys) == (130, "", "biflow: Stopped after 3 frames.\n")
    raises(KeyboardInterrupt(), monkeypatch)
    assert run("sample", "m", capsys=capsys) == (130, "", "biflow: Stopped.\n")


def test_a_file_that_may_not_be_read_is_not_said_to_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").touch()
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.txt"))
    raises(error, monkeypatch)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert (
        run("sample", "m", capsys=capsys)[2] == f"biflow: {tmp_path}/a.txt cannot be read: you have no permission to.\n"
    )


@pytest.mark.parametrize("ctrl_c", [signal.SIG_IGN, signal.default_int_handler], ids=["of a script", "of a terminal"])
def test_sigterm_in_a_destructor_still_ends_the_command(ctrl_c, capsys, monkeypatch):
    class Going:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def work(settings):
        Going()
        threading.Event().wait(60)
        raise AssertionError("the signal did not end the wait")

    monkeypatch.setattr(cli, "parsed", lambda argv: (work, signature(work).bind(None)))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # the one before comes back
    before = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: ctrl_c}
    before = {number: signal.signal(number, handler) for number, handler in before.items()}
    try:
        assert run("sample", "m", capsys=capsys) == (130, "", "biflow: Stopped.\n")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def dry_run(tmp_path, capsys):
    """The settings of `biflow train --config` of a YAML file with this content, and with these options."""

    def dry_run(content, *options) -> dict:
        (tmp_path / "settings.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return yaml.safe_load(
            printed(*TRAIN, "--config", tmp_path / "settings.yaml", *options, "--dry-run", capsys=capsys)
        )

    return dry_run


def test_options_win_over_the_file_and_nested_ones_merge(dry_run):
    content = {"lr": 0.5, "steps": 7, "network": {"layers": 3, "patch": 1, "channels": [96]}}
    shown = dry_run(content, "--steps", 8, "--network.layers", 2, "--network.channels", 32, 64)
    assert (shown["lr"], shown["steps"], shown["batch"]) == (0.5, 8, 16)
    network = shown["network"]
    assert (network["layers"], network["patch"], network["channels"], network["head_dim"]) == (2, 1, [32, 64], 32)
    assert dry_run(content, "--network.layers", 2)["network"]["channels"] == [96]
    assert dry_run("lr: 1e-4\nv_scale: 2")["lr"] == 1e-4
    assert dry_run("v_scale: 2", "--v-scale", "none")["v_scale"] is None
    assert dry_run("compile: true\nnetwork: {pair: true}", "--compile", "false")["compile"] is False
    assert dry_run("network: {attention: []}")["network"]["attention"] == []


def test_a_dry_run_prints_all_settings_as_a_file_that_train_accepts(dry_run):
    shown = dry_run({"lr": 0.5}, "--network.layers", 2)
    assert list(shown) == list(vars(config.TrainConfig()))
    assert shown["v_scale"] is None
    assert dry_run(shown) == shown


def test_the_file_may_hold_everything_that_train_needs(tmp_path, capsys):
    (tmp_path / "all.yaml").write_text("data: x\nout: y\nsize: 32\nsteps: 5\ndry_run: true\n")
    for option in (["--config", tmp_path / "all.yaml"], [f"--config={tmp_path / 'all.yaml'}"]):
        assert "steps: 5" in printed("train", *option, capsys=capsys)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("stepz: 3", "There is no setting stepz. The nearest known one is steps."),
        ("network: {layerz: 2}", "There is no setting network.layerz. The nearest known one is network.layers."),
        ("steps: many", "steps must be a whole number, not 'many'."),
        ("steps: 0", "steps is 0, but must be at least 1."),
        ("batch: 1000000", "batch is 1000000, but must be at most 65536."),
        ("network: 3", "network must be a group of settings, not 3."),
        ("network: {channels: 64}", "network.channels must be a list, not 64."),
        ("network: {channels: [64, x]}", "network.channels[1] must be a whole number, not 'x'."),
        ("network: {3: 4}", "There is no setting network.3. The nearest known one is network."),
        ("network.layers: 3", "network.layers is a setting layers in the group network: write {network: {layers: …}}."),
        ("from: runs/mine", "There is no setting from: in a file, --from is init."),
        ("optimizer: sgd", "optimizer must be one of adamw, muon, not 'sgd'."),
        ("optimizer: 3", "optimizer must be one of adamw, muon, not 3."),
        ("lr: [1]", "lr must be a number, not [1]."),
        ("lr: yes", "lr must be a number, not true."),
        ("steps: 1.5", "steps must be a whole number, not 1.5."),
        ("steps: 2026-01-01", "steps must be a whole number, not 2026-01-01."),
        ("steps: null", "steps must be a whole number, not null."),
        ("v_scale: x", "v_scale must be a number or null, not 'x'."),
        ("null: 3", "There is no setting null. The nearest known one is schedule."),
        ("config: other.yaml", "config names this file itself; a file cannot take settings from another."),
    ],
)
def test_what_is_wrong_in_the_file_names_the_file(content, sentence, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    for options in ((), ("--lr", 1)):
        assert refused(*TRAIN, "--config", path, *options, capsys=capsys) == f"{path}: {sentence}"


def test_a_file_that_does_not_exist_or_is_not_yaml_is_named(tmp_path, capsys):
    assert "nowhere.yaml cannot be read" in refused(*TRAIN, "--config", tmp_path / "nowhere.yaml", capsys=capsys)
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2")
    assert "bad.yaml, line 2: not valid YAML" in refused(*TRAIN, "--config", tmp_path / "bad.yaml", capsys=capsys)
    (tmp_path / "bad.yaml").write_text("steps: 1\nlr: 1\nsteps: 2")
    sentence = refused(*TRAIN, "--config", tmp_path / "bad.yaml", capsys=capsys)
    assert sentence == f"{tmp_path / 'bad.yaml'}, line 3: not valid YAML: steps is given twice."


def test_only_train_reads_a_file_of_settings(capsys):
    assert "There is no option --config" in refused("sample", "m", "--config", "nowhere.yaml", capsys=capsys)


def test_the_command_line_is_a_program():
    words = [sys.executable, "-m", "biflow.cli", "sample"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "biflow: MODEL needs a value. See `biflow sample --help`.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a signal ends a process there")
def test_ctrl_c_again_while_a_command_ends_changes_nothing():
    program = """
        import sys
        from biflow import cli

        def pressed(_):
            raise KeyboardInterrupt

        cli.parsed, sys.argv = pressed, ["biflow"]
        cli.main()
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "biflow: Stopped.\n"
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert (process.returncode, process.stderr.read()) == (130, "")
