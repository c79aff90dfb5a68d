"""Ctrl-C, SIGTERM and the time limit are one thing: asked to stop, a run stops at its next safe point. Asked twice, at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the run was asked to stop.

    Args:
        limit_s: seconds after which it is; None for no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._signal = 0

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
            raise KeyboardInterrupt
        self._signal = number
