"""Where a session can start: its model's first frames, and pictures that its viewers sent."""

from itertools import count

from jaxtyping import UInt8
from torch import Tensor

from biflow.errors import UserError
from biflow.serve.images import data_url
from biflow.serve.models import Served

OWN = 4  # pictures of viewers that are kept, the newest


class Starts:
    """First frames are numbered from 0 on, pictures of viewers from -1 down.

    Attributes:
        now: the number of what the stream started from last; None if there was nothing, so that it waits for a picture.
    """

    def __init__(self) -> None:
        self.now: int | None = None
        self._own: dict[int, UInt8[Tensor, "3 h w"]] = {}
        self._urls: dict[int, str] = {}  # the same pictures, as viewers are sent them
        self._changed = False  # since viewers were told
        self._numbers = count(-1, -1)

    def add(self, picture: UInt8[Tensor, "3 h w"]) -> int:
        """Keep a picture in place of the oldest one; its number."""
        number = next(self._numbers)
        self._own[number], self._urls[number], self._changed = picture, data_url(picture), True
        while len(self._own) > OWN:
            oldest = max(self._own)
            del self._own[oldest], self._urls[oldest]
        return number

    def choose(self, served: Served, number: int | None) -> UInt8[Tensor, "j 3 h w"]:
        """What to start from, and the frames before it; None is what the stream started from last.

        Raises:
            UserError: there is nothing of that number.
        """
        if number is None:
            number = 0 if self.now is None or self.now >= len(served.first) else self.now
        if number < 0 and number not in self._own:
            raise UserError("That picture is no longer kept.")
        pictures = self._own[number][None] if number < 0 else served.first_frame(number)
        self.now = number
        return pictures

    @property
    def message(self) -> dict:
        """What a new viewer is told about it."""
        own = [{"number": number, "picture": url} for number, url in self._urls.items()]
        return {"type": "starts", "now": self.now, "own": own}

    def news(self) -> dict:
        """What viewers are told after `choose`: the message, without `own` if the pictures are those of the last."""
        changed, self._changed = self._changed, False
        return self.message if changed else {"type": "starts", "now": self.now}
