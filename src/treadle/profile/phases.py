"""Phases: a clock whose time goes to the innermost thing that is being done, so that all phases add up to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WAIT, TRANSFER, PREPARING = "waiting for data", "host to device", "preparing batches"
FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
METRICS, LOGGING, EVALUATION, CHECKPOINT, HANDLERS, OTHER = "metrics", "logging", "evaluation", "checkpoint", "handlers", "other"
PHASES = {
    WAIT: "the loop stands still until the next batch is there",
    TRANSFER: "batches are copied to the device",
    PREPARING: "the data's own prepare function, on the device",
    FORWARD: "the body of the step outside of all others: model, loss, and what else stands there",
    BACKWARD: "step.backward",
    OPTIMIZER: "step.update: unscale, clip, check, step, zero_grad",
    METRICS: "metrics of the training outputs",
    LOGGING: "values fetched and written to the journal and every writer",
    EVALUATION: "all of run.evaluate, its data too",
    CHECKPOINT: "training stands still for a checkpoint",
    HANDLERS: "handlers of events",
    OTHER: "the loop's own bookkeeping",
}
"""Every phase of a step, in the order of a step, and what counts as it."""
_WHOLE = (EVALUATION, CHECKPOINT)
"""Phases that keep what happens inside of them: the data of an evaluation is no waiting of a step."""


@dataclass(frozen=True)
class Span:
    """A stretch of time in which one thing was done.

    Args:
        name: the innermost thing.
        start: seconds since the clock was started.
        end: seconds since then.
    """

    name: str
    start: float
    end: float


class Clock:
    """A stack of names; each moment belongs to the one on top.

    Args:
        now: gives a stamp, see `Times`.

    Example:
        >>> seconds = iter([0.0, 1.0, 5.0, 6.0])
        >>> clock = Clock(lambda: next(seconds))
        >>> clock.start()
        >>> with clock.phase("backward"):
        ...     pass
        >>> clock.stop()
        >>> [(name, stamp) for name, stamp in clock.marks]
        [('other', 0.0), ('backward', 1.0), ('other', 5.0), ('', 6.0)]
    """

    def __init__(self, now: Callable[[], Any] = time.perf_counter, base: str = OTHER) -> None:
        self._now, self._stack, self._runs = now, [base], False
        self.marks: list[tuple[str, Any]] = []
        """What begins, and the stamp of when; the last one has no name."""
        self.changed: Callable[[str, str], object] | None = None
        """Told of each change: what ends, and what begins."""

    @property
    def top(self) -> str:
        """What is being done."""
        return self._stack[-1]

    def start(self) -> None:
        """Begin to take stamps."""
        self._runs = True
        self._mark(self.top)

    def stop(self) -> None:
        """End: no stamps are taken any more."""
        self._mark("")
        self._runs = False

    def base(self, name: str) -> None:
        """Say what is being done where nothing else is."""
        before, self._stack[0] = self.top, name
        self._change(before)

    def enter(self, name: str) -> None:
        """Something begins inside of what is being done."""
        before = self._stack[-1]
        self._stack.append(before if before in _WHOLE else name)
        self._change(before)

    def leave(self) -> None:
        """It is over."""
        self._change(self._stack.pop())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The same, as a context."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _change(self, before: str) -> None:
        top = self._stack[-1]
        if top == before:
            return
        if self._runs:
            self.marks.append((top, self._now()))
        if self.changed is not None:
            self.changed(before, top)

    def _mark(self, name: str) -> None:
        self.marks.append((name, self._now()))


def spans(marks: list[tuple[str, float]]) -> list[Span]:
    """The stretches between marks, without the empty ones; their lengths add up to the time from the first mark to the last.

    Example:
        >>> spans([("other", 2.0), ("backward", 3.0), ("", 7.0)])
        [Span(name='other', start=0.0, end=1.0), Span(name='backward', start=1.0, end=5.0)]
    """
    if not marks:
        return []
    zero = marks[0][1]
    return [Span(name, begin - zero, end - zero) for (name, begin), (_, end) in pairwise(marks) if name and end > begin]


def totals(found: list[Span]) -> dict[str, float]:
    """Seconds of each name."""
    sums: dict[str, float] = {}
    for span in found:
        sums[span.name] = sums.get(span.name, 0.0) + span.end - span.start
    return sums
