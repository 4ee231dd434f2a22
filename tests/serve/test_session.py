import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from biflow.serve.session import Session
from biflow.serve.viewer import CREDITS, Viewer
from biflow.solvers import SolverError
from tests.serve.helpers import Watching, idle, until

EXACT = {"format": "png", "solver": "midpoint", "steps": 2}


def play(session, frames=1, **controls):
    """Set controls, let `frames` frames be solved, and return these: (header, pictures)."""
    if controls:
        session.change(controls)
    (viewer,) = session.viewers
    while session._jobs:
        session.advance()
    viewer.read()
    before = len(viewer.seen)
    for _ in range(frames):
        session.advance()
        viewer.read()
    return viewer.seen[before:]


def test_frames_are_those_of_the_dream_on_the_wire(session):
    for index, (header, (picture,)) in enumerate(play(session, 3, seed=7, **EXACT)):
        moment = session.dream.past[index + 1]
        assert (picture == moment.pictures[0].permute(1, 2, 0).numpy()).all()
        assert header["id"] == moment.id
        assert (header["index"], header["time"], header["nfe"]) == (index + 1, index + 1, [4])
        assert (header["version"], header["format"]) == (session.version, "image/png")
        assert header["solve_ms"] > 0


def test_the_first_frame_is_shown_before_anything_is_solved(session, models):
    session.change({"format": "png"})
    session.advance()
    (viewer,) = session.viewers
    viewer.read()
    (header, (picture,)) = viewer.seen[-1]
    assert (header["index"], header["nfe"]) == (0, [0])
    assert (picture == models["bi"].first[0, -1].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(
    ("change", "nfe"),
    [({"steps": 5}, 10), ({"solver": "euler", "steps": 3}, 3), ({"solver": "rk4"}, 8)],
)
def test_a_control_acts_on_the_very_next_frame(session, change, nfe):
    play(session, 2, **EXACT)
    ((header, _),) = play(session, 1, **change)
    assert header["nfe"] == [nfe]
    assert header["version"] == session.version


def test_noise_and_seed_change_the_next_frame_and_the_same_ones_repeat_it(session):
    play(session, 1, **EXACT)
    start = session.dream.now.id
    pictures = {}
    for eps, seed in ((0.1, 0), (0.5, 0), (0.1, 1), (0.1, 0)):
        session.go_back(start)
        ((_, (picture,)),) = play(session, 1, eps=eps, seed=seed)
        if (eps, seed) in pictures:
            assert (pictures[eps, seed] == picture).all()
        pictures[eps, seed] = picture
    assert len({picture.tobytes() for picture in pictures.values()}) == 3


def test_time_runs_backward_from_the_frame_on_screen_and_forward_again(session):
    times = [header["time"] for header, _ in play(session, 3, **EXACT)]
    times += [header["time"] for header, _ in play(session, 4, direction="backward")]
    times += [header["time"] for header, _ in play(session, 1, direction="forward", in_between=2)]
    assert times == [1, 2, 3, 2, 1, 0, -1, -0.5]


def test_back_and_on_again_gives_the_same_frames(session):
    first = play(session, 4, **EXACT)
    session.go_back(first[1][0]["id"])
    again = play(session, 2)
    assert [header["index"] for header, _ in again] == [3, 4]
    for (_, (one,)), (_, (two,)) in zip(first[2:], again, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 3  # it continues from what was shown, in 256 levels
    session.go_back(10**9)
    session.advance()
    (viewer,) = session.viewers
    viewer.read()
    assert "no longer kept" in viewer.messages[-1]["text"]


def test_two_up_solves_both_from_the_same_frame_with_the_same_noise(session):
    same = play(session, 2, two_up=True, eps=0.2, eps_b=0.2, **EXACT)
    assert all((a == b).all() for _, (a, b) in same)
    session.restart(0)
    apart = play(session, 2, eps_b=0.0)
    assert all((a != b).any() for _, (a, b) in apart)
    other = play(session, 1, model_b="flow")
    assert len(other[0][1]) == 2
    large = play(session, 1, model_b="large")
    assert [picture.shape for picture in large[0][1]] == [(16, 16, 3), (24, 24, 3)]


def test_the_model_switches_at_the_next_frame_with_its_own_size_and_noise(session):
    play(session, 1, **EXACT)
    ((header, (picture,)),) = play(session, 1, model="large")
    assert (picture.shape, header["index"]) == ((24, 24, 3), 2)
    play(session, 1, model="flow")
    assert session.controls.eps == 0


def test_an_uploaded_picture_becomes_the_first_frame(session):
    session.restart_from(torch.full((3, 40, 40), 200, dtype=torch.uint8))
    play(session, 0, format="png")
    (viewer,) = session.viewers
    header, (picture,) = viewer.seen[-1]
    assert (header["index"], picture.shape, int(picture.mean())) == (0, (16, 16, 3), 200)


def test_a_slow_viewer_gets_the_newest_frame_and_no_more_than_its_credits():
    viewer = Viewer(lambda: None)
    for i in range(10):
        viewer.show(b"%d" % i)
    assert [viewer.take(), viewer.take()] == [b"9", None]
    viewer.show(b"10")
    assert viewer.take() == b"10"  # the second credit
    viewer.show(b"11")
    viewer.show(b"12")
    assert viewer.take() is None
    assert not viewer.hungry
    assert viewer.acknowledge()
    assert viewer.take() == b"12"
    assert [viewer.acknowledge() for _ in range(CREDITS + 1)] == [True] * CREDITS + [False]


def test_a_change_gives_up_the_frame_being_solved_but_not_two_in_a_row(session):
    play(session, 1, **EXACT)
    (viewer,) = session.viewers
    served, calls = session.models["bi"], []

    def network(query):
        calls.append(session.controls.steps)
        if len(calls) in (2, 5):
            session.change({"steps": session.controls.steps + 1})
        return served.model.network(query)

    session.dream.models = {**session.models, "bi": replace(served, model=replace(served.model, network=network))}
    session.dream.go_back(session.dream.now.id)  # a new stream asks the new network
    session.advance()  # changed in its second call: the third is not made
    assert len(calls) == 2
    viewer.read()
    seen = len(viewer.seen)
    session.advance()  # changed again, but now the frame is finished
    viewer.read()
    assert len(viewer.seen) == seen + 1
    assert viewer.seen[-1][0]["nfe"] == [6]
    session.advance()
    viewer.read()
    assert viewer.seen[-1][0]["nfe"] == [8]


def test_a_frame_that_cannot_be_solved_pauses_and_says_so(session, monkeypatch):
    play(session, 1)

    def fail(*_, **__):
        raise SolverError("NaN or inf in the step of sample 0.")

    monkeypatch.setattr("biflow.methods.method.solve", fail)
    play(session, 1)
    (viewer,) = session.viewers
    assert any("Frame 2 could not be solved" in message.get("text", "") for message in viewer.messages)
    assert not session.controls.playing
    monkeypatch.undo()
    session.restart(0)
    assert play(session, 1, playing=True)[-1][0]["index"] == 1


class Live:
    """A session in its thread, and a viewer that reads as it comes."""

    def __init__(self, models):
        self.session = Session("live", models)
        self.viewer = Watching()
        self.viewer.wake = self._read
        self.session.join(self.viewer)
        self.session.start()

    def _read(self):
        self.viewer.read()
        threading.Thread(target=self.session.taken).start()  # as the event loop does, later

    @property
    def index(self):
        return self.viewer.seen[-1][0]["index"] if self.viewer.seen else -1


@pytest.fixture
def live(models):
    live = Live(models)
    yield live
    live.session.close()
    live.session.wait_closed()


def test_pause_stops_the_network_and_step_makes_one_frame(live):
    until(lambda: live.index >= 2)
    live.session.change({"playing": False})
    solved = idle(live.session)
    stopped = live.index
    live.session.step()
    until(lambda: live.index > stopped)
    assert idle(live.session) == solved + 1  # so there was none between the pause and the step
    assert live.index == stopped + 1


def test_without_viewers_a_session_rests(live):
    until(lambda: live.index >= 1)
    live.session.leave(live.viewer)
    solved = idle(live.session)
    newest = live.session.dream.now.id
    live.session.go_back(newest)  # asked for by nobody who watches, but it shows that the worker had stopped
    until(lambda: live.session.dream.now.id > newest)
    assert (idle(live.session), live.session.dream.now.id) == (solved, newest + 1)
    live.session.join(live.viewer)
    until(lambda: live.session.dream.solved > solved)


def test_the_frame_rate_is_capped(live):
    live.session.change({"fps_cap": 10, "solver": "euler", "steps": 1})
    until(lambda: live.index >= 1)
    begun, index = time.monotonic(), live.index
    until(lambda: live.index >= index + 5)
    assert time.monotonic() - begun > 0.35


def test_a_rate_holds_although_a_frame_takes_most_of_its_time(session, monkeypatch):
    now, advance = [100.0], session.dream.advance
    monkeypatch.setattr("biflow.serve.session.time.monotonic", lambda: now[0])

    def slow(controls, **settings):
        now[0] += 0.08
        return advance(controls, **settings)

    monkeypatch.setattr(session.dream, "advance", slow)
    session.advance()  # the first frame is shown
    session.change({"fps_cap": 10, "solver": "euler", "steps": 1})
    for due in (100.05, 100.15, 100.25, 100.35):
        session.advance()
        assert session._due == pytest.approx(due)
        now[0] = max(now[0], session._due)


def test_a_crash_ends_its_own_session_with_a_sentence(live, models, monkeypatch):
    other = Live(models)
    monkeypatch.setattr(live.session.dream, "advance", lambda controls, **_: 1 / 0)
    until(lambda: live.session.ended)
    until(lambda: any(message["type"] == "ended" for message in live.viewer.messages))
    assert "crashed" in live.session.ended
    index = other.index
    until(lambda: other.index > index)
    other.session.close()


def test_a_recording_is_a_playable_mp4_of_every_frame(session):
    import av

    session.change({"two_up": True, **EXACT})
    session.record(True)
    play(session, 5)
    session.record(False)
    session.advance()
    (viewer,) = session.viewers
    viewer.read()
    on, off = [message for message in viewer.messages if message["type"] == "recording"]
    assert (on["on"], off["on"]) == (True, False)
    with av.open(str(session.recorder.find(off["name"]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == off["frames"] == 5
    assert frames[0].shape == (512, 1024, 3)
