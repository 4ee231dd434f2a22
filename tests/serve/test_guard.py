"""Who may talk to the server."""

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from biflow.errors import UserError
from biflow.serve.app import app
from biflow.serve.guard import parse_origin
from biflow.serve.limits import Bucket
from tests.serve.helpers import Client, running


def test_another_origin_or_host_is_refused(server):
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}):
        with pytest.raises(InvalidStatus):
            Client(server.address, **headers)
    assert httpx.get(f"http://{server.address}/", headers={"Host": "evil.example"}).status_code == 421
    with Client(server.address, Origin=f"http://{server.address}") as client:
        assert client.read()["type"] == "hello"


def test_a_refused_page_is_told_why_and_an_allowed_one_is_served(folders):
    hosts, origins = {"127.0.0.1"}, ("https://lab.example:8443", "https://notebook.example")
    with running(app({"bi": folders["bi"]}, hosts=hosts, origins=origins)) as address:
        for origin in origins:  # a proxy passes the Host header on, or puts its own there
            with Client(address, Origin=origin) as client:
                assert client.read()["type"] == "hello"
        page = httpx.get(f"http://{address}/", headers={"Host": "notebook.example"})
        assert '<meta property="og:image" content="https://lab.example:8443/preview.png">' in page.text
        refused = httpx.post(f"http://{address}/ws", headers={"Origin": "https://evil.example"})
        assert (refused.status_code, "--origin https://evil.example" in refused.text) == (403, True)
        refused = httpx.post(f"http://{address}/ws", headers={"Origin": "null"})
        assert (refused.status_code, "--origin https://HOST" in refused.text) == (403, True)
        own = httpx.post(f"http://{address}/ws", headers={"Origin": f"http://{address}"})
        assert own.status_code in (404, 405)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://lab.example", "https://lab.example"),
        ("HTTPS://Lab.Example:443/", "https://lab.example"),
        ("http://lab.example:443", "http://lab.example:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_origin_is_written_as_browsers_do(text, origin):
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text", ["", "*", "null", "lab.example", "ftp://a", "https://a/b", "https://a:0", "https://a b"]
)
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(UserError, match="must be https://HOST") as refusal:
        parse_origin(text)
    assert refusal.value.setting == "origin"


def test_a_token_is_said_once_and_kept_in_a_cookie(folders):
    with running(app({"bi": folders["bi"]}, token="wörd")) as address:
        with httpx.Client(base_url=f"http://{address}") as browser:
            assert browser.get("/").status_code == 401
            assert browser.get("/healthz").status_code == 200
            answer = browser.get("/?token=wörd&session=abc")
            assert (answer.status_code, answer.headers["location"]) == (303, "?session=abc")
            assert browser.get("/main.js").status_code == 200
        for query in ("", "?token=other"):
            with pytest.raises(InvalidStatus):
                Client(address, query)
        with Client(address, "?token=w%C3%B6rd") as client:
            assert client.read()["type"] == "hello"


def test_the_rate_lets_bursts_through_and_no_floods():
    rate = Bucket(rate=0.0, burst=5.0)
    assert [rate.take() for _ in range(7)] == [True] * 5 + [False] * 2
    rate.give_back()
    assert rate.take()
