"""Ctrl-C, SIGTERM, and a terminal that is closed, where Python would lose work."""

import _thread
import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal


def end_as_after_ctrl_c() -> None:
    """Let SIGTERM, and SIGHUP unless it is ignored as after `nohup`, save what Ctrl-C saves."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if HANG_UP is not None and signal.getsignal(HANG_UP) is signal.SIG_DFL:
        at_hang_up(partial(signal.default_int_handler, HANG_UP, None))


def at_hang_up(end: Callable[[], object]) -> None:
    """Call `end` where the terminal is closed, unless that is ignored."""
    main = threading.current_thread() is threading.main_thread()  # others cannot listen to signals
    if main and HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        signal.signal(HANG_UP, lambda number, frame: (_leave_terminal(), end()))


def _leave_terminal() -> None:
    """After SIGHUP, ignore the next one, which the shell sends, and write no more to the terminal, or to a pipe to it.

    Writing would fail: `biflow train … 2>&1 | tee log` loses `tee` at the same time.
    """
    assert HANG_UP is not None
    signal.signal(HANG_UP, signal.SIG_IGN)
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            mode = os.fstat(stream).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C, SIGTERM or SIGHUP comes; a second one ends the process at once.

    Not so SIGHUP, which comes twice where a terminal is closed: from the system and from the shell. It is ignored from
    then on, and nothing more is written to the terminal. In a thread other than the main one, the list stays empty.
    """
    seen: list[int] = []

    def note(number, _frame) -> None:
        seen.append(number)
        if number == HANG_UP:
            _leave_terminal()
            return
        signal.signal(number, previous[number])
        if len(seen) > 1:
            signal.raise_signal(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():  # others cannot listen to signals
        numbers = []
    elif HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:  # as it is after `nohup`
        numbers.append(HANG_UP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            if number != HANG_UP or number not in seen:
                signal.signal(number, handler)


def repeat_interrupt(hook: Callable, ignored: Any) -> None:
    """Repeat a Ctrl-C or SIGTERM that came in a destructor, where Python prints exceptions and ignores them."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        hook(ignored)
        return
    # Not at once: it would be raised in here, and ignored again. SIGTERM, since SIGINT may be ignored, as in scripts.
    # A signal that is really sent also ends a wait of the main thread. Windows cannot send one to a thread.
    send, to = _thread.interrupt_main, []
    if hasattr(signal, "pthread_kill"):
        send, to = signal.pthread_kill, [threading.main_thread().ident]
    again = threading.Timer(0.05, send, [*to, signal.SIGTERM])
    again.daemon = True
    again.start()
