"""Ctrl-C and SIGTERM where Python would lose them."""

import _thread
import signal
import threading
from collections.abc import Callable
from typing import Any


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
