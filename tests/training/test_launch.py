import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from biflow.config import NetworkConfig, TrainConfig
from biflow.errors import UserError
from biflow.training import launch
from biflow.training.checkpoint import latest
from biflow.training.launch import LAUNCHERS, train_on_cores

TINY = NetworkConfig(channels=(32, 32), attention=(), patch=2)
CONFIG = TrainConfig(steps=2, batch=12, preview_every=0, network=TINY)


@pytest.fixture
def started(prepared, tmp_path, monkeypatch):
    """How many processes share these batches on a CPU of 8 cores, where any step is work enough for several."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "cores", lambda: 8)
    monkeypatch.setattr(launch, "WORTHWHILE", 1)
    monkeypatch.setattr(launch, "MEMORY", 1)
    monkeypatch.setattr(launch, "train", lambda *_, **__: {})
    counts = []

    class Peers:
        def __init__(self, count, *_):
            counts.append(count)

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(launch, "_peers", Peers)

    def started(wanted=None, **settings) -> int:
        counts.clear()
        config = TrainConfig(**{"batch": 12, "preview_every": 0, "network": TINY, **settings})
        train_on_cores(config, prepared, tmp_path / "run", wanted)
        return counts[0] if counts else 1

    return started


def test_as_many_processes_as_cores_share_a_batch_evenly(started, monkeypatch):
    assert started() == 6
    assert started(batch=16) == 8
    assert started(batch=7) == 7
    assert started(batch=11) == 1
    assert started(accumulate=3) == 4
    assert started(batch=1) == 1
    assert started(wanted=1) == 1
    assert started(wanted=3) == 3
    monkeypatch.setattr(launch, "MEMORY", 1e18)
    assert started() == 1


def test_a_small_step_stays_in_one_process(started, monkeypatch):
    monkeypatch.setattr(launch, "WORTHWHILE", 1e10)
    assert started() == 1
    assert started(wanted=2) == 2


@pytest.mark.parametrize("name", sorted(LAUNCHERS))
def test_a_launcher_has_chosen_the_number_of_processes(name, started, monkeypatch):
    monkeypatch.setenv(name, "0")
    assert started() == 1
    with pytest.raises(UserError, match="a launcher has started this process"):
        started(wanted=2)


def test_what_cannot_be_trained_is_refused_before_processes_are_started(started, tmp_path):
    with pytest.raises(UserError, match=r"batch \(12\) must be a multiple of accumulate x processes \(5\)"):
        started(wanted=5)
    with pytest.raises(UserError, match="do not fit this network"):
        started(network=NetworkConfig(channels=(32,) * 5, attention=()))
    with pytest.raises(UserError, match="No model in"):
        started(init=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no method 'gan'"):
        started(method="gan")


def test_two_processes_stop_together_after_ctrl_c_with_everything_saved_once(prepared, tmp_path):
    words = ["--batch", "4", "--context", "0", "--steps", "100000", "--log-every", "2", "--preview-every", "0"]
    words += ["--network.channels", "[32, 32]", "--network.attention", "[]", "--processes", "2"]
    command = [sys.executable, "-m", "biflow.cli", "train", "--data", prepared, "--out", tmp_path / "run", *words]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    others = psutil.Process(process.pid).children()
    assert others
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "2 processes of 1 thread" in out
    assert "Traceback" not in errors
    assert errors.count("everything is saved") == 1
    state = json.loads((latest(tmp_path / "run") / "state.json").read_text())
    assert (state["processes"], state["samples"]) == (2, 4 * state["step"])
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    _, left = psutil.wait_procs(others, timeout=30)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []
