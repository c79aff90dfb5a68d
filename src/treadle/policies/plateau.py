"""Lower the learning rate when a value no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from treadle.core.errors import ConfigError
from treadle.core.schedules.named import ByName
from treadle.core.schedules.schedule import Schedule
from treadle.policies.monitor import Monitor


class Plateau:
    """Multiply the learning rate by a factor each time a validation value has not improved for a number of measurements.

    A scheduled lr stays on its schedule, times the factors so far. Without a schedule the lr of each group of each optimizer is
    multiplied. Both are logged as ``schedule/lr``.

    Args:
        monitor: name of a value that is measured on data that is not trained on, such as ``"valid/loss"``.
        factor: what the lr is multiplied by, between 0 and 1.
        patience: measurements without improvement after which it is, at least 1. `torch.optim.lr_scheduler.ReduceLROnPlateau` counts
            one more: its ``patience=2`` is 3 here.
        cooldown: measurements after that which do not count.
        min_lr: no factor brings the lr below this.
        mode: "min" or "max": what is better.
        min_delta: an improvement must be larger than this.

    Raises:
        ConfigError: an argument cannot be meant; or `monitor` is measured on the training data.

    Example:
        >>> Plateau("valid/loss", factor=0.5, patience=2).monitor
        'valid/loss'
    """

    def __init__(
        self,
        monitor: str,
        *,
        factor: float = 0.1,
        patience: int = 3,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: str = "min",
        min_delta: float = 0.0,
    ) -> None:
        self._value = Monitor("Plateau", monitor, patience, mode, min_delta)
        if monitor.startswith("train/"):
            raise ConfigError(
                f"Plateau: {monitor!r} is measured on the training data, and goes on improving while the model only learns that by heart; "
                "give a value of an evaluation, such as 'valid/loss'"
            )
        if not 0 < factor < 1:
            raise ConfigError(f"Plateau: factor must be between 0 and 1, got {factor!r}")
        if not isinstance(cooldown, int) or cooldown < 0 or not 0 <= min_lr < math.inf:
            raise ConfigError(f"Plateau: cooldown and min_lr must not be negative, got {cooldown!r} and {min_lr!r}")
        self.monitor, self._factor, self._cooldown, self._min_lr = monitor, factor, cooldown, min_lr
        self._resting = 0  # measurements that do not count yet
        self.scale = 1.0
        """The product of the factors so far."""
        self._is_scheduled = False

    def attach(self, run: Any) -> None:
        """Begin anew."""
        self._value.reset()
        self._resting, self.scale = 0, 1.0

    def on_run_started(self, run: Any) -> None:
        """Put the factor on the lr's schedule, if there is one."""
        self._is_scheduled = "lr" in run.schedules
        if self._is_scheduled:
            run.schedules["lr"] = self._scaled(run.schedules["lr"])

    def judge(self, run: Any) -> None:
        """Look at this step's value, if there is one."""
        value = self._value.value(run)
        if value is None:
            return
        better = self._value.improves(value)
        if self._resting:
            self._resting -= 1
            self._value.waited = 0
        if not better and self._value.exhausted:
            self._value.waited, self._resting = 0, self._cooldown
            self._lower(run)
        if not self._is_scheduled:
            run.log(_rates(run.optimizers), prefix="schedule")

    def _lower(self, run: Any) -> None:
        self.scale *= self._factor
        best = "anything finite" if self._value.best is None else f"{self._value.best:.6g}"
        run.say(f"Plateau: {self.monitor} has not improved on {best}: the learning rate is multiplied by {self._factor:g}, {self.scale:g} in all")
        if not self._is_scheduled:
            for optimizer in run.optimizers.values():
                for group in optimizer.param_groups:
                    set_lr(group, self._limited(float(group["lr"]), self._factor))

    def _limited(self, value: float, factor: float) -> float:
        """A value times a factor, but not below the limit; a schedule may be below it by itself."""
        return max(value * factor, min(value, self._min_lr))

    def _scaled(self, schedule: Any) -> Any:
        if isinstance(schedule, ByName):
            return ByName({name: self._scaled(one) for name, one in schedule.parts.items()})
        return _Scaled(schedule, self)

    def on_run_finished(self, run: Any) -> None:
        """Say so where there never was anything to look at."""
        self._value.told_if_unseen(run)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint; without a schedule the lr itself is in the optimizer's state."""
        return {**self._value.state_dict(), "resting": self._resting, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._value.load_state_dict(state)
        self._resting, self.scale = state["resting"], state["scale"]


class _Scaled(Schedule):
    """A schedule, times the factors of a plateau."""

    def __init__(self, schedule: Callable[[Any], float], plateau: Plateau) -> None:
        self._schedule, self._plateau = schedule, plateau

    def __call__(self, progress: Any) -> Any:
        return self._scaled(self._schedule(progress))

    def _scaled(self, value: Any) -> Any:
        if isinstance(value, Mapping):  # a scheduler of torch's gives one for each group
            return {name: self._scaled(one) for name, one in value.items()}
        return self._plateau._limited(value, self._plateau.scale)


def set_lr(group: dict[str, Any], value: float) -> None:
    """Set the lr of a group; one that is a tensor, as graphs want it, stays the same tensor."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def _rates(optimizers: Mapping[str, Any]) -> dict[str, float]:
    """The lr of each group, under ``lr``, and the names of optimizer and group where there are several."""
    rates = {}
    for name, optimizer in optimizers.items():
        groups = optimizer.param_groups
        for place, group in enumerate(groups, 1):
            own = [name.removeprefix("optimizer-")] if len(optimizers) > 1 else []
            names = [*own, *([str(group.get("name") or f"group {place}")] if len(groups) > 1 else [])]
            rates["/".join(["lr", *names])] = float(group["lr"])
    return rates
