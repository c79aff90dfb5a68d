"""Waiting for data: which share of a run's time it took, told by its rows, and said where it is worth a word."""

from __future__ import annotations

from treadle.log.words import clock
from treadle.log.writer import Row

_SHARE, _STEP_S, _SECONDS = 0.05, 5e-4, 1.0
"""From which share on it is said, where it is not a matter of microseconds: data in memory takes some, and no worker takes it off."""


class Waiting:
    """Adds up what the rows say of time: `time/data_s` of `time/step_s`.

    Args:
        free: whether cores are free for more workers.

    Example:
        >>> waiting = Waiting()
        >>> waiting.add({"step": 1000, "time/step_s": 0.010, "time/data_s": 0.004})
        >>> waiting.line()
        'data: 40 % of the time was waiting for it (0:04 of 0:10); more machine.workers, or items that are cheaper to make, take that off'
        >>> waiting.line()
        ''
    """

    def __init__(self, free: bool = True) -> None:
        self._free = free
        self._step = 0
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self._said = 0

    def add(self, row: Row) -> None:
        """Take a row; one without times says nothing."""
        if "time/data_s" not in row:
            return
        steps, self._step = row["step"] - self._step, row["step"]
        self._steps += steps
        self._seconds += steps * row["time/step_s"]
        self._waited += steps * row["time/data_s"]

    def line(self) -> str:
        """What there is to say of the run so far; empty where it is not worth a word, or nothing is new."""
        worth = self._waited > max(_SHARE * self._seconds, _STEP_S * self._steps, _SECONDS)
        if not worth or self._said == self._steps:
            return ""
        self._said = self._steps
        told = f"data: {100 * self._waited / self._seconds:.0f} % of the time was waiting for it ({clock(self._waited)} of {clock(self._seconds)})"
        if self._free:
            return f"{told}; more machine.workers, or items that are cheaper to make, take that off"
        return f"{told}; no core is free for more workers; cheaper items take that off"

    def first_line(self) -> str:
        """The same, once in a run: with the first row of an epoch that it is worth it."""
        return "" if self._said else self.line()
