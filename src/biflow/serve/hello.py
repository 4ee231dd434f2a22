"""The first message to a page: what it can set, and what the models are."""

from collections.abc import Iterable

from biflow.serve.controls import NEED_STEPS, NO_STEPS, RANGES, SOLVERS
from biflow.serve.dream import PAST_FRAMES
from biflow.serve.images import FORMATS
from biflow.serve.models import Served
from biflow.serve.steering import description
from biflow.serve.viewer import CREDITS

STRIP = {"every": 8, "frames": PAST_FRAMES}  # which of the past frames a page shows
OFFERS = ("auto", "share", "record", "clip")  # what a server does beside streaming


def hello(models: Iterable[Served]) -> dict:
    """The message without what is a session's own."""
    return {
        "type": "hello",
        "offers": OFFERS,
        "ranges": RANGES,
        "solvers": SOLVERS,
        "need_steps": NEED_STEPS,
        "no_steps": NO_STEPS,
        "formats": FORMATS,
        "credits": CREDITS,
        "strip": STRIP,
        "models": [_entry(served) for served in models],
    }


def _entry(served: Served) -> dict:
    method = served.model.method
    return {
        "name": served.name,
        "title": served.title,
        "method": method.name,
        "method_title": method.title,
        "can": {"eps": method.takes_eps, "backward": method.backward, "in_between": method.in_between},
        "eps": served.eps,
        "fps": served.fps,
        "actions": description(served.model.actions) if served.model.actions else None,
        "size": served.size,
        "first": served.pictures,
    }
