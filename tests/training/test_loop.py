import contextlib
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from biflow.config import NetworkConfig, Prepare, Solver, TrainConfig
from biflow.data.prepare import prepare
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP, METHODS, SEQUENCE, Loss
from biflow.methods.flow import flow_loss
from biflow.model import load_model
from biflow.paths import straight
from biflow.rollout import stream
from biflow.training.begin import rms_change
from biflow.training.checkpoint import latest
from biflow.training.loop import learning_rate, train
from biflow.video import to_float
from tests.command_line import read_until

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)
CONFIG = TrainConfig(steps=6, batch=4, lr=1e-3, ema=0.9, save_every=3, log_every=2, preview_every=0, network=TINY)
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


def command(config: TrainConfig, data: Path, out: Path, launcher: tuple[str, ...] = (sys.executable,)) -> list[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = out.parent / f"{out.name}.yaml"
    settings.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))
    arguments = ["train", "--config", str(settings), "--data", str(data), "--out", str(out)]
    return [*launcher, "-m", "biflow.cli", *arguments]


@pytest.fixture
def one_thread():
    """In this process, as in those that `environment` is for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def begun(method, config: TrainConfig, data: Path, out: Path) -> TrainConfig:
    """The settings for this method. If it learns from a teacher, that is first trained for a step, in `out`."""
    if method.teacher:
        train(replace(config, method=method.teacher, steps=1), data, out)
    config = replace(config, span=4) if method.clips else config
    return replace(config, method=method.name, init=str(out) if method.teacher else None)


@pytest.mark.parametrize("method", METHODS.values())
def test_every_method_learns_and_its_model_loads(method, prepared, tmp_path):
    config = replace(CONFIG, steps=40, save_every=40, log_every=10)
    out, config = tmp_path / "run", begun(method, config, prepared, tmp_path / "teacher of it")
    train(config, prepared, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["samples"] == 160
    assert method.teacher or lines[-1]["v"] < 0.8 * lines[0]["v"]  # tests/methods/test_flowmap.py for the others
    against = {FLOW: {"v_against_t"}, FLOWMAP: set(), CONDIFF: {"v_against_alpha"}, SEQUENCE: {"v_against_alpha"}}
    against[BIFLOW] = {f"{term}_against_{variable}" for term in "vn" for variable in ("t", "alpha")}
    assert {key for key in lines[0] if "_against_" in key} == against[method]
    assert all(len(lines[0][key]) == 10 for key in against[method])
    assert 0 <= lines[0]["waiting_for_data"] < 1
    assert ("n" in lines[0]) == (method.heads == 2)
    model = load_model(out)
    assert (model.method, model.size) == (method, (16, 16))
    assert model.eps == (0.1 if method.takes_eps else 0.0)
    averaged = load_file(out / "diffusion_pytorch_model.ema.safetensors")
    assert all(torch.equal(value, averaged[name]) for name, value in model.weights.state_dict().items())
    assert (out / "tensorboard").exists()


def test_a_run_killed_at_a_random_step_goes_on_to_bit_equal_parameters(prepared, tmp_path, one_thread):
    config = replace(CONFIG, steps=24, save_every=2)
    cut = command(replace(config, steps=100_000), prepared, tmp_path / "cut")  # longer than it will live
    process = subprocess.Popen(cut, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kill_after = random.randrange(2, 10)
    while (found := latest(tmp_path / "cut")) is None or int(found.name[5:]) < kill_after:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    with pytest.raises(UserError, match="Another command is writing in"):
        train(config, prepared, tmp_path / "cut")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = int(latest(tmp_path / "cut").name[5:])

    config = replace(config, steps=killed + 4)
    train(config, prepared, tmp_path / "cut")
    train(config, prepared, tmp_path / "whole")
    for name in FILES:
        whole, resumed = (load_file(latest(tmp_path / run) / name) for run in ("whole", "cut"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), (name, killed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(2, killed + 5, 2))


def noiseless(network, clips, generator, config):
    """The loss of FLOW with nothing drawn, so that it depends on the samples alone."""
    t = torch.full((len(clips),), 0.5)
    return Loss(flow_loss(network, *straight(clips, t), t), {"t": t})


NOISELESS = """
import sys
from biflow import cli
from biflow.methods import FLOW
sys.path.insert(0, sys.argv.pop(1))
from tests.training.test_loop import noiseless
FLOW.loss = noiseless
cli.main()
"""


def test_two_processes_train_on_the_batch_that_one_would(prepared, tmp_path, monkeypatch):
    config = replace(CONFIG, method="flow", steps=3, save_every=3, clip=1e9, precision="fp32")
    monkeypatch.setattr(FLOW, "loss", noiseless)
    train(config, prepared, tmp_path / "one")
    (tmp_path / "program.py").write_text(NOISELESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29611"]
    launcher += [str(tmp_path / "program.py"), str(Path(__file__).parents[2])]
    _, _, _, *arguments = command(config, prepared, tmp_path / "two")
    subprocess.run([*launcher, *arguments], env=environment(), check=True, capture_output=True)
    one, two = (load_file(latest(tmp_path / run) / "optimizer.safetensors") for run in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-6)
    state = json.loads((latest(tmp_path / "two") / "state.json").read_text())
    assert (state["step"], state["samples"], state["processes"]) == (3, 12, 2)


def test_a_run_may_be_in_another_thread_than_the_main_one(prepared, tmp_path):
    config = TrainConfig(
        steps=2, batch=4, network=NetworkConfig(channels=(32,), attention=(), patch=2), precision="fp32"
    )
    with ThreadPoolExecutor(1) as threads:
        threads.submit(train, config, prepared, tmp_path).result()
    assert latest(tmp_path).name.endswith("2")


def test_muon_goes_on_to_bit_equal_parameters(prepared, tmp_path):
    config = replace(CONFIG, optimizer="muon")
    train(config, prepared, tmp_path / "whole")
    train(replace(config, steps=3), prepared, tmp_path / "cut")
    train(config, prepared, tmp_path / "cut")
    for name in FILES:
        whole, resumed = (load_file(latest(tmp_path / run) / name) for run in ("whole", "cut"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """Four clips of a square that moves as its action says, 12 frames of 16x16 each, prepared."""
    root = tmp_path_factory.mktemp("driven")
    generator, rows = np.random.default_rng(0), {}
    for clip in range(4):
        moves = generator.choice([-2, 0, 2], 11)
        frames = np.full((12, 16, 16, 3), 40, np.uint8)
        for i, left in enumerate(np.clip(6 + np.concatenate([[0], moves.cumsum()]), 0, 12)):
            frames[i, 6:10, left : left + 4] = 220
        np.save(root / f"clip_{clip}.npy", frames)
        rows[f"clip_{clip}"] = moves[:, None].tolist()
    content = {"columns": ["move"], "ranges": [[-2, 2]], "actions": rows}
    (root / "actions.json").write_text(json.dumps(content))
    prepare(Prepare(root, root / "set", size=16), progress=False)
    return root / "set"


@pytest.mark.parametrize("method", [method for method in METHODS.values() if not method.clips])
def test_every_method_learns_with_past_frames_its_own_frames_and_actions(method, driven, tmp_path):
    config = replace(CONFIG, context=2, own_frames=0.5, steps=12, lr=3e-3, save_every=6, log_every=4)
    config = begun(method, config, driven, tmp_path / "teacher")
    train(config, driven, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(latest(tmp_path / "cut"))  # the checkpoint of its sixth step is left
    train(config, driven, tmp_path / "cut")
    for name in FILES:  # the random parts are those of a run that was not interrupted
        whole, resumed = (load_file(latest(tmp_path / run) / name) for run in ("whole", "cut"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert method.teacher or lines[-1]["v"] < 0.9 * lines[0]["v"]
    model = load_model(tmp_path / "whole")
    assert (model.context, model.context_eps, model.actions.columns) == (2, 0.1, ("move",))


COMPILED = """
import sys
from pathlib import Path
import yaml
from torch import is_grad_enabled, nn
from biflow.config import TrainConfig, parse
from biflow.training.loop import train

graphs, compile = [], nn.Module.compile

def backend(graph, _example):
    graphs.append(is_grad_enabled())
    return graph.forward

nn.Module.compile = lambda module: compile(module, backend=backend)
train(parse(TrainConfig, yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), Path(sys.argv[3]))
assert sorted(graphs) == [False, True], graphs
"""


@pytest.mark.slow
def test_compile_compiles_the_network_for_training_and_for_own_frames(driven, tmp_path):
    # In a process of its own: what checks the types of tests cannot be compiled.
    config = replace(CONFIG, compile=True, context=2, own_frames=0.5, steps=2)
    command(config, driven, tmp_path / "run")
    arguments = [str(path) for path in (tmp_path / "run.yaml", driven, tmp_path / "run")]
    subprocess.run([sys.executable, "-c", COMPILED, *arguments], check=True, env=environment())


@pytest.mark.gpu
def test_a_compiled_run_on_a_card_has_the_losses_of_one_that_is_not(driven, tmp_path):
    config = replace(CONFIG, optimizer="muon", context=2, own_frames=0.5, steps=12, save_every=12, log_every=12)
    losses = []
    for out, compiled in ((tmp_path / "plain", False), (tmp_path / "compiled", True)):
        subprocess.run(command(replace(config, compile=compiled), driven, out), check=True, env=environment())
        losses.append(json.loads((out / "log.jsonl").read_text().splitlines()[-1]))
    assert losses[0]["v"] == pytest.approx(losses[1]["v"], rel=0.05)
    assert losses[0]["n"] == pytest.approx(losses[1]["n"], rel=0.05)
    first = torch.zeros(1, 3, 16, 16, device="cuda")
    assert next(stream(load_model(tmp_path / "compiled", device="cuda"), first)).x.isfinite().all()


STREAM = {"solver": Solver("euler", steps=2)}


@pytest.mark.parametrize("context", [0, 1, 2])
def test_training_begins_with_the_weights_of_a_model_that_sees_less(context, prepared, driven, tmp_path):
    first = replace(CONFIG, context=context, steps=2)
    train(first, prepared if context < 2 else driven, tmp_path / "first")
    config = replace(first, context=2, init=str(tmp_path / "first"), lr=1e-12, steps=1)
    train(config, driven, tmp_path / "second")
    models = [load_model(tmp_path / name, ema=name == "first") for name in ("first", "second")]
    assert models[1].network.v_scale == models[0].network.v_scale
    x = torch.rand(2, 1 + context, 3, 16, 16) * 2 - 1
    actions = [[1.0]] if context == 2 else None
    frames = [next(stream(model, x, actions=actions, **STREAM)).x for model in models]
    assert torch.allclose(*frames, atol=1e-5)


def test_a_resumed_run_no_longer_needs_the_model_that_it_began_with(prepared, tmp_path):
    train(replace(CONFIG, steps=1), prepared, tmp_path / "first")
    config = replace(CONFIG, init=str(tmp_path / "first"), steps=2, v_scale=None)
    train(replace(config, steps=1), prepared, tmp_path / "second")
    scale = load_model(tmp_path / "second").network.v_scale
    shutil.rmtree(tmp_path / "first")
    train(config, prepared, tmp_path / "second")
    assert load_model(tmp_path / "second").network.v_scale == scale


def test_weights_that_do_not_fit_are_refused(prepared, driven, tmp_path):
    train(replace(CONFIG, steps=1), driven, tmp_path / "first")
    init = str(tmp_path / "first")
    wider = NetworkConfig(channels=(64, 32), attention=(), patch=2)
    with pytest.raises(UserError, match=r"first has another shape: give network.channels \[32, 32\], as it has"):
        train(replace(CONFIG, init=init, network=wider), driven, tmp_path / "second")
    with pytest.raises(UserError, match=r"first has another shape: give network.channels \[32, 32\], as it has"):
        train(replace(CONFIG, init=init, network=wider, method="flowmap"), driven, tmp_path / "third")
    with pytest.raises(UserError, match=r"first is a BI-FLOW model; FLOW cannot begin with it"):
        train(replace(CONFIG, init=init, method="flow"), driven, tmp_path / "second")
    with pytest.raises(UserError, match=r"first has a span of 1, not 2"):
        train(replace(CONFIG, init=init, span=2), driven, tmp_path / "second")


TWICE = """
import sys
from biflow.cli import main
for words in (sys.argv[1:8], sys.argv[8:]):
    try:
        main(words)
    except SystemExit as end:
        print(end.code, flush=True)
"""


def test_ctrl_c_and_sigterm_save_and_exit_with_130(prepared, tmp_path):
    config = replace(CONFIG, steps=100_000, save_every=100_000)
    outs = {signal.SIGINT: tmp_path / "int", signal.SIGTERM: tmp_path / "term"}
    words = [word for out in outs.values() for word in command(config, prepared, out)[3:]]
    process = subprocess.Popen(  # starting takes seconds
        [sys.executable, "-c", TWICE, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for number, out in outs.items():
        log = out / "log.jsonl"
        while not log.exists() or not log.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "130"
    assert output.splitlines().count("130") == 2
    assert errors.count("everything is saved") == 2
    for out in outs.values():
        assert json.loads((latest(out) / "state.json").read_text())["step"] > 0


@pytest.mark.skipif(not hasattr(os, "forkpty"), reason="Windows closes its terminals in another way")
@pytest.mark.parametrize("end", ["closed", "ctrl-c"])
def test_a_run_that_a_terminal_ends_is_saved_also_where_tee_ends_first(end, prepared, tmp_path):
    words = command(replace(CONFIG, steps=100_000, save_every=100_000), prepared, tmp_path / "run")
    out, line = tmp_path / "run", f"{shlex.join(words)} 2>&1 | tee {tmp_path / 'log'}"
    process, terminal = os.forkpty()
    if not process:
        os.execvpe("sh", ["sh", "-c", line if end == "ctrl-c" else f"exec {shlex.join(words)}"], environment())
    os.set_blocking(terminal, False)
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").read_text():
        with contextlib.suppress(BlockingIOError):  # it has to be read, or writing to it waits
            assert b"Traceback" not in os.read(terminal, 1 << 16)
        time.sleep(0.02)
    if end == "closed":
        os.close(terminal)
    else:
        os.write(terminal, b"\x03")
    while not (out / "checkpoints").exists() or not latest(out):
        time.sleep(0.02)
    os.waitpid(process, 0)
    assert json.loads((latest(out) / "state.json").read_text())["step"] > 0


def test_a_run_goes_on_where_nobody_reads_its_output_any_more(prepared, tmp_path):
    words = command(replace(CONFIG, steps=60, save_every=1000), prepared, tmp_path / "run")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
    read_until(process, b"/60")  # of the bar
    process.wait(timeout=100)
    assert json.loads((latest(tmp_path / "run") / "state.json").read_text())["step"] == 60


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(prepared, tmp_path, monkeypatch, caplog):
    calls = itertools.count(1)
    loss = BIFLOW.loss

    def poisoned(*arguments):
        terms, at = loss(*arguments)
        factor = float("nan") if next(calls) > 4 else 1
        return Loss({name: term * factor for name, term in terms.items()}, at)

    monkeypatch.setattr(BIFLOW, "loss", poisoned)
    with pytest.raises(UserError, match=r"NaN or infinite before step 6.*step_00000003"):
        train(CONFIG, prepared, tmp_path)
    kept = load_file(latest(tmp_path) / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert all(value.isfinite().all() for value in load_model(tmp_path).weights.state_dict().values())
    monkeypatch.setattr(BIFLOW, "loss", loss)
    assert train(replace(CONFIG, lr=1e-4), prepared, tmp_path)["step"] == CONFIG.steps
    assert "lr is 0.0001 from here on; the run had 0.001" in caplog.text


def test_going_on_with_another_setting_is_refused_by_name(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path)
    with pytest.raises(UserError, match=r"started with weight_decay 0.01, not 0.02"):
        train(replace(CONFIG, weight_decay=0.02), prepared, tmp_path)
    assert train(replace(CONFIG, steps=8), prepared, tmp_path)["step"] == 8


def test_a_run_from_before_a_setting_existed_goes_on(prepared, tmp_path):
    train(CONFIG, prepared, tmp_path)
    path = latest(tmp_path) / "state.json"
    state = json.loads(path.read_text())
    del state["config"]["weight_decay"]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"started with weight_decay 0.01, not 0.02"):
        train(replace(CONFIG, weight_decay=0.02), prepared, tmp_path)
    assert train(replace(CONFIG, steps=7), prepared, tmp_path)["step"] == 7


def test_accumulated_gradients_equal_those_of_the_whole_batch(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(FLOW, "loss", noiseless)
    config = replace(CONFIG, method="flow", steps=2, save_every=2, clip=1e9, precision="fp32")
    train(config, prepared, tmp_path / "whole")
    train(replace(config, accumulate=2), prepared, tmp_path / "parts")
    whole, parts = (load_file(latest(tmp_path / run) / "optimizer.safetensors") for run in ("whole", "parts"))
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=1e-3, atol=1e-6)


def test_batch_that_does_not_divide_is_refused(prepared, tmp_path):
    with pytest.raises(UserError, match="multiple of accumulate"):
        train(replace(CONFIG, batch=5, accumulate=2), prepared, tmp_path)


def test_frames_that_do_not_fit_the_network_are_refused_before_anything_is_written(prepared, tmp_path):
    config = replace(CONFIG, network=NetworkConfig(channels=(32,) * 5, attention=(), patch=2))
    with pytest.raises(UserError, match=r"Frames of 16x16 do not fit this network.*32 works"):
        train(config, prepared, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_refused(prepared, tmp_path):
    with pytest.raises(UserError, match="no method 'bflow'"):
        train(replace(CONFIG, method="bflow"), prepared, tmp_path)


@pytest.mark.parametrize(("method", "scaled"), [(FLOW, True), (BIFLOW, True), (CONDIFF, False)])
def test_the_unit_of_v_is_the_change_between_frames_where_v_is_one(method, scaled, prepared, tmp_path):
    config = replace(CONFIG, method=method.name, steps=1)
    train(config, prepared, tmp_path / "measured")
    windows = Windows(prepared)
    clips = to_float(windows.batch(range(len(windows))))
    rms = (clips[:, 1] - clips[:, 0]).square().mean().sqrt().item()
    assert rms_change(windows) == pytest.approx(rms, rel=1e-3)
    v_scale = load_model(tmp_path / "measured").network.v_scale
    assert v_scale == (pytest.approx(rms, rel=1e-3) if scaled else 1.0)
    train(replace(config, v_scale=0.5), prepared, tmp_path / "given")
    assert load_model(tmp_path / "given").network.v_scale == (0.5 if scaled else 1.0)


def test_learning_rate_warms_up_and_follows_the_cosine():
    config = replace(CONFIG, steps=100, lr=1.0, warmup=10, schedule="cosine")
    assert learning_rate(config, 4) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(config, 50) == pytest.approx(0.5)
    assert learning_rate(config, 99) == pytest.approx(0.0, abs=1e-3)
    assert learning_rate(replace(config, schedule="constant"), 99) == 1.0


def test_previews_are_drawn(prepared, tmp_path):
    train(replace(CONFIG, steps=3, preview_every=3), prepared, tmp_path)
    assert (tmp_path / "previews" / "step_00000003.png").stat().st_size > 1000


@pytest.mark.parametrize("path", ["linear", "knots", "cubic"])
def test_a_model_that_spans_frames_is_trained_and_gives_as_many_per_solve(path, prepared, tmp_path):
    config = replace(CONFIG, steps=1, save_every=1, span=3, path=path)
    train(config, prepared, tmp_path)
    model = load_model(tmp_path)
    assert (model.span, model.actions) == (3, None)
    windows = Windows(prepared, frames=4)
    assert model.network.v_scale == pytest.approx(rms_change(windows, path), rel=1e-3)
    first = to_float(windows[0][:1])
    assert [next_.time for next_ in islice(stream(model, first, solver=Solver("euler", steps=3)), 3)] == [1, 2, 3]


@pytest.mark.parametrize("method", [CONDIFF, FLOWMAP])
def test_a_method_that_solves_one_frame_at_a_time_cannot_span_several(method, prepared, tmp_path):
    with pytest.raises(UserError, match=f"{method.title} solves one frame at a time: set span to 1") as refusal:
        train(replace(CONFIG, method=method.name, span=2), prepared, tmp_path)
    assert refusal.value.setting == "span"


def test_a_span_goes_without_context():
    with pytest.raises(UserError, match=r"span is 2, but .* use context=0 and own_frames=0") as refusal:
        TrainConfig(span=2, context=1)
    assert refusal.value.setting == "span"


def test_a_model_of_another_span_is_no_beginning(prepared, tmp_path):
    train(replace(CONFIG, steps=1, save_every=1, span=2), prepared, tmp_path / "two")
    for method in ("biflow", "flowmap"):
        with pytest.raises(UserError, match="has a span of 2, not 1") as refusal:
            train(replace(CONFIG, method=method, init=str(tmp_path / "two")), prepared, tmp_path / method)
        assert refusal.value.setting == "init"
