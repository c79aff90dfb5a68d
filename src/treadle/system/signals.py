"""Ctrl-C, SIGTERM and the time limit are one thing: asked to stop, a run stops at its next safe point. Asked twice, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the run was asked to stop.

    Args:
        limit_s: seconds after which it is; None for no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._signal = 0
        self._process = os.getpid()

    @property
    def reason(self) -> str:
        """What asked: "SIGINT", "SIGTERM" or "time limit"; empty while nothing did."""
        if self._signal:
            return signal.Signals(self._signal).name
        return "time limit" if self._deadline is not None and time.monotonic() >= self._deadline else ""

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listen to signals, and put back the handlers that were found. Outside the main thread Python has none to give."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # One that is ignored, as with nohup, was meant to be.
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._asked) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            if number != signal.SIGINT:
                return  # a scheduler may say it more than once; a person who asks again means now
            if sys.excepthook is sys.__excepthook__:
                sys.excepthook = _without_traceback
            raise KeyboardInterrupt
        self._signal = number
        asked_here = os.getpid() == self._process  # workers that were forked hear Ctrl-C too, and go on until they are told
        if number == signal.SIGINT and asked_here and sys.stderr is not None and sys.stderr.isatty():
            os.write(2, _STOPPING)  # a signal may come in the middle of a print


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in here do not hear Ctrl-C: they go on until the one that started them says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_STOPPING = b" finishing this step and saving; Ctrl-C again: at once\n"


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Who asked twice knows where the program was stopped: by them."""
    sys.excepthook = sys.__excepthook__
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("stopped at once\n")
    else:
        sys.__excepthook__(kind, error, trace)
