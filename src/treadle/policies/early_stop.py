"""Stop when a value no longer gets better."""

from __future__ import annotations

import math
from typing import Any

from treadle.core.errors import ConfigError


class EarlyStop:
    """Stop the run when a logged value has not improved for a number of evaluations.

    The last checkpoint is saved as at any stop, and the best one stays.

    Args:
        monitor: name of a logged value, such as ``"valid/accuracy"``.
        patience: evaluations without improvement after which the run stops, at least 1.
        mode: "min" or "max": what is better.
        min_delta: an improvement must be larger than this.

    Raises:
        ConfigError: `patience` is less than 1, `mode` is neither, or `min_delta` is negative.

    Example:
        >>> EarlyStop("valid/accuracy", patience=3, mode="max").monitor
        'valid/accuracy'
    """

    def __init__(self, monitor: str, *, patience: int = 3, mode: str = "min", min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"EarlyStop: mode must be 'min' or 'max', got {mode!r}")
        if patience < 1 or min_delta < 0:
            raise ConfigError(f"EarlyStop: patience must be at least 1 and min_delta not negative, got {patience!r} and {min_delta!r}")
        self.monitor, self._patience, self._min_delta = monitor, patience, min_delta
        self._sign = 1.0 if mode == "min" else -1.0
        self._best: float | None = None
        self._waited = 0
        self._evaluated = False

    def on_evaluated(self, run: Any) -> None:
        """Look at the newest value."""
        self._evaluated = True
        value = run.latest(self.monitor, step=run.progress.steps)
        if value is None:  # this evaluation measured something else
            return
        if not isinstance(value, (int, float)):
            raise ConfigError(f"EarlyStop: {self.monitor!r} is no single number, so it cannot improve: {value!r}")
        if math.isfinite(value) and (self._best is None or self._sign * (self._best - value) > self._min_delta):
            self._best, self._waited = float(value), 0
            return
        self._waited += 1
        if self._waited >= self._patience:
            best = "anything finite" if self._best is None else f"{self._best:.6g}"
            run.stop(f"{self.monitor} has not improved on {best} for {self._waited} evaluations")

    def on_run_finished(self, run: Any) -> None:
        """Say so where there never was anything to look at."""
        if self._evaluated and self._best is None and not self._waited:
            run.say(f"warning: EarlyStop: no value named {self.monitor!r} was logged by any evaluation")

    def state_dict(self) -> dict[str, Any]:
        """Best value and patience used, for a checkpoint."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._best, self._waited = state["best"], state["waited"]
