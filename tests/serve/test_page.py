"""The page in a real browser, end to end."""

import io
import shutil
import socket
import time

import numpy as np
import pytest
from PIL import Image

from biflow.serve.app import app
from tests.serve.helpers import running, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Its camera is a test pattern, and asks nobody.
CHROMIUM_SETTINGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_SETTINGS)
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    made = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    made.on("pageerror", lambda error: errors.append(error))
    made.goto(f"http://{server.address}/")
    yield made
    assert not errors
    made.close()


class Look:
    """What there is to see on a page."""

    def __init__(self, page):
        self.page = page

    @property
    def index(self) -> int:
        text = self.page.inner_text("#index")
        return int(text) if text.isdigit() else -1

    @property
    def time(self) -> float:
        return float(self.page.inner_text("#time").split("=")[1])

    def pixels(self, canvas="a") -> bytes:
        return bytes(
            self.page.evaluate(
                """id => { const c = document.getElementById(id);
                return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }""",
                canvas,
            )
        )

    def count(self, more: int) -> None:
        start = self.page.evaluate("+document.getElementById('a').dataset.frame || 0")
        until(lambda: self.page.evaluate("+document.getElementById('a').dataset.frame || 0") >= start + more)

    def pause(self) -> int:
        """Pause, and the index of the frame that stays."""
        if self.page.inner_text("#play") == "Pause":
            self.page.keyboard.press("Space")
        until(lambda: self.page.inner_text("#play") == "Play")
        last = -1
        while last != self.index:
            last = self.index
            time.sleep(0.7)
        return last


def levels(pixels: bytes) -> np.ndarray:
    return np.frombuffer(pixels, np.uint8).astype(int)


@pytest.fixture
def look(page):
    made = Look(page)
    until(lambda: made.index >= 2)
    return made


def test_frames_arrive_and_differ_and_the_readings_say_so(page, look):
    one = look.pixels()
    look.count(3)
    assert look.pixels() != one
    assert page.inner_text("#state") == "Live"
    until(lambda: float(page.inner_text("#shown")) > 0 and float(page.inner_text("#solved")) > 0)
    until(lambda: page.inner_text("#latency").isdigit())
    assert int(page.inner_text("#nfe")) >= 1
    assert "Evaluations of the last frames" in page.get_attribute("#spark", "aria-label")
    sides = page.evaluate("[a.width, a.clientWidth, a.clientHeight]")
    assert sides[1] == sides[2]
    assert sides[1] % sides[0] == 0  # whole pixels
    assert page.evaluate("getComputedStyle(a).imageRendering") == "pixelated"


def test_pause_stops_the_evaluations_and_step_makes_one_frame(page, look, server):
    stopped = look.pause()
    time.sleep(0.5)
    assert look.index == stopped
    page.keyboard.press(".")
    until(lambda: look.index == stopped + 1)
    page.click("#step")
    until(lambda: look.index == stopped + 2)
    page.click("#play")
    until(lambda: look.index > stopped + 3)


def test_noise_solver_and_pace_change_the_next_frames(page, look):
    look.pause()
    page.click("#fixed + span")
    page.locator("#steps").fill("7")
    page.select_option("#solver", "midpoint")
    until(lambda: page.inner_text("#steps-out") == "7")
    page.keyboard.press(".")
    until(lambda: page.inner_text("#nfe") == "14")
    page.keyboard.press(",")  # back, and the same frame again with more noise
    before = look.pixels()
    back = look.index
    for _ in range(20):
        page.keyboard.press("]")
    until(lambda: page.inner_text("#eps-out") == "0.30")
    page.keyboard.press(".")
    until(lambda: look.index == back + 1)
    assert look.pixels() != before
    page.locator("#fps_cap").fill("5")
    page.keyboard.press("Space")
    look.count(2)
    page.wait_for_timeout(3500)
    assert 0 < float(page.inner_text("#shown")) <= 5.6


def test_backward_then_forward(page, look):
    look.pause()
    begun = look.time
    page.keyboard.press("ArrowLeft")
    until(lambda: page.get_attribute("#direction", "aria-pressed") == "true")
    page.keyboard.press(".")
    until(lambda: look.time == begun - 1)
    page.keyboard.press(".")
    until(lambda: look.time == begun - 2)
    page.keyboard.press("ArrowRight")
    page.keyboard.press(".")
    until(lambda: look.time == begun - 1)


def test_upload_drop_and_restart(page, look):
    def flat(value):
        file = io.BytesIO()
        Image.new("RGB", (50, 30), (value,) * 3).save(file, "PNG")
        return file.getvalue()

    look.pause()
    page.set_input_files("#file", {"name": "grey.png", "mimeType": "image/png", "buffer": flat(120)})
    until(lambda: look.index == 0 and set(look.pixels()[::4]) == {120})
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        dispatchEvent(new DragEvent("drop", { dataTransfer: data })); }""",
        list(flat(40)),
    )
    until(lambda: set(look.pixels()[::4]) == {40})
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        dispatchEvent(new ClipboardEvent("paste", { clipboardData: data })); }""",
        list(flat(90)),
    )
    until(lambda: set(look.pixels()[::4]) == {90})
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"PK no image"})
    until(lambda: "PNG, JPEG, WebP or GIF" in page.inner_text("#toasts"))
    page.keyboard.press("2")
    until(lambda: len(set(look.pixels()[::4])) > 20 and look.index == 0)
    assert page.get_attribute("#firsts li:nth-child(2) button", "class") == "now"


def test_a_picture_from_the_camera_is_the_first_frame(page, look):
    look.pause()
    before = look.pixels()
    page.keyboard.press("w")
    until(lambda: page.evaluate("video.videoWidth") > 0)
    page.click("#shoot")
    until(lambda: look.index == 0 and look.pixels() != before)
    assert page.evaluate("video.srcObject") is None  # the camera is off again


def test_the_strip_leads_back(page, look):
    look.pause()
    until(lambda: page.locator("#strip button").count() >= 3)
    button = page.locator("#strip button").nth(1)
    label = button.get_attribute("aria-label")
    button.click()
    until(lambda: f"Back to frame {look.index}" == label)


def test_record_downloads_a_playable_mp4(page, look):
    import av

    page.keyboard.press("c")
    until(lambda: page.get_attribute("#record", "aria-pressed") == "true")
    look.count(5)
    with page.expect_download() as download:
        page.keyboard.press("c")
    assert download.value.suggested_filename == "biflow.mp4"
    with av.open(str(download.value.path())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) >= 5
    assert frames[0].shape == (512, 512, 3)


def test_snapshot_saves_what_is_shown(page, look):
    look.pause()
    with page.expect_download() as download:
        page.keyboard.press("s")
    saved = np.asarray(Image.open(download.value.path()).convert("RGBA"))
    assert saved.shape == (512, 512, 4)
    assert saved[::32, ::32].tobytes() == look.pixels()


def test_two_up_shows_two_streams(page, look):
    page.keyboard.press("t")
    until(lambda: page.is_visible("#b") and look.pixels("b") != look.pixels("a"))
    assert "grey levels apart" in page.inner_text("#caption-b")
    page.select_option("#model_b", "flow")
    until(lambda: "FLOW, eps 0.00" in page.inner_text("#caption-b"))
    look.count(3)
    page.keyboard.press("t")
    until(lambda: page.is_hidden("#b"))


def test_another_model_at_the_next_frame(page, look):
    page.select_option("#model", "large")
    until(lambda: page.evaluate("a.width") == 24)
    page.keyboard.press("m")
    until(lambda: page.evaluate("a.width") == 16)


def test_a_session_survives_a_reload_and_has_several_viewers(page, look, browser):
    name = page.evaluate("new URLSearchParams(location.search).get('session')")
    stopped = look.pause()
    page.reload()
    until(lambda: look.index == stopped)
    assert page.evaluate("new URLSearchParams(location.search).get('session')") == name
    other = browser.new_page()
    other.goto(page.url)
    until(lambda: Look(other).index == stopped)
    other.keyboard.press(".")
    until(lambda: look.index == stopped + 1)
    other.close()


def test_every_control_has_a_name_and_the_keys_are_listed(page, look):
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, select, input, canvas[role]")].filter((one) =>
        !(one.labels?.length || one.ariaLabel || one.textContent.trim() || one.title || one.querySelector("img[alt]")))
        .map((one) => one.outerHTML)"""
    )
    assert not nameless
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    assert page.is_hidden("#keys")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page(page, look, width):
    page.set_viewport_size({"width": width, "height": 780})
    page.keyboard.press("t")
    until(lambda: page.is_visible("#b"))
    look.count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_lost_connection_is_said_and_mends_itself(browser, folders):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = browser.new_page()
    look = Look(page)
    models = {"bi": folders["bi"]}
    with running(app(models), port):
        page.goto(f"http://127.0.0.1:{port}/")
        until(lambda: look.index >= 2)
        page.keyboard.press("]")
        until(lambda: page.inner_text("#eps-out") == "0.11")
        look.pause()
        picture = look.pixels()
    until(lambda: page.is_visible("#banner"))
    assert "connection to the server is lost" in page.inner_text("#banner")
    assert page.inner_text("#state") == "Not connected"
    with running(app(models), port):
        until(lambda: page.inner_text("#state") == "Live")
        assert page.is_hidden("#banner")
        until(lambda: page.inner_text("#eps-out") == "0.11")
        until(
            lambda: (
                np.abs(np.frombuffer(look.pixels(), np.uint8) - np.frombuffer(picture, np.uint8).astype(int)).max() < 40
            )
        )
        page.keyboard.press("Space")
        look.count(2)
    page.close()
