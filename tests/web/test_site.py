"""An exported page: its files, its frames in node and in Chromium, and what it does without a network."""

import functools
import http.server
import json
import re
from dataclasses import replace
from pathlib import Path

import av
import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from biflow.config import NetworkConfig, Solver
from biflow.engines.onnx import HALF_LEVEL
from biflow.errors import UserError
from biflow.files import cache_folder
from biflow.methods import BIFLOW, Method
from biflow.model import Model, empty_conditions
from biflow.moments import Moments
from biflow.networks import VideoUNet
from biflow.rollout import frame_seed, generate
from biflow.serve.controls import initial
from biflow.serve.dream import Dream
from biflow.serve.models import Served
from biflow.video import to_float
from biflow.web import runtime
from biflow.web.build import STEPS, build, of_frames, packed
from tests.local_server import local_server
from tests.serve.browser import SETTINGS, chromium, launched
from tests.serve.helpers import until
from tests.web.test_worker import ACTIONS, node, worker

__all__ = ["worker"]  # a fixture
SIDE = 16
MOMENTS = Moments(torch.full((1, 3, 8, 8), 99.0), np.array([[[-1.0, 0.5], [0.0, 0.0]]], np.float32))


def model() -> Model:
    """With everything that a model can have: past frames, actions, noise."""
    torch.manual_seed(0)
    shape = (3, SIDE, SIDE)
    conditions = empty_conditions(1, (3, 1, 1), 2, ACTIONS)
    config = NetworkConfig(channels=(32,), attention=(), patch=2)
    network = VideoUNet(BIFLOW, config, v_scale=0.5, conditions=conditions).eval()
    with torch.no_grad():
        for weight in network.parameters():  # what is zero until it is trained would hide mistakes
            weight.add_(0.02 * torch.randn_like(weight))
            weight.copy_(weight.bfloat16())  # as models are exported, and so the same in fp16
    return Model(network, BIFLOW, shape, eps=0.2, fps=50.0, context=2, context_eps=0.1, actions=ACTIONS)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of a tiny model's page, the model, and its first frames."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    if not (cache_folder() / "onnxruntime-web" / f"onnxruntime-web-{runtime.VERSION}.tgz").exists():
        pytest.skip("onnxruntime-web is not in the cache: biflow export MODEL --web DIR downloads it")
    one = model()
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(0, 256, (3, 3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    folder = tmp_path_factory.mktemp("pages") / "site"
    jaxtyping.config.update("jaxtyping_disable", True)  # a tracer would trace the checks, for seconds
    built = build(Served("tiny", one, first, MOMENTS), folder)
    jaxtyping.config.update("jaxtyping_disable", False)
    assert built.precision == "fp16"
    assert built.error <= HALF_LEVEL
    assert built.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return folder, one, first


def test_frames_in_wasm_are_those_of_pytorch(site, worker, tmp_path):
    folder, one, first = site
    seed, frames = frame_seed(0, 0), 4
    how = {"generators": [torch.Generator().manual_seed(seed)], "solver": Solver(steps=STEPS)}
    expected = generate(one, to_float(first[:1]), frames=frames, **how)[0]
    *past, newest = to_float(first[0]).flatten(1).tolist()
    about = json.loads((folder / "model" / "model.json").read_text())
    assert about.items() >= json.loads(json.dumps(of_frames(one))).items()
    assert about["moments"] == packed(MOMENTS)
    settings = {"model": about, "first": newest, "past": past[::-1], "frames": frames, "seed": seed % 2**32}
    settings |= {"actions": [{}] * frames, "eps": one.eps, "solver": "adams", "steps": STEPS}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    program = Path(__file__).parent / "stream.mjs"
    (folder / "package.json").write_text('{"type": "module"}')
    node(folder, program, folder / "worker", tmp_path / "settings.json", tmp_path / "frames", folder)
    (folder / "package.json").unlink()
    found = torch.from_numpy(np.fromfile(tmp_path / "frames", np.float32)).reshape(expected.shape)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def address(site):
    """Where the page is served, as `python -m http.server` does it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site[0])
    with local_server(handler) as server:
        yield f"http://localhost:{server.server_port}/"


@pytest.fixture(scope="module")
def browser():
    with launched() as one:
        yield one


@pytest.fixture
def page(browser, address):
    """The page, once it streams; `page.requests` are the addresses that it has asked for."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.errors, page.requests = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and page.errors.append(line.text))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    until(lambda: index(page) > 2)
    yield page
    assert page.errors == []
    context.close()


def index(page) -> int:
    text = page.inner_text("#index")
    return int(text) if text.isdigit() else -1


PIXELS = """id => { const { height, width } = window[id], pen = window[id].getContext("2d");
    return [height, width, ...pen.getImageData(0, 0, width, height).data]; }"""


def pixels(page, canvas="a", before="") -> torch.Tensor:
    """(3, h, w) of what is shown once the script `before` has run: no frame comes in between."""
    height, width, *data = page.evaluate(f"id => {{ {before}; return ({PIXELS})(id); }}", canvas)
    return torch.tensor(data, dtype=torch.uint8).reshape(height, width, 4)[:, :, :3].permute(2, 0, 1)


def pause(page) -> None:
    if page.inner_text("#play") == "Pause":
        page.keyboard.press("Space")
    until(lambda: page.inner_text("#play") == "Play")


def dreamt(site, frames: int, *, number=0, action=None, **controls):
    """The frame that the server would show after so many."""
    _, one, first = site
    models = {"tiny": Served("tiny", one, first, MOMENTS)}
    wanted = replace(initial(models), steps=STEPS, **controls)
    dream = Dream(models)
    dream.begin(first[number], wanted)
    for _ in range(frames):
        dream.advance(wanted, action=action)
    return dream.now


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether pictures are the same, up to rounding."""
    return bool((found.int() - expected.int()).abs().max() <= 1)


def test_the_page_shows_the_frames_of_the_server_and_asks_for_nothing_more(page, site):
    loaded = len(page.requests)
    assert page.evaluate("crossOriginIsolated")
    assert page.inner_text("#state") == "Live"
    pause(page)
    page.keyboard.press("2")
    until(lambda: index(page) == 0)
    assert close(pixels(page), site[2][1, -1])
    for frame in (1, 2, 3):
        page.keyboard.press(".")
        until(lambda frame=frame: index(page) == frame)
    assert page.inner_text("#nfe") == str(STEPS)
    assert close(pixels(page), dreamt(site, 3, number=1).pictures[0])
    assert len(page.requests) == loaded


def test_two_streams_backward_and_another_seed(page, site):
    pause(page)
    page.keyboard.press("1")
    page.keyboard.press("t")
    page.keyboard.press("b")
    page.click("#advanced summary")
    page.fill("#seed", "77")
    page.press("#seed", "Tab")
    page.keyboard.press("1")
    until(lambda: page.get_attribute("#pictures", "data-count") == "2" and index(page) == 0)
    page.click("#step")
    until(lambda: page.inner_text("#time") == "t = -1")
    expected = dreamt(site, 1, seed=77, two_up=True, direction="backward")
    assert close(pixels(page), expected.pictures[0])
    assert close(pixels(page, "b"), expected.pictures[1])


def test_keys_steer(page, site):
    pause(page)
    page.keyboard.press("1")
    until(lambda: index(page) == 0)
    page.keyboard.down("ArrowLeft")
    until(lambda: page.inner_text("#steerer").startswith("You"))
    page.keyboard.press(".")
    until(lambda: index(page) == 1)
    page.keyboard.up("ArrowLeft")
    assert close(pixels(page), dreamt(site, 1, action={"turn": -2.0}).pictures[0])


def test_a_picture_of_ones_own(page, tmp_path):
    pause(page)
    picture = Image.new("RGB", (90, 40), (200, 30, 60))
    picture.paste((0, 0, 0), (0, 0, 20, 40))  # outside the middle, which is what is taken
    picture.save(tmp_path / "own.png")
    page.set_input_files("#file", tmp_path / "own.png")
    until(lambda: index(page) == 0 and page.locator("#firsts button").count() == 4)
    expected = torch.tensor([200, 30, 60], dtype=torch.uint8)[:, None, None].expand(3, SIDE, SIDE)
    assert close(pixels(page), expected)
    assert "now" in (page.locator("#firsts button").last.get_attribute("class") or "")


def test_record_downloads_a_video_of_what_was_shown(page):
    page.keyboard.press("c")
    until(lambda: page.get_attribute("#record", "aria-pressed") == "true")
    begun = index(page)
    until(lambda: index(page) >= begun + 5)
    with page.expect_download() as download:
        shown = pixels(page, before="record.click()")
    assert download.value.suggested_filename in ("biflow.mp4", "biflow.webm")  # what the browser can write
    with av.open(str(download.value.path())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) >= 3
    scale = 512 // SIDE
    last = torch.from_numpy(frames[-1][scale // 2 :: scale, scale // 2 :: scale]).permute(2, 0, 1)
    greys = torch.stack([last, shown]).float().mean(1).flatten(1)
    assert torch.corrcoef(greys)[0, 1] > 0.98  # of the frame before, at most .976; it is compressed
    assert page.get_attribute("#record", "aria-pressed") == "false"


def test_a_browser_that_cannot_record_says_so(browser, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script("delete globalThis.MediaRecorder")
    page.goto(address)
    until(lambda: index(page) > 0)
    page.keyboard.press("c")
    until(lambda: "cannot record" in page.inner_text("#toasts"))
    assert page.get_attribute("#record", "aria-pressed") == "false"
    context.close()


def test_what_needs_a_server_is_not_there(page):
    for part in ("#share", "#last", "#format"):
        assert not page.is_visible(part)
    page.keyboard.press("l")
    now = index(page)
    until(lambda: index(page) > now + 3)  # an answer would have come before
    assert page.inner_text("#toasts") == ""


def test_the_page_works_without_a_network_once_it_was_loaded(page):
    page.context.set_offline(True)
    page.reload()
    until(lambda: index(page) > 2)


def test_a_browser_that_cannot_run_it_is_told_so(browser, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(address)
    until(lambda: "needs WebAssembly SIMD" in page.inner_text("#note"))
    context.close()


def test_a_page_that_is_opened_as_a_file_says_how_to_serve_it(browser, site):
    page = browser.new_page()
    page.goto((site[0] / "index.html").as_uri())
    until(lambda: "python -m http.server" in page.inner_text("#note"))
    page.close()


def test_a_page_streams_without_a_service_worker(browser, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(address)
    until(lambda: index(page) > 1)
    assert not page.evaluate("crossOriginIsolated")
    context.close()


SAME = """async () => {
  const { evaluator, start } = await import("./worker/network.js");
  const read = async (name) => {
    const { body } = await fetch(name);
    return new Uint8Array(await new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  };
  const model = await (await fetch("model/model.json")).json(), { module, binary } = model.runtimes.gpu;
  const ort = await import("./" + module), network = await read("model/network.onnx.gz"), query = {}, answers = [];
  for (const [name, shape] of Object.entries(model.inputs))
    query[name] = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i));
  start(ort, await read(binary), 1);
  for (const provider of ["wasm", "webgpu"]) {
    const { v, n } = await (await evaluator(ort, network, model, provider))(query);
    answers.push([...v, ...n]);
  }
  return answers;
}"""


@pytest.mark.slow
def test_a_gpu_gives_the_same(browser, address):
    software = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # a GPU in software
    with browser.browser_type.launch(executable_path=chromium(), args=[*SETTINGS, *software]) as other:
        page = other.new_page()
        lines = []
        page.on("console", lambda line: lines.append(line.text))
        page.goto(address)
        until(lambda: index(page) > 1)
        timed = re.compile(r"An evaluation takes [\d.]+ ms on the CPU, [\d.]+ ms on the GPU.")
        assert any(map(timed.fullmatch, lines))
        on_cpu, on_gpu = torch.tensor(page.evaluate(SAME))
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("cpu", "gpu", "asked"),
    [
        (30, "1", ["gpu", "gpu"]),
        (1, "30", ["cpu", "cpu"]),
        (1, "none", ["cpu", "cpu"]),
        (30, "lost", ["gpu", "gpu", "cpu"]),
    ],
    ids=["gpu is faster", "cpu is faster", "no gpu", "gpu is lost"],
)
def test_the_network_runs_where_it_is_faster_and_on_the_cpu_where_there_is_no_gpu(cpu, gpu, asked, worker):
    assert json.loads(node(worker, Path(__file__).parent / "faster.mjs", worker, cpu, gpu)) == asked


def test_what_is_still_to_load_is_said(browser, site, address):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script("""addEventListener("DOMContentLoaded", () => { window.notes = [];
        new MutationObserver(() => notes.push(note.innerText)).observe(note, { childList: true, subtree: true }); })""")
    page.goto(address)
    until(lambda: index(page) > 0)
    totals = {found[1] for text in page.evaluate("notes") if (found := re.search(r"of ([\d.]+) MB", text))}
    size = json.loads((site[0] / "model" / "model.json").read_text())["runtimes"]["cpu"]["bytes"]
    assert totals == {f"{size / 1e6:.1f}"}
    context.close()


class Other(Method):
    name, title = "other", "OTHER"


def test_a_method_that_the_worker_does_not_know_is_refused_and_nothing_is_written(tmp_path):
    one = Model(lambda query: query, Other(), (3, SIDE, SIDE))
    with pytest.raises(UserError, match=r"OTHER does not stream in the browser; these do: flow, biflow, flow"):
        build(Served("other", one, torch.zeros(0, 1, 3, SIDE, SIDE, dtype=torch.uint8)), tmp_path / "site")
    assert not list(tmp_path.iterdir())
