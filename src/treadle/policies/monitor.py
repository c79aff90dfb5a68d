"""What a policy looks at: a logged value, and whether it got better."""

from __future__ import annotations

import math
from typing import Any

from treadle.core.errors import ConfigError, did_you_mean


class Monitor:
    """The best of a logged value, and for how many measurements it has not been better.

    Args:
        who: the policy, for messages.
        name: of the logged value.
        patience: measurements without improvement that are too many, at least 1.
        mode: "min" or "max": what is better.
        min_delta: an improvement must be larger than this.

    Raises:
        ConfigError: an argument cannot be meant.
    """

    def __init__(self, who: str, name: str, patience: int, mode: str, min_delta: float) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{who}: the value to look at must be a name such as 'valid/loss', got {name!r}")
        if mode not in ("min", "max"):
            raise ConfigError(f"{who}: mode must be 'min' or 'max', got {mode!r}")
        if not isinstance(patience, int) or not patience >= 1 or not 0 <= min_delta < math.inf:
            raise ConfigError(f"{who}: patience must be at least 1 and min_delta not negative, got {patience!r} and {min_delta!r}")
        self._who, self.name, self._patience, self._min_delta = who, name, patience, min_delta
        self._sign = 1.0 if mode == "min" else -1.0
        self.reset()

    def reset(self) -> None:
        """Begin anew: another run may follow in this process."""
        self.best: float | None = None
        self.waited = 0
        self.seen = False

    def value(self, run: Any) -> float | None:
        """The value that was logged at this step; None where there is none.

        Raises:
            ConfigError: it is no single number.
        """
        value = run.latest(self.name, step=run.progress.steps)
        if value is None:  # nothing was measured, or something else
            return None
        if not isinstance(value, (int, float)):
            raise ConfigError(f"{self._who}: {self.name!r} is no single number, so it cannot improve: {value!r}")
        self.seen = True
        return float(value)

    def improves(self, value: float) -> bool:
        """Take in a value: whether it is the best so far. One that is not finite never is."""
        if math.isfinite(value) and (self.best is None or self._sign * (self.best - value) > self._min_delta):
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.waited >= self._patience

    def told_if_unseen(self, run: Any) -> None:
        """Say so where there never was anything to look at."""
        if not self.seen and self.best is None and not self.waited and run.progress.finished:
            run.say(f"warning: {self._who}: no value named {self.name!r} was logged{did_you_mean(self.name, run.result.metrics)}")

    def state_dict(self) -> dict[str, Any]:
        """Best value and patience used, for a checkpoint."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]
