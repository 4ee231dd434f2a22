"""The worker's modules, run by node, give what Python gives: noise, and frames of every method and solver."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from biflow.actions import Actions
from biflow.config import Solver
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP, METHODS
from biflow.model import Model
from biflow.moments import Moments, Plan
from biflow.paths import Fields
from biflow.rollout import frame_seed, generate
from biflow.serve.models import Served
from biflow.web.build import FIXED, HERE, of_frames, packed, page_hello
from tests.serve.browser import unavailable

SHAPE = (3, 4, 4)
ACTIONS = Actions(("turn", "move"), ((-2.0, 1.0), (0.0, 1.0)))


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """The worker's modules, where node takes them as such."""
    if not shutil.which("node"):
        unavailable("node is not installed")
    folder = tmp_path_factory.mktemp("worker")
    shutil.copytree(HERE / "worker", folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def node(folder: Path, *words) -> str:
    """What a program of node prints."""
    done = subprocess.run(["node", *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_noise_is_that_of_pytorch(worker):
    pairs = [(0, 0), (7, 12), (2**32 - 1, 3), (12345, 100_000)]
    program = f"""
        import {{ Generator, frameSeed }} from "./random.js";
        const found = {json.dumps(pairs)}.map(([seed, index]) => {{
            const one = new Generator(frameSeed(seed, index));
            return [frameSeed(seed, index), [...one.normal(700), ...one.normal(48), ...one.normal(27)]];
        }});
        console.log(JSON.stringify(found));
    """
    found = json.loads(node(worker, "--input-type=module", "-e", program))
    for pair, (seed, noise) in zip(pairs, found, strict=True):
        assert seed == frame_seed(*pair) % 2**32
        generator = torch.Generator().manual_seed(frame_seed(*pair))
        expected = torch.cat([torch.randn(count, generator=generator) for count in (700, 48, 27)])
        torch.testing.assert_close(torch.tensor(noise), expected, atol=1e-5, rtol=1e-5)


def network(query) -> Fields:
    """The network of stream.mjs."""

    def total(tensor):
        return 0 if tensor is None else tensor.sum(1)

    t, alpha = (0 if number is None else number for number in (query.t, query.alpha))
    shift = 0.3 * t + 0.2 * alpha + 0.05 * total(query.past_noise) + 0.1 * total(query.action)
    shift = shift + 0.4 * total(getattr(query, "jump", None))
    v = -0.4 * query.x + shift.reshape(-1, 1, 1, 1)
    v = v + 0.05 * (torch.arange(v[0].numel()) % 5).view(v.shape[1:])  # tells places apart
    if getattr(query, "condition", None) is not None:
        v = v + 0.5 * query.condition
    if query.past is not None:
        for m in range(query.past.shape[1]):
            v = v + 0.1 / (m + 1) * query.past[:, m]
    return Fields(v, 0.5 * v - 0.1)


def both(worker, tmp_path, model: Model, solver: Solver, *, past=0, actions=None, direction="forward", frames=3):
    """The frames of a stream by the worker and by Python."""
    first = torch.rand(1, past + 1, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = None if actions is None else [None if row is None else ACTIONS.row(**row) for row in actions]
    seed = frame_seed(3, 5)
    generator = torch.Generator().manual_seed(seed)
    how = {"eps": model.eps, "solver": solver, "direction": direction, "generators": [generator], "actions": rows}
    expected = generate(model, first if past else first[:, 0], frames=frames, **how)[0]
    *earlier, newest = first[0].flatten(1).tolist()
    settings = {
        "model": of_frames(model),
        "first": newest,
        "past": earlier[::-1],
        "frames": frames,
        "actions": actions,
        "seed": seed % 2**32,
        "eps": model.eps,
        "backward": direction == "backward",
        "solver": solver.method,
        "steps": solver.steps,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    node(worker, Path(__file__).parent / "stream.mjs", worker, tmp_path / "settings.json", tmp_path / "frames")
    found = torch.from_numpy(np.fromfile(tmp_path / "frames", np.float32))
    return found.reshape(expected.shape), expected


@pytest.mark.parametrize("name", FIXED)
def test_a_solver_takes_the_steps_of_python(name, worker, tmp_path):
    found, expected = both(worker, tmp_path, Model(network, BIFLOW, SHAPE, eps=0.3), Solver(name, steps=3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [FLOW, BIFLOW, CONDIFF, FLOWMAP])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_method_gives_the_frames_of_python(method, steps, worker, tmp_path):
    eps, solver = 0.25 if method.takes_eps else 0.0, replace(method.solver, steps=steps)
    found, expected = both(worker, tmp_path, Model(network, method, SHAPE, eps=eps), solver)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [BIFLOW, CONDIFF, FLOWMAP])
def test_a_stream_spins(method, worker, tmp_path):
    model = Model(network, method, SHAPE, eps=0.25 if method.takes_eps else 0.0, context=2, context_eps=0.1, spin=1)
    found, expected = both(worker, tmp_path, model, replace(method.solver, steps=1), past=2, frames=6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "eps", "steps"), [(BIFLOW, 0.0, 3), (BIFLOW, 0.25, 3), (FLOWMAP, 0.25, 1)], ids=["dry", "noise", "map"]
)
def test_a_stream_runs_backward(method, eps, steps, worker, tmp_path):
    model = Model(network, method, SHAPE, eps=eps, context=1, context_eps=0.1)
    found, expected = both(worker, tmp_path, model, replace(method.solver, steps=steps), direction="backward")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("context_eps", [0.0, 0.2])
def test_past_frames_and_actions_are_seen(context_eps, worker, tmp_path):
    model = Model(network, BIFLOW, SHAPE, eps=0.2, context=3, context_eps=context_eps, actions=ACTIONS)
    actions = [{"turn": -2.0}, {}, None, {"turn": 0.5, "move": 1.0}]
    found, expected = both(worker, tmp_path, model, Solver(steps=2), past=1, actions=actions, frames=4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_controls_are_what_is_possible(worker):
    first = torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    hello = page_hello(Served("mine", Model(network, CONDIFF, SHAPE), first))
    wanted = {"eps": 0.3, "steps": None, "rtol": 7, "direction": "backward", "solver": "reference", "speed": 1}
    wanted |= {"playing": False, "fps_cap": None, "in_between": 4, "seed": 12}
    program = f"""
        import {{ changed }} from "./controls.js";
        const hello = {json.dumps(hello)};
        console.log(JSON.stringify(changed(hello.controls, {json.dumps(wanted)}, hello)));
    """
    found = json.loads(node(worker, "--input-type=module", "-e", program))
    changes = {"steps": 4, "rtol": 1, "playing": False, "fps_cap": None, "seed": 12}
    assert found["controls"] == hello["controls"] | changes
    assert found["notes"] == [
        "rtol goes from 0.00001 to 1: took 1.",
        'solver cannot be "reference".',
        "There is no control speed.",
        "In the browser, steps are fixed: took 4.",
        "CONDIFF has no backward direction.",
    ]


@pytest.mark.parametrize("size", [(4, 4), (16, 24), (21, 10)])
def test_what_is_done_while_nobody_steers_is_that_of_python(size, worker):
    random = np.random.default_rng(0)
    pictures = torch.from_numpy(random.integers(0, 256, (50, 3, 8, 8))).float()
    moments = Moments(pictures, random.uniform(-1, 1, (50, 2, 2)).astype(np.float32))
    frames = torch.from_numpy(random.integers(0, 256, (3, 3, *size), dtype=np.uint8)).repeat(5, 1, 1, 1)
    program = f"""
        import {{ Moments, NO_PLAN }} from "./moments.js";
        const moments = new Moments({json.dumps(packed(moments))});
        let row, plan = NO_PLAN;
        const found = [];
        for (const frame of {json.dumps(frames.flatten(1).tolist())}) {{
            [row, plan] = moments.after(frame, {list(size)}, plan);
            found.push(row);
        }}
        console.log(JSON.stringify(found));
    """
    found = json.loads(node(worker, "--input-type=module", "-e", program))
    plan, expected = Plan(), []
    for frame in frames:
        row, plan = moments.after(frame, plan)
        expected.append(row)
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


def test_every_method_of_the_project_is_there(worker):
    program = 'import { methods } from "./methods.js"; console.log(JSON.stringify(Object.keys(methods)))'
    names = json.loads(node(worker, "--input-type=module", "-e", program))
    ours = {method for method in METHODS.values() if type(method).__module__.startswith("biflow.")}
    assert set(names) >= {method.name for method in ours if not method.clips}
