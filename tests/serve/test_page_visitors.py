"""What a visitor of the page meets: waiting, refusals, a tour, small screens."""

import shutil
import threading

import numpy as np
import pytest

from biflow.serve import hall as hall_module
from biflow.serve.app import app
from tests.serve.browser import Look
from tests.serve.helpers import png, running, until


def test_the_last_five_seconds_are_saved(page, look):
    import av

    look.count(10)
    look.pause()
    with page.expect_download() as download:
        page.keyboard.press("l")
    assert download.value.suggested_filename == "biflow-5s.mp4"
    with av.open(str(download.value.path())) as container:
        assert len(list(container.decode(video=0))) == len(look.session.dream.past)


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
    page.evaluate(
        "import('/tour.js').then(({ acts }) => acts.forEach((act) => { act.seconds = 0.3; act.frames = 1; }))"
    )
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
    monkeypatch.setattr(hall_module, "warm_up", lambda *_: go.wait(120))
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
        assert f"biflow serve … --origin http://{address} (and" in page.inner_text("#banner")
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
        page.set_input_files("#file", {"name": "grey.png", "mimeType": "image/png", "buffer": png()})
        until(lambda: look.index >= 1)
        assert page.is_visible("#a")
        assert page.is_hidden("#note")
    page.close()


def test_a_connection_that_has_died_in_silence_is_lost(browser, folders):
    page, guarded = browser.new_page(), app({"bi": folders["bi"]})
    page.add_init_script("""
        window.WebSocket = class extends WebSocket { // no message arrives any more, and no end of the connection
          set onmessage(f) { super.onmessage = (event) => { if (!window.dead) f(event); }; }
        };
        const now = performance.now.bind(performance);
        performance.now = () => now() + (window.dead ? 20000 : 0);
    """)
    look = Look(page, guarded.app.state.hall)
    with running(guarded) as address:
        page.goto(f"http://{address}/")
        until(lambda: look.index >= 2)
        page.evaluate("window.dead = true")
        until(lambda: page.is_visible("#banner"))
        assert "connection to the server was lost" in page.inner_text("#banner")
        page.evaluate("window.dead = false")
        look.says("#state", "Live")
        look.count(2)
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
