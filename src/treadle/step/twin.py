"""The twin of a torch scheduler: run beside the optimizer, so that its values are a function of how often it was stepped.

On the optimizer itself it would patch `step`, have state to be saved, and be stepped at the wrong place sooner or later.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from treadle.core.errors import ConfigError
from treadle.core.schedules.lengths import times
from treadle.core.schedules.named import FromTorch
from treadle.core.when import Progress
from treadle.step.fields import group_name

_MAY_CYCLE = ("momentum", "betas")


class _Stand(Optimizer):
    """Stands for an optimizer: the same groups and defaults, no parameters, and nothing moves."""

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__([{**group, "params": [torch.nn.Parameter(torch.zeros(0))]} for group in groups], defaults)
        self._opt_called = True  # a scheduler warns where its optimizer was not stepped

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move nothing."""

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # nor need it be patched to count that


class Twin:
    """A torch scheduler beside its optimizer.

    Args:
        given: what makes it, and how often it is stepped.
        optimizer: whose groups and defaults it starts from.

    Raises:
        ConfigError: nothing that can be stepped by itself is made.
    """

    def __init__(self, given: FromTorch, optimizer: Optimizer) -> None:
        self.every = given.every
        self._given = given.make
        self._groups = [{key: _copied(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        self._defaults = dict(optimizer.defaults)
        self._original = getattr(given.make, "optimizer", None)
        self._begin()
        self.is_single = len(self._groups) == 1 and "lr_scale" not in self._groups[0]
        self.fields = ["lr", *self._cycled()]
        """What is scheduled."""

    def _begin(self) -> None:
        self._stand, self._steps = _Stand([dict(group) for group in self._groups], self._defaults), 0
        if isinstance(self._given, LRScheduler):
            self._scheduler: Any = copy.deepcopy(self._given, {id(self._original): self._stand})
        else:
            self._scheduler = self._given(self._stand)
        if isinstance(self._scheduler, ReduceLROnPlateau):
            raise ConfigError(
                "ReduceLROnPlateau looks at a metric, so it is no function of progress; use the handler treadle.Plateau('valid/loss'), on a value of "
                "the validation data"
            )
        if not isinstance(self._scheduler, LRScheduler):
            raise ConfigError(f"from_torch needs a callable that makes a torch.optim.lr_scheduler.LRScheduler, it made {self._scheduler!r}")

    def _cycled(self) -> list[str]:
        """Fields beside the learning rate that are set when it is made, or by its first step."""
        before = [{key: group.get(key) for key in _MAY_CYCLE} for group in self._groups]
        found = [key for key in _MAY_CYCLE if any(group.get(key) != old[key] for group, old in zip(self.groups(0), before, strict=True))]
        found += [key for key in _MAY_CYCLE if any(group.get(key) != old[key] for group, old in zip(self.groups(1), before, strict=True))]
        return sorted({"beta1" if key == "betas" else key for key in found})

    def groups(self, times: int) -> list[dict[str, Any]]:
        """The optimizer's groups, as they would be after so many steps of the scheduler."""
        if times < self._steps:
            self._begin()
        while self._steps < times:
            self._scheduler.step()
            self._steps += 1
        return self._stand.param_groups

    def check(self, progress: Progress) -> None:
        """Raise where a scheduler that is made for so many steps would be stepped more often.

        Raises:
            ConfigError: with both numbers.
        """
        most = getattr(self._scheduler, "total_steps", None)
        needs = {self.every.unit, progress.duration.unit}
        if most is None or ("epochs" in needs and not progress.epoch_steps) or ("samples" in needs and not progress.epoch_samples):
            return
        asked = (progress.steps_in(progress.duration) - 1) // progress.steps_in(self.every)
        if asked > most:
            raise ConfigError(
                f"{type(self._scheduler).__name__} is made for {most:,} steps, and every='{self.every}' of this run steps it {asked:,.0f} times"
            )


@dataclass(frozen=True, eq=False)
class Followed:
    """One field that a twin schedules, as a function of progress.

    Args:
        twin: the scheduler.
        field: of the groups.
    """

    twin: Twin
    field: str

    def __call__(self, progress: Progress) -> Any:
        """The value for the step after this progress; of several groups, by their names."""
        groups = self.twin.groups(times(progress, self.twin.every))
        values = [_plain(group["betas"][0] if self.field == "beta1" else group[self.field]) for group in groups]
        if self.twin.is_single:
            return values[0]
        return {group_name(group, place): value for place, (group, value) in enumerate(zip(groups, values, strict=True), 1)}

    def check(self, progress: Progress) -> None:
        """See before the run that it can be told."""
        self.twin.check(progress)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _plain(value: Any) -> float:
    return float(value)
