"""Steering in a real browser: keys, the pad, a gamepad, and who steers."""

import json

import pytest

from tests.serve.browser import PATIENCE, Look
from tests.serve.helpers import until

GAMEPAD = """() => {
    window.pad = { connected: true, mapping: "standard", axes: [0, 0, 0, 0],
        buttons: [...Array(17)].map(() => ({ pressed: false, value: 0 })) };
    navigator.getGamepads = () => [window.pad];
    dispatchEvent(new Event("gamepadconnected"));
}"""


@pytest.fixture
def look(browser, steered_server):
    page, errors = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(f"http://{steered_server.address}/")
    look = Look(page, steered_server.hall)
    until(lambda: look.index >= 1)
    yield look
    page.close()
    assert not errors


def held(look, action):
    """Wait until the session holds this action; None is the autopilot."""
    until(lambda: look.session.steering.pressed == action)


def test_keys_steer_while_they_are_held(look):
    page = look.page
    assert page.inner_text("#steerer") == "Autopilot. Press an arrow key or J to steer."
    page.keyboard.down("ArrowUp")
    held(look, {"move": 1})
    look.says("#steerer", "You steer.")
    page.keyboard.down("a")
    held(look, {"move": 1, "turn": -1})
    page.keyboard.down("ArrowRight")  # against each other
    held(look, {"move": 1})
    page.keyboard.up("a")
    held(look, {"move": 1, "turn": 1})
    page.keyboard.up("ArrowUp")
    page.keyboard.down("j")
    held(look, {"turn": 1, "jump": 2})
    page.evaluate("dispatchEvent(new Event('blur'))")
    held(look, {})
    assert look.session.controls.direction == "forward"


def test_a_repeated_key_is_sent_once(look):
    sent = []
    look.session.act = lambda viewer, action: sent.append(action) or []
    look.page.keyboard.down("w")
    for _ in range(3):
        look.page.keyboard.down("w")  # as a keyboard repeats it
    look.page.keyboard.up("w")
    until(lambda: sent[-1:] == [{}])
    assert sent == [{"move": 1}, {}]


def test_the_autopilot_takes_over_when_nothing_is_pressed(look, monkeypatch):
    monkeypatch.setattr("biflow.serve.steering.PATIENCE", 0.2)
    look.page.keyboard.down("ArrowLeft")
    look.says("#steerer", "You steer.")
    look.page.keyboard.up("ArrowLeft")
    held(look, None)
    until(lambda: look.page.inner_text("#steerer").startswith("Autopilot"))


def test_what_the_keys_did_otherwise_is_on_shift(look):
    page = look.page
    page.keyboard.press("Shift+A")
    until(lambda: look.session.controls.steps == 4)
    with page.expect_download():
        page.keyboard.press("Shift+S")
    page.keyboard.press("Shift+W")
    until(lambda: page.is_visible("#camera"))
    page.keyboard.press("Escape")
    assert look.session.steering.holder is None
    page.keyboard.press("b")
    until(lambda: look.session.controls.direction == "backward")
    page.keyboard.press("?")
    until(lambda: page.is_visible("#keys"))
    rows = page.locator("#keys dl div:visible").all_inner_texts()
    rows = [" ".join(row.split()) for row in rows]
    assert rows[:5] == ["↑ W forward", "↓ S back", "← A left", "→ D right", "J jump"]
    assert {"Shift A adaptive or fixed steps", "Shift W start from the camera"} < set(rows)
    assert not any("run time backward" in row for row in rows)
    assert "Shift+S" in page.get_attribute("#snapshot", "title")


def test_a_model_without_actions_has_the_keys_of_before(look):
    page = look.page
    page.keyboard.down("ArrowUp")
    held(look, {"move": 1})
    page.select_option("#model", "bi")
    until(lambda: page.is_hidden("#steering"))
    held(look, None)
    page.keyboard.up("ArrowUp")
    page.keyboard.press("ArrowLeft")
    until(lambda: look.session.controls.direction == "backward")
    page.keyboard.press("a")
    until(lambda: look.session.controls.steps == 4)
    page.keyboard.press("?")
    until(lambda: page.is_visible("#keys"))
    rows = [" ".join(row.split()) for row in page.locator("#keys dl div:visible").all_inner_texts()]
    assert "← → run time backward, forward" in rows
    assert "A adaptive or fixed steps" in rows
    page.keyboard.press("Escape")
    page.select_option("#model", "walk")
    until(lambda: page.is_visible("#steering"))
    page.keyboard.down("ArrowUp")
    held(look, {"move": 1})


def test_a_list_that_was_used_with_the_mouse_leaves_the_keys_to_steering(look):
    look.page.evaluate("""() => { solver.focus({ focusVisible: false }); solver.value = "euler";
        solver.dispatchEvent(new Event("change", { bubbles: true })); }""")
    until(lambda: look.session.controls.solver == "euler")
    look.page.keyboard.down("ArrowDown")
    held(look, {"move": -1})


def test_the_pad_holds_what_is_under_the_pointer(look):
    page = look.page
    assert page.is_hidden("#pad")
    page.click("#pad-button")
    assert [text.split() for text in page.locator("#pad button").all_inner_texts()] == [
        *(["↑", "forward"], ["←", "left"], ["↓", "back"], ["→", "right"], ["J", "jump"])
    ]
    box = page.locator("#cross").bounding_box()
    at = lambda x, y: page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
    at(0.5, 0.1)
    page.mouse.down()
    held(look, {"move": 1})
    assert page.locator("#pad .held").all_inner_texts() == page.locator("#cross .up").all_inner_texts()
    at(0.1, 0.1)
    held(look, {"move": 1, "turn": -1})
    at(0.9, 0.5)
    held(look, {"turn": 1})
    page.mouse.up()
    held(look, {})
    page.locator("#others button").hover()
    page.mouse.down()
    held(look, {"jump": 2})
    page.mouse.up()
    held(look, {})
    assert page.locator("#pad .held").count() == 0


def test_a_phone_shows_the_pad_and_fingers_steer(browser, steered_server):
    context = browser.new_context(viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://{steered_server.address}/")
    look = Look(page, steered_server.hall)
    until(lambda: look.index >= 1)
    assert page.is_visible("#pad")
    assert "Touch the pad to steer" in page.inner_text("#steerer")
    box = page.locator("#cross .left").bounding_box()
    touch = context.new_cdp_session(page)
    point = {"x": box["x"] + 10, "y": box["y"] + box["height"] / 2}
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    held(look, {"turn": -1})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    held(look, {})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_a_gamepad_steers_as_far_as_its_stick_goes(look):
    page = look.page
    page.evaluate(GAMEPAD)
    page.evaluate("pad.axes[0] = -0.575")
    held(look, {"turn": -0.5})
    page.evaluate("pad.axes[1] = -1")
    held(look, {"move": 1, "turn": -0.5})
    page.evaluate("pad.axes = [0.1, 0.1]; pad.buttons[13] = pad.buttons[0] = { pressed: true, value: 1 }")
    held(look, {"move": -1, "jump": 2})
    page.evaluate("pad.connected = false")
    held(look, {})


def test_one_viewer_steers_at_a_time(look, browser):
    other = browser.new_page()
    other.goto(look.page.url)
    theirs = Look(other, look.hall)
    until(lambda: theirs.index >= 1)
    look.page.keyboard.down("ArrowUp")
    held(look, {"move": 1})
    theirs.says("#steerer", "Another viewer steers.")
    look.says("#steerer", "You steer.")
    other.keyboard.press("ArrowLeft")
    until(lambda: "Another viewer steers. You can, once" in other.inner_text("#toasts"))
    assert look.session.steering.pressed == {"move": 1}
    session, number = look.session, look.session.steering.holder.number
    look.page.goto("about:blank")  # who leaves lets go
    until(lambda: theirs.page.inner_text("#steerer").startswith("Autopilot"))
    other.keyboard.down("ArrowRight")
    until(lambda: session.steering.pressed == {"turn": 1})
    assert session.steering.holder.number != number
    other.close()


def test_a_key_that_is_still_held_steers_when_the_controls_become_free(look, browser, monkeypatch):
    other = browser.new_page()
    other.goto(look.page.url)
    theirs = Look(other, look.hall)
    until(lambda: theirs.index >= 1)
    look.page.keyboard.down("ArrowUp")
    theirs.says("#steerer", "Another viewer steers.")
    other.keyboard.down("ArrowLeft")
    until(lambda: "Another viewer steers. You can, once" in other.inner_text("#toasts"))
    monkeypatch.setattr("biflow.serve.steering.PATIENCE", 0.2)
    look.page.keyboard.up("ArrowUp")
    held(look, {"turn": -1})
    theirs.says("#steerer", "You steer.")
    other.keyboard.up("ArrowLeft")
    held(look, None)
    other.close()


def test_a_recording_offers_its_actions(look):
    page = look.page
    page.keyboard.press("c")
    until(lambda: page.get_attribute("#record", "aria-pressed") == "true")
    page.keyboard.down("ArrowRight")
    held(look, {"turn": 1})
    look.count(3)
    with page.expect_download() as video:
        page.keyboard.press("c")
    assert video.value.suggested_filename == "biflow.mp4"
    with page.expect_download() as actions:
        page.click("#toasts a >> nth=1")
    assert actions.value.suggested_filename == "biflow.json"
    with open(actions.value.path()) as file:
        assert [0, 1, 0] in json.load(file)["actions"]
