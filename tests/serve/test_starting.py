"""What streams start from: first frames, pictures of viewers, or nothing yet."""

import io
import shutil

import httpx
from PIL import Image

from biflow.serve.app import app
from tests.serve.helpers import Client, png, running


def test_the_page_has_a_picture_for_links_to_it(server):
    answer = httpx.get(f"http://{server.address}/preview.png")
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (1200, 630)
    (served, *_) = server.hall.models.values()
    colours = [picture.getpixel((5 + 600 * i, 20)) for i in range(2)]  # the corners of the first two
    assert colours == [tuple(first[-1, :, 0, 0].tolist()) for first in served.first[:2]]


def test_a_restart_is_from_what_the_stream_started_from(server):
    with Client(server.address) as client:
        hello = client.read()
        assert hello["starts"] == {"type": "starts", "now": 0, "own": []}
        client.send({"type": "set", "controls": {"playing": False, "format": "png"}}, png(77))
        starts = client.until("starts", now=-1)
        assert [one["number"] for one in starts["own"]] == [-1]
        client.until("frame", index=0, format="image/png")
        client.until_grey(77)
        for number, value in enumerate((90, 100, 110, 120)):
            client.send(png(value))
            own = client.until("starts", now=-2 - number)["own"]
        assert [one["number"] for one in own] == [-2, -3, -4, -5]
        client.send({"type": "restart", "first": 1}, {"type": "restart", "first": -3})
        assert client.until("starts", now=1) == {"type": "starts", "now": 1}  # the pictures have not changed
        assert client.until("starts", now=-3) == {"type": "starts", "now": -3}
        client.until_grey(100)
        client.send({"type": "step"})
        client.until("frame", index=1)
        client.send({"type": "restart"})
        client.until("frame", index=0)
        assert int(client.frames[-1][1][0].mean()) == 100
        client.send({"type": "restart", "first": -1})
        assert "no longer kept" in client.until("error")["text"]
        with Client(server.address, f"?session={hello['session']}") as other:
            assert [one["number"] for one in other.read()["starts"]["own"]] == [-2, -3, -4, -5]


def test_a_model_without_first_frames_says_so_and_starts_from_an_upload(folders, tmp_path, caplog):
    shutil.copytree(folders["bi"], tmp_path / "bare", ignore=shutil.ignore_patterns("first"))
    with running(app({"bare": tmp_path / "bare", "bi": folders["bi"]})) as address:
        assert "bare has no first frames" in caplog.text
        with Client(address) as client:
            hello = client.read()
            assert [len(model["first"]) for model in hello["models"]] == [0, 3]
            client.send({"type": "restart"})
            assert "comes without first frames" in client.until("error")["text"]
            client.send({"type": "step"}, {"type": "record", "on": True}, {"type": "back", "frame": 99})
            assert "no longer kept" in client.until("error")["text"]
            if not client.frames:  # it may come after the answers
                client.until("frame")
            assert [header["index"] for header, _ in client.frames] == [0]  # a grey one, and nothing is solved
            client.send(png(77))
            client.until("starts", now=-1)
            client.until_grey(77, off=1)
        assert httpx.get(f"http://{address}/preview.png").status_code == 200
        with Client(address) as client:
            client.read()
            client.send({"type": "set", "controls": {"model": "bi"}})
            client.until("starts", now=0)
            client.until("frame", index=1)
