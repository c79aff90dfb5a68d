"""Pace: how long steps take, how much of that is waiting for data, and how long the rest will take. No device is waited for."""

from __future__ import annotations

import time

from treadle.core.when import Progress

TICK_S = 0.25
"""The progress bar moves at most this often."""
_SETTLED_S = 2.0


class Pace:
    """Times of one run.

    Args:
        progress: where the run begins or goes on.
    """

    def __init__(self, progress: Progress) -> None:
        now = time.perf_counter()
        self._start = self._window = progress
        self._started = self._epoch_began = self._step_ended = now
        self._ticked = float("-inf")
        self._waited = self._trained = 0.0
        self._stalled = 0.0

    def data_arrived(self, begins_epoch: bool) -> None:
        """A batch is there: what passed since the last step was waiting for it."""
        now = time.perf_counter()
        self._waited += now - self._step_ended
        if begins_epoch:
            self._epoch_began = self._step_ended

    def body_ended(self) -> None:
        """The update is done; what follows at the safe point, evaluation and saving, is no part of a step's time."""
        self._trained += time.perf_counter() - self._step_ended

    def step_ended(self) -> bool:
        """A step is over; says whether the progress bar should move."""
        self._step_ended = now = time.perf_counter()
        return self.ticks(now)

    def ticks(self, now: float | None = None) -> bool:
        """Whether the progress bar should move; it is taken to have done so."""
        now = time.perf_counter() if now is None else now
        if now - self._ticked < TICK_S:
            return False
        self._ticked = now
        return True

    def stalled(self, seconds: float) -> None:
        """Training stood still for a checkpoint."""
        self._stalled += seconds

    def epoch(self) -> dict[str, float]:
        """Seconds since the epoch began."""
        return {"time/epoch_s": time.perf_counter() - self._epoch_began}

    def window(self, progress: Progress, saving: float = 0.0) -> dict[str, float]:
        """Since the last call: seconds a step, seconds a step of waiting for data, samples a second; what checkpoints took in all.

        Args:
            progress: where the run is.
            saving: seconds for which checkpoints were being written.
        """
        steps, samples = progress.steps - self._window.steps, progress.samples - self._window.samples
        seconds, waited = self._trained, self._waited
        checkpoints = {"time/checkpoint_stall_s": self._stalled, "time/checkpoint_s": saving}
        self._trained, self._waited, self._stalled, self._window = 0.0, 0.0, 0.0, progress
        if not steps or not seconds:
            return checkpoints
        return {"time/step_s": seconds / steps, "time/data_s": waited / steps, "throughput/samples_per_s": samples / seconds, **checkpoints}

    def seconds_left(self, progress: Progress) -> float | None:
        """Estimate from the mean pace so far; None before there is one: the first steps are slower than those that follow."""
        done, seconds = progress.fraction - self._start.fraction, time.perf_counter() - self._started
        return seconds * (1 - progress.fraction) / done if done > 0 and seconds > _SETTLED_S else None
