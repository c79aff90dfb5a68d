"""Schedules by name: what a run is given for each value, also apart for optimizers and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

from treadle.core.errors import ConfigError
from treadle.core.schedules.schedule import Function, Schedule, of
from treadle.core.when import Duration, Progress


@dataclass(frozen=True)
class FromTorch:
    """See `treadle.schedules.from_torch`."""

    make: Any
    every: Duration


Scheduled: TypeAlias = Union[Function, FromTorch, Mapping[str, "Scheduled"]]  # noqa: UP007 (a name that stands in itself is no type yet)
"""What a run takes for one value: a function of progress, a scheduler of torch's, or one of these for each optimizer or parameter group."""


def from_torch(make: Callable[[Any], Any] | Any, every: str) -> FromTorch:
    """A learning rate scheduler of torch's, as the schedule of "lr".

    It is run beside the optimizer and not on it: what it gives is a function of how often it was stepped. So nothing has to
    be saved, a run that goes on has the same values, and the optimizer is not patched. Where it cycles momentum or betas, these are
    scheduled as well.

    Args:
        make: a callable that takes an optimizer, such as ``partial(torch.optim.lr_scheduler.StepLR, step_size=30)``; or a
            scheduler that was made of the run's own optimizer, which is taken as a pattern, and stays as it is.
        every: how often it is stepped: ``"1 step"`` or ``"1 epoch"`` for most.

    Returns:
        what goes into ``schedules={"lr": ...}``.

    Raises:
        ConfigError: `every` has no unit. When the run begins: it makes no scheduler, or one that looks at a metric.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> schedules = {"lr": from_torch(partial(torch.optim.lr_scheduler.StepLR, step_size=30), every="1 epoch")}
    """
    if not callable(make) and not hasattr(make, "get_last_lr"):
        raise ConfigError(
            f"from_torch needs a callable that makes a scheduler of an optimizer, such as partial(torch.optim.lr_scheduler.StepLR, step_size=30); "
            f"got {make!r}"
        )
    return FromTorch(make, Duration.parse(every))


@dataclass(frozen=True)
class ByName:
    """Schedules of one value, by the names of optimizers or parameter groups."""

    parts: Mapping[str, Any]

    def __call__(self, progress: Progress) -> dict[str, Any]:
        """The values for the step after this progress."""
        return {name: part(progress) for name, part in self.parts.items()}

    def check(self, progress: Progress) -> None:
        """See `Schedule.check`."""
        for part in self.parts.values():
            part.check(progress)


def checked(schedules: Mapping[str, Any]) -> dict[str, Any]:
    """Schedules by name, each of which can be called: a `Schedule`, a `ByName`, or a `FromTorch` that is not tied to its optimizer yet.

    Raises:
        ConfigError: one cannot.
    """
    if not isinstance(schedules, Mapping):
        raise ConfigError(f"schedules must be a dict by name, such as {{'lr': treadle.schedules.cosine(0.1)}}; got {schedules!r}")
    return {name: _checked(str(name), schedule) for name, schedule in schedules.items()}


def _checked(name: str, given: Any) -> Any:
    if isinstance(given, (Schedule, FromTorch, ByName)):
        return given
    if isinstance(given, Mapping):
        if not given:
            raise ConfigError(f"the schedule {name!r} is an empty dict; give a schedule for each optimizer or parameter group by name")
        return ByName({key: _checked(f"{name}/{key}", part) for key, part in given.items()})
    if hasattr(getattr(given, "func", given), "get_last_lr"):
        raise ConfigError(
            f"the schedule {name!r} must be a callable of the run's progress, and this is a scheduler of torch's, which does not say how often it is "
            f"stepped; write treadle.schedules.from_torch(..., every='1 step') or every='1 epoch'; got {given!r}"
        )
    if isinstance(given, type) or not callable(given):
        raise ConfigError(f"the schedule {name!r} must be a callable of the run's progress, such as treadle.schedules.constant(0.1); got {given!r}")
    return of(given)


def check_values(schedules: Mapping[str, Any], progress: Progress) -> None:
    """Take every schedule's value, and look at it.

    Raises:
        ConfigError: a length cannot be told for this data, or a value is no number.
    """
    for name, schedule in schedules.items():
        try:
            schedule.check(progress)
            value = schedule(progress)
        except ConfigError as error:
            raise ConfigError(f"the schedule {name!r}: {error}") from None
        except Exception as error:
            error.add_note(f"raised by the schedule {name!r}, which was called with the run's progress before the first step")
            raise
        for key, one in flat({name: value}):
            if isinstance(one, bool) or not isinstance(one, (int, float)) or math.isnan(one):
                raise ConfigError(f"the schedule {key!r} must give a number, gave {one!r}")


def parts_of(schedules: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every single schedule, under the name that its values are logged by."""
    for name, schedule in schedules.items():
        if isinstance(schedule, ByName):
            yield from ((f"{name}/{key}", one) for key, one in parts_of(schedule.parts))
        else:
            yield name, schedule


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values under the names that they are logged by: those of groups below their value's, as in ``lr/body``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", one) for key, one in flat(value))
        else:
            yield name, value
