"""The page in a real browser, end to end."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from biflow import methods
from biflow.model import Model, save_model
from biflow.networks import VideoUNet
from biflow.serve.uploads import Uploads
from tests.serve import browser as browser_module
from tests.serve.browser import Look, chromium
from tests.serve.conftest import TINY, serving
from tests.serve.helpers import idle, until


def test_frames_arrive_and_differ_and_the_readings_say_so(page, look):
    one = look.pixels()
    look.count(3)
    assert look.pixels() != one
    assert page.inner_text("#state") == "Live"
    until(lambda: float(page.inner_text("#shown")) > 0 and float(page.inner_text("#solved")) > 0)
    until(lambda: page.inner_text("#latency").isdigit())
    assert int(page.inner_text("#nfe")) >= 1
    until(lambda: "Evaluations of the last frames" in page.get_attribute("#spark", "aria-label"))
    until(lambda: page.inner_text("#drift").replace(".", "").isdigit())
    until(lambda: "Drift, at every sixteenth frame: " in page.get_attribute("#drift-chart", "aria-label"))
    sides = page.evaluate("[a.width, a.clientWidth, a.clientHeight]")
    assert sides[1] == sides[2]
    assert sides[1] % sides[0] == 0  # whole pixels
    assert page.evaluate("getComputedStyle(a).imageRendering") == "pixelated"


def test_pause_stops_the_evaluations_and_step_makes_one_frame(page, look):
    stopped = look.pause()
    solved = idle(look.session)
    page.keyboard.press(".")
    look.reaches(stopped + 1)
    assert idle(look.session) == solved + 1  # so there was none between the pause and the step
    page.click("#step")
    look.reaches(stopped + 2)
    assert idle(look.session) == solved + 2
    page.click("#play")
    until(lambda: look.index > stopped + 3)


def test_noise_solver_and_pace_change_the_next_frames(page, look):
    look.pause()
    look.advanced()
    page.click("#fixed + span")
    page.locator("#steps").fill("7")
    page.select_option("#solver", "midpoint")
    look.says("#steps-out", "7")
    page.keyboard.press(".")
    look.says("#nfe", "14")
    index, before = look.index, look.pixels()
    page.keyboard.press(",")  # back, and the same frame again with more noise
    look.reaches(index - 1)
    for _ in range(20):
        page.keyboard.press("]")
    look.says("#eps-out", "0.30")
    page.keyboard.press(".")
    look.reaches(index)
    assert look.pixels() != before
    page.locator("#fps_cap").fill("5")
    page.keyboard.press("Space")
    look.count(22)  # more than the 3 seconds over which the rate is averaged
    assert look.session.controls.fps_cap == 5
    until(lambda: 0 < float(page.inner_text("#shown")) <= 5.6)


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
    until(lambda: look.index == 0 and look.colours() == {120})
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        dispatchEvent(new DragEvent("drop", { dataTransfer: data })); }""",
        list(flat(40)),
    )
    until(lambda: look.colours() == {40})
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
        dispatchEvent(new ClipboardEvent("paste", { clipboardData: data })); }""",
        list(flat(90)),
    )
    until(lambda: look.colours() == {90})
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"PK no image"})
    until(lambda: "PNG, JPEG, WebP or GIF" in page.inner_text("#toasts"))
    page.keyboard.press("2")
    until(lambda: len(look.colours()) > 20 and look.index == 0)
    until(lambda: page.get_attribute("#firsts li:nth-child(2) button", "class") == "now")
    assert page.locator("#firsts img[alt='Your picture']").count() == 3
    page.click("#firsts li:nth-child(5) button")
    until(lambda: look.colours() == {40})
    page.keyboard.press(".")
    look.reaches(1)
    page.keyboard.press("r")
    until(lambda: look.index == 0 and look.colours() == {40})


def test_a_photo_is_made_smaller_and_upright_before_it_is_sent(page, look):
    sent = []
    put = Uploads.put
    look.pause()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Uploads, "put", lambda self, who, data: sent.append(data) or put(self, who, data))
        left = Image.new("L", (2, 1), 220)
        left.putpixel((1, 0), 30)
        turned, file = Image.Exif(), io.BytesIO()
        turned[0x0112] = 6  # what is on the left of the file is the top of the picture
        left.resize((4032, 3024), Image.Resampling.NEAREST).save(file, "JPEG", exif=turned)
        page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
        until(lambda: look.index == 0 and len(sent) == 1)
    assert Image.open(io.BytesIO(sent[0])).size == (768, 1024)
    until(lambda: look.pixels()[0] > 200 and look.pixels()[-4] < 50)
    heic = {"name": "a.heic", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic" + bytes(99)}
    page.set_input_files("#file", heic)
    until(lambda: "HEIC" in page.inner_text("#toasts"))


def test_a_picture_from_the_camera_is_the_first_frame(page, look):
    look.pause()
    before = look.pixels()
    page.keyboard.press("w")
    until(lambda: page.evaluate("video.videoWidth") > 0)
    page.click("#shoot")
    until(lambda: look.index == 0 and look.pixels() != before)
    assert page.evaluate("video.srcObject") is None  # the camera is off again
    until(lambda: page.get_attribute("#firsts li:last-child button", "class") == "now")


def test_the_camera_is_opened_once_and_off_again(page, look):
    page.evaluate("""() => {
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        window.films = [];
        navigator.mediaDevices.getUserMedia = async (how) => (films.push(await open(how)), films.at(-1));
    }""")
    for _ in range(2):
        page.keyboard.press("w")
        page.keyboard.press("w")  # while the browser asks, or the dialog is open
        until(lambda: page.is_visible("#camera"))
        page.keyboard.press("Escape")
        until(
            lambda: page.evaluate("films.every((film) => film.getTracks().every((one) => one.readyState === 'ended'))")
        )
    assert page.evaluate("films.length") == 2


def test_frames_that_are_not_square_have_their_canvas(browser, tmp_path):
    torch.manual_seed(0)
    model = Model(VideoUNet(methods.BIFLOW, TINY), methods.BIFLOW, (3, 48, 64), eps=0.1, fps=10.0)  # the page has 64x64
    save_model(tmp_path / "wide", model)
    (tmp_path / "wide" / "first").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "wide" / "first" / "0.png")
    page = browser.new_page()
    with serving({"wide": tmp_path / "wide"}) as server:
        page.goto(f"http://{server.address}/")
        until(lambda: page.evaluate("a.dataset.frame !== undefined"))
        assert page.evaluate("[a.width, a.height]") == [64, 48]
        page.close()


def test_the_strip_shows_every_eighth_frame_and_leads_back(page, look):
    look.session.change({"fps_cap": None})
    until(lambda: page.locator("#strip button").count() >= 4)
    look.pause()
    labels = [button.get_attribute("aria-label") for button in page.locator("#strip button").all()]
    assert labels == [f"Back to frame {index}" for index in range(0, look.index + 1, 8)]
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
    until(lambda: "grey levels apart" in page.inner_text("#caption-b"))
    page.select_option("#model_b", "flow")
    until(lambda: "FLOW, correction 0.00" in page.inner_text("#caption-b"))
    look.count(3)
    page.keyboard.press("t")
    until(lambda: page.is_hidden("#b"))


def test_another_model_at_the_next_frame(page, look):
    page.select_option("#model", "large")
    until(lambda: page.evaluate("a.width") == 24)
    page.keyboard.press("m")
    until(lambda: page.evaluate("a.width") == 16)


def test_what_a_model_cannot_do_is_disabled(page, look):
    look.advanced()
    assert page.is_enabled("#eps")
    page.select_option("#model", "flow")
    until(lambda: page.is_disabled("#eps"))
    assert page.is_enabled("#direction")
    assert page.is_enabled("#in_between")
    until(lambda: "FLOW, correction 0.00" in page.inner_text("#caption-a"))
    page.select_option("#model", "con")
    until(lambda: all(page.is_disabled(control) for control in ("#eps", "#direction", "#in_between")))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("t")  # comes after it, and is answered
    until(lambda: look.session.controls.two_up)
    assert look.session.controls.direction == "forward"
    until(lambda: "con · CONDIFF, correction 0.00" in page.inner_text("#caption-a"))
    page.select_option("#solver", "reference")
    until(lambda: page.is_disabled("#fixed"))
    page.select_option("#solver", "rk4")
    until(lambda: page.is_disabled("#adaptive") and page.is_checked("#fixed"))


def test_options_and_ranges_are_those_of_the_server(page, look):
    sliders = page.evaluate("Object.fromEntries(['eps', 'eps_b', 'steps', 'rtol', 'in_between'].map(id => [id, "
                            "[+document.getElementById(id).min, +document.getElementById(id).max]]))")  # fmt: skip
    assert sliders == {"eps": [0, 1], "eps_b": [0, 1], "steps": [1, 64], "rtol": [-5, 0], "in_between": [1, 8]}
    look.advanced()
    assert page.evaluate("[seed.min, seed.max]") == ["0", str(2**32 - 1)]
    assert page.locator("#format option").all_inner_texts() == ["JPEG", "WebP", "PNG (lossless)"]
    page.select_option("#format", "png")
    until(lambda: look.session.controls.format == "png")


def test_a_session_survives_a_reload_and_has_several_viewers(page, look, browser):
    session, stopped = look.session, look.pause()
    page.reload()
    look.reaches(stopped)
    assert look.session is session
    other = browser.new_page()
    other.goto(page.url)
    Look(other, look.hall).reaches(stopped)
    other.keyboard.press(".")
    look.reaches(stopped + 1)
    other.close()


def test_every_control_has_a_name_and_the_keys_are_listed(page, look):
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, select, input, canvas[role]")].filter((one) =>
        !(one.labels?.length || one.ariaLabel || one.textContent.trim() || one.title || one.querySelector("img[alt]")))
        .map((one) => one.outerHTML)"""
    )
    assert not nameless
    page.keyboard.press("?")
    until(lambda: page.is_visible("#keys"))
    page.keyboard.press("Escape")
    until(lambda: page.is_hidden("#keys"))


@pytest.mark.parametrize(
    ("missing", "reason"), [("playwright", "playwright is not installed"), ("chromium", "Chromium is not installed")]
)
def test_without_a_browser_these_tests_are_skipped_and_fail_in_ci(missing, reason, monkeypatch):
    gone = missing == "playwright"
    monkeypatch.setattr(browser_module, "find_spec", lambda name: None if gone else name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        chromium()
