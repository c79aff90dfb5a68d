"""Stop when the time for a run is used up, over all of its processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from treadle.core.when import parse_seconds


class TimeBudget:
    """Stop the run, saved, when it has trained for so long, all of its processes together.

    `Config.time_limit` is another thing: it is for one process, and interrupts a run that goes on when it is started again.
    The time so far is in each checkpoint; steps that a killed process did after its last checkpoint are done again and cost nothing twice.
    When a run stops depends on the clock here, and nothing else does.

    Args:
        budget: a time such as ``"2 hours"``, ``"90 minutes"`` or a number of seconds.
        clock: gives seconds that only grow; for tests.

    Raises:
        ConfigError: the time cannot be read, or is not positive.

    Example:
        >>> TimeBudget("90 minutes").seconds
        5400.0
    """

    def __init__(self, budget: str | float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = parse_seconds(budget)
        self._budget, self._clock = budget if isinstance(budget, str) else f"{budget} seconds", clock
        self._before = self._seen = 0.0  # used by earlier processes, and up to the last step
        self._began: float | None = None

    def attach(self, run: Any) -> None:
        """Begin anew."""
        self._before = self._seen = 0.0
        self._began = None

    @property
    def used(self) -> float:
        """Seconds that the run has trained for."""
        return self._before + (0.0 if self._began is None else self._clock() - self._began)

    def on_run_started(self, run: Any) -> None:
        """Look at the clock."""
        self._began = self._clock()

    def judge(self, run: Any) -> None:
        """Stop where the time is used up; a run that has just done its whole duration is finished, whatever the clock says."""
        self._seen = self.used
        if self._seen >= self.seconds and not run.progress.finished:
            run.stop(f"the time budget of {self._budget} is used up")

    def state_dict(self) -> dict[str, float]:
        """Seconds used up to the last step, for a checkpoint."""
        return {"used": self._seen}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""
        self._before = self._seen = state["used"]
        self._began = None if self._began is None else self._clock()
