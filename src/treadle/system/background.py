"""A call in a thread of its own, for what training need not wait for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The call was asked to end before it was done."""


class Job(Generic[T]):
    """One call.

    Args:
        call: what to do. It is given a function that raises `Cancelled` once nobody wants the result any more, to be
            called now and then.

    Example:
        >>> job = Job(lambda check: sum(range(10)))
        >>> job.start()
        >>> job.result()
        45
    """

    def __init__(self, call: Callable[[Callable[[], None]], T]) -> None:
        self._call, self._cancelled, self._ended = call, threading.Event(), threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = Cancelled()  # so far: what is never begun counts as that
        self.seconds = 0.0
        """How long it took, once it is done."""
        # A daemon: whoever leaves at once is not held up at the door.
        self._thread = threading.Thread(target=self._run, name="treadle-background", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self._ended.is_set()

    def wait(self) -> None:
        """Wait for its end; it may be a bad one."""
        if self._thread.ident is not None:
            self._ended.wait()  # a join that a signal interrupts takes the thread for ended

    def cancel(self) -> None:
        """Ask it to end soon."""
        self._cancelled.set()

    def result(self) -> T:
        """Wait for what it gives; what it raised is raised here."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _run(self) -> None:
        # The main thread is the one that answers signals, also while it waits for this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        began = time.perf_counter()
        try:
            self._result, self._error = self._call(self._check), None
        except BaseException as error:  # it belongs to the one who waits
            self._error = error
        self.seconds = time.perf_counter() - began
        self._ended.set()

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled
