"""Stop when a condition holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.core.callables import check_runs
from treadle.core.errors import ConfigError
from treadle.core.when import Duration


class StopWhen:
    """Stop the run when a function of it is true.

    The function is asked when everything of a step is logged, so what it sees is the same in a run that was interrupted.

    Args:
        condition: called as ``condition(run)``. `Run.latest` gives logged values; before the first one is there, its `default`.
        reason: what the run's status will say.
        every: how often it is asked, such as ``"10 steps"`` or ``"1 epoch"``.

    Raises:
        ConfigError: `condition` cannot be called, `reason` is no text, or `every` cannot be read.
        UsageError: a call of `condition` would run nothing, since it is a generator or asynchronous.

    Example:
        >>> StopWhen(lambda run: run.latest("train/loss", default=1.0) < 0.1, every="10 steps", reason="good enough").every
        Duration.parse('10 steps')
    """

    def __init__(self, condition: Callable[[Any], object], *, reason: str = "", every: str | Duration = "1 step") -> None:
        if isinstance(condition, type) or not callable(condition):
            raise ConfigError(f"StopWhen: the condition must be callable as condition(run), got {condition!r}")
        check_runs(condition, "StopWhen: the condition")
        if not isinstance(reason, str):
            raise ConfigError(f"StopWhen: reason must be a text, got {reason!r}")
        self.every = Duration.parse(every)
        name = getattr(condition, "__name__", type(condition).__name__)
        self._condition, self._reason = condition, reason or ("the condition of StopWhen holds" if name == "<lambda>" else f"{name} holds")

    def judge(self, run: Any) -> None:
        """Ask the condition, where it is due."""
        if run.due(self.every) and self._condition(run):
            run.stop(self._reason)
