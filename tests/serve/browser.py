"""A browser for the tests of the page, and what there is to see in it."""

import contextlib
import os
import shutil
from importlib.util import find_spec
from typing import NoReturn

import pytest

from tests.serve.helpers import until

# Its camera is a test pattern, and it asks nobody for permission.
SETTINGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PATIENCE = 120_000  # milliseconds, far more than a busy machine needs


def unavailable(reason: str) -> NoReturn:
    """Skip the test; in CI, where a gap would go unnoticed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def chromium() -> str:
    """The path of Chromium, if the tests of the page can run here."""
    if not find_spec("playwright"):
        unavailable("playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or unavailable("Chromium is not installed")


@contextlib.contextmanager
def launched():
    """A running browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=SETTINGS, timeout=PATIENCE)
        yield browser
        browser.close()


class Look:
    """What there is to see on a page, and the session that it shows."""

    def __init__(self, page, hall):
        self.page, self.hall = page, hall
        page.set_default_timeout(PATIENCE)

    @property
    def session(self):
        return self.hall.sessions[self.page.evaluate("new URLSearchParams(location.search).get('session')")]

    @property
    def index(self) -> int:
        text = self.page.inner_text("#index")
        return int(text) if text.isdigit() else -1

    @property
    def time(self) -> float:
        return float(self.page.inner_text("#time").split("=")[1])

    @property
    def frame(self) -> int:
        """The id of the frame on the page."""
        return self.page.evaluate("+document.getElementById('a').dataset.frame || 0")

    def pixels(self, canvas="a") -> bytes:
        return bytes(
            self.page.evaluate(
                """id => { const c = document.getElementById(id);
                return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }""",
                canvas,
            )
        )

    def colours(self) -> set[int]:
        """The values of the red channel."""
        return set(self.pixels()[::4])

    def says(self, selector: str, text: str) -> None:
        """Wait until an element has this text."""
        until(lambda: self.page.inner_text(selector) == text)

    def reaches(self, index: int) -> None:
        """Wait for the frame of that index."""
        until(lambda: self.index == index)

    def count(self, more: int) -> None:
        """Wait for so many more frames."""
        start = self.frame
        until(lambda: self.frame >= start + more)

    def advanced(self) -> None:
        """Unfold the advanced controls."""
        self.page.click("#advanced summary")
        until(lambda: self.page.is_visible("#solver"))

    def pause(self) -> int:
        """Pause, and the index of the frame that stays: the session solves no other, and the page shows it."""
        if self.page.inner_text("#play") == "Pause":
            self.page.keyboard.press("Space")
        self.says("#play", "Play")
        session = self.session
        until(lambda: not session.controls.playing and session.idle)
        until(lambda: self.frame == session.dream.now.id)
        return self.index
