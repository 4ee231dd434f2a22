"""The page in a real browser, end to end."""

import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from biflow.serve import hall as hall_module
from biflow.serve import images
from biflow.serve.app import app
from tests.serve import browser as browser_module
from tests.serve.browser import Look, chromium, launched
from tests.serve.helpers import idle, running, until


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(f"http://{server.address}/")
    yield page
    page.close()
    assert not errors


@pytest.fixture
def look(page, server):
    look = Look(page, server.hall)
    until(lambda: look.index >= 2)
    return look


def test_frames_arrive_and_differ_and_the_readings_say_so(page, look):
    one = look.pixels()
    look.count(3)
    assert look.pixels() != one
    assert page.inner_text("#state") == "Live"
    until(lambda: float(page.inner_text("#shown")) > 0 and float(page.inner_text("#solved")) > 0)
    until(lambda: page.inner_text("#latency").isdigit())
    assert int(page.inner_text("#nfe")) >= 1
    until(lambda: "Evaluations of the last frames" in page.get_attribute("#spark", "aria-label"))
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
    decode = images.decode
    look.pause()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode", lambda data, size: sent.append(data) or decode(data, size))
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


def test_the_last_five_seconds_are_saved(page, look):
    import av

    look.count(10)
    look.pause()
    with page.expect_download() as download:
        page.keyboard.press("l")
    assert download.value.suggested_filename == "biflow-5s.mp4"
    with av.open(str(download.value.path())) as container:
        assert len(list(container.decode(video=0))) == len(look.session.dream.past)


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


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page(page, look, width):
    page.set_viewport_size({"width": width, "height": 780})
    page.keyboard.press("t")
    until(lambda: page.is_visible("#b"))
    look.count(2)
    until(lambda: page.evaluate("innerWidth") == width)
    until(lambda: page.evaluate("document.documentElement.scrollWidth") == width)


def test_two_streams_are_level_on_a_phone(page, look):
    page.set_viewport_size({"width": 375, "height": 812})
    page.keyboard.press("t")
    until(lambda: page.inner_text("#caption-b").endswith("apart"))
    tops, sides = page.evaluate("[[a, b].map(c => c.getBoundingClientRect().top), [a, b].map(c => c.clientWidth)]")
    assert tops[0] == tops[1]
    assert sides[0] == sides[1]


def test_a_seed_has_ten_digits_and_one_out_of_range_is_explained(page, look):
    look.advanced()
    page.fill("#seed", str(2**32 - 1))
    page.keyboard.press("Enter")
    until(lambda: look.session.controls.seed == 2**32 - 1)
    assert page.evaluate("seed.scrollWidth <= seed.clientWidth")
    for wrong in (str(2**32), "-1", "1.5", ""):
        page.evaluate("document.getElementById('toasts').replaceChildren()")
        page.fill("#seed", wrong)
        page.keyboard.press("Enter")
        until(lambda: "A seed is a whole number from 0 to 4294967295." in page.inner_text("#toasts"))
        assert page.input_value("#seed") == str(2**32 - 1)


def test_the_tour_turns_correction_off_and_on_again(page, look):
    page.evaluate("import('/tour.js').then(({ acts }) => acts.forEach((act) => { act.seconds = 9999; }))")
    page.click("#tour")
    until(lambda: page.is_visible("#b") and page.is_visible("#story"))
    until(lambda: look.session.controls.eps_b == 0.1)
    page.click("#tour")  # ends it
    until(lambda: page.is_hidden("#b") and page.is_hidden("#story"))
    page.evaluate("import('/tour.js').then(({ acts }) => acts.forEach((act) => { act.seconds = 0.3; }))")
    noise, change = [], look.session.change

    def note(wanted):
        noise.append(wanted.get("eps_b"))
        return change(wanted)

    look.session.change = note
    page.click("#tour")
    until(lambda: len(noise) == 4 and page.is_hidden("#b"))
    assert noise == [0.1, 0, 0.1, 0]  # the last is what it was before
    assert not look.session.controls.two_up


def test_the_picture_fills_the_screen(page, look):
    page.keyboard.press("f")
    until(lambda: page.evaluate("document.fullscreenElement?.id") == "pictures")
    page.keyboard.press("f")
    until(lambda: page.evaluate("document.fullscreenElement") is None)


def test_warming_up_is_neither_an_alert_nor_a_pause(browser, folders, monkeypatch):
    go, page = threading.Event(), browser.new_page()
    monkeypatch.setattr(hall_module, "warm_up", lambda served: go.wait(120))
    guarded = app({"bi": folders["bi"]})
    with running(guarded, ready=False) as address:
        page.goto(f"http://{address}/")
        look = Look(page, guarded.app.state.hall)
        look.says("#note", "The model is warming up.")
        assert page.is_hidden("[role=alert]")
        assert page.inner_text("#play") == "Play"
        assert page.is_disabled("#play")
        go.set()
        until(lambda: look.index >= 1)
        assert page.inner_text("#play") == "Pause"
        assert page.is_hidden("#note")
    page.close()


def test_a_refused_page_says_how_to_allow_it(browser, folders):
    page, guarded = browser.new_page(), app({"bi": folders["bi"]})

    async def proxy(scope, receive, send):  # one that puts its own name for the server into the Host header
        headers = [(name, b"inside" if name == b"host" else value) for name, value in scope.get("headers", [])]
        await guarded({**scope, "headers": headers}, receive, send)

    proxy.app = guarded.app
    with running(proxy) as address:
        page.goto(f"http://{address}/")
        look = Look(page, guarded.app.state.hall)
        look.says("#state", "Refused")
        assert f"biflow serve … --origin http://{address}. Trying again" in page.inner_text("#banner")
        guarded.origins = (f"http://{address}",)
        until(lambda: look.index >= 1)
        assert page.is_hidden("#banner")
    page.close()


def test_a_model_without_first_frames_asks_for_a_picture(browser, folders, tmp_path):
    shutil.copytree(folders["bi"], tmp_path / "bare", ignore=shutil.ignore_patterns("first"))
    page, guarded = browser.new_page(), app({"bare": tmp_path / "bare"})
    with running(guarded) as address:
        page.goto(f"http://{address}/")
        look = Look(page, guarded.app.state.hall)
        until(lambda: "comes without pictures to start from" in page.inner_text("#note"))
        assert page.is_hidden("#a")
        file = io.BytesIO()
        Image.new("RGB", (30, 30), (120,) * 3).save(file, "PNG")
        page.set_input_files("#file", {"name": "grey.png", "mimeType": "image/png", "buffer": file.getvalue()})
        until(lambda: look.index >= 1)
        assert page.is_visible("#a")
        assert page.is_hidden("#note")
    page.close()


def test_a_lost_connection_is_said_and_mends_itself(browser, folders):
    page, guarded = browser.new_page(), app({"bi": folders["bi"]})
    look = Look(page, guarded.app.state.hall)
    with running(guarded) as address:
        page.goto(f"http://{address}/")
        until(lambda: look.index >= 2)
        page.keyboard.press("]")
        look.says("#eps-out", "0.11")
        look.pause()
        picture = look.pixels()
    until(lambda: page.is_visible("#banner"))
    assert "connection to the server was lost" in page.inner_text("#banner")
    assert page.inner_text("#state") == "Not connected"
    with running(app({"bi": folders["bi"]}), int(address.split(":")[1])):
        look.says("#state", "Live")
        assert page.is_hidden("#banner")
        look.says("#eps-out", "0.11")
        levels = np.frombuffer(picture, np.uint8).astype(int)
        until(lambda: np.abs(np.frombuffer(look.pixels(), np.uint8) - levels).max() < 40)
        page.keyboard.press("Space")
        look.count(2)
    page.close()


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
