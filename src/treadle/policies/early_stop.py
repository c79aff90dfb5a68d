"""Stop when a value no longer gets better, and keep the checkpoint of its best."""

from __future__ import annotations

from typing import Any

from treadle.policies.monitor import Monitor


class EarlyStop:
    """Stop the run when a logged value has not improved for a number of measurements.

    Each step at which the value is logged is a measurement: of ``"valid/accuracy"`` every evaluation, of ``"train/loss"`` every row of
    the log, of a handler's own value wherever it logs it. The last checkpoint is saved as at any stop. That of the best value's step is
    saved and kept, whatever `CheckpointConfig` says; its place is in `Result.kept`, under the name of the value.

    Args:
        monitor: name of a logged value, such as ``"valid/accuracy"``.
        patience: measurements without improvement after which the run stops, at least 1.
        mode: "min" or "max": what is better.
        min_delta: an improvement must be larger than this.

    Raises:
        ConfigError: `patience` is less than 1, `mode` is neither, or `min_delta` is negative.

    Example:
        >>> EarlyStop("valid/accuracy", patience=3, mode="max").monitor
        'valid/accuracy'
    """

    def __init__(self, monitor: str, *, patience: int = 3, mode: str = "min", min_delta: float = 0.0) -> None:
        self._value = Monitor("EarlyStop", monitor, patience, mode, min_delta)
        self.monitor = monitor

    def attach(self, run: Any) -> None:
        """Begin anew."""
        self._value.reset()

    def judge(self, run: Any) -> None:
        """Look at this step's value, if there is one."""
        value = self._value.value(run)
        if value is None:
            return
        if self._value.improves(value):
            run.keep(self.monitor)
        elif self._value.exhausted:
            best = "anything finite" if self._value.best is None else f"{self._value.best:.6g}"
            run.stop(f"{self.monitor} has not improved on {best} for {self._value.waited} measurements")

    def on_run_finished(self, run: Any) -> None:
        """Say so where there never was anything to look at."""
        self._value.told_if_unseen(run)

    def state_dict(self) -> dict[str, Any]:
        """Best value and patience used, for a checkpoint."""
        return self._value.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._value.load_state_dict(state)
