"""Binding: before the first step, what schedules are for is looked up among the run's optimizers and their parameter groups."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from treadle.core.errors import ConfigError, did_you_mean
from treadle.core.schedules.named import ByName, FromTorch, check_values
from treadle.core.when import Progress
from treadle.step.fields import Group, fields_of, group_name
from treadle.step.twin import Followed, Twin

NEAR = 0.8
"""How like a known name one must be to be taken for it, where it may also be read by the user's own code."""


def bound(
    schedules: Mapping[str, Any], tracked: Mapping[str, Optimizer], progress: Progress, known: Collection[str] = ()
) -> tuple[dict[Optimizer, str], dict[str, Any]]:
    """Schedules whose names and parts all belong to something, with those of torch's tied to their optimizers.

    Args:
        schedules: those of a run, by name.
        tracked: optimizers, by the names that a run tracks them by; what a Trainer tracks as ``optimizer-G`` is ``G``.
        progress: where the run begins, or goes on.
        known: names of which somebody is known to take the value.

    Returns:
        the name of each optimizer, and schedules that are called with the run's progress; one of torch's may have brought others.

    Raises:
        ConfigError: a name, or the name of a part, belongs to nothing; the nearest is given. Or one value would go to groups
            that were built with different ones, cannot be told for this data, or is no number.
    """
    optimizers = {name.removeprefix("optimizer-"): optimizer for name, optimizer in tracked.items()}
    found: dict[str, Any] = {}
    for name, schedule in schedules.items():
        holders = {key: optimizer for key, optimizer in optimizers.items() if name in fields_of(optimizer)}
        if not holders:
            _check_outsider(name, schedule, fields_of(*optimizers.values()), known)
        else:
            for place, part, groups in _places(name, schedule, holders, optimizers):
                _check_shared(name, place, part, groups)
        found[name] = schedule
    found = _followed(found, optimizers)
    check_values(found, progress)
    return {optimizer: name for name, optimizer in optimizers.items()}, found


def _check_outsider(name: str, schedule: Any, fields: set[str], known: Collection[str]) -> None:
    """Raise where a name that is no field of an optimizer must be meant for one."""
    if isinstance(schedule, (ByName, FromTorch)):
        what = "a scheduler of torch's" if isinstance(schedule, FromTorch) else "given by names of optimizers or parameter groups"
        raise ConfigError(f"the schedule {name!r} is {what}, and no optimizer of this run has a field of this name{did_you_mean(name, fields)}")
    if name not in known and (near := difflib.get_close_matches(name, fields, n=1, cutoff=NEAR)):
        raise ConfigError(f"the schedule {name!r} is no field of an optimizer; did you mean {near[0]!r}?")


def _places(
    name: str, schedule: Any, holders: Mapping[str, Optimizer], optimizers: Mapping[str, Optimizer]
) -> Iterable[tuple[str, Any, list[Group]]]:
    """Each schedule of a value, where it was given, and the groups of each optimizer that it is for.

    Raises:
        ConfigError: a part is for nothing.
    """
    if not isinstance(schedule, ByName):
        yield from ((name, schedule, optimizer.param_groups) for optimizer in holders.values())
        return
    if not set(schedule.parts) & set(optimizers):
        groups = {one: group for optimizer in holders.values() for one, group in _by_name(optimizer).items()}
        yield from _groups_of(name, schedule, groups, optimizers)
        return
    for key, part in schedule.parts.items():
        if key not in optimizers:
            hint = did_you_mean(key, optimizers)
            raise ConfigError(f"the schedule '{name}/{key}': no optimizer is named {key!r}{hint}; give groups below their optimizer")
        if key not in holders:
            hint = did_you_mean(name, fields_of(optimizers[key]))
            raise ConfigError(f"the schedule '{name}/{key}': the optimizer {key!r} has no field {name!r}{hint}")
        if isinstance(part, ByName):
            yield from _groups_of(f"{name}/{key}", part, _by_name(holders[key]))
        else:
            yield f"{name}/{key}", part, holders[key].param_groups


def _groups_of(place: str, schedule: ByName, groups: Mapping[str, Group], others: Iterable[str] = ()) -> Iterable[tuple[str, Any, list[Group]]]:
    for key, part in schedule.parts.items():
        at = f"the schedule '{place}/{key}'"
        if key not in groups:
            raise ConfigError(f"{at}: no optimizer or parameter group is named {key!r}{did_you_mean(key, [*groups, *others])}")
        if isinstance(part, FromTorch):
            raise ConfigError(f"{at}: a scheduler of torch's sets all groups of an optimizer; give it under the optimizer's name")
        if isinstance(part, ByName):
            raise ConfigError(f"{at}: a parameter group has no parts, got {', '.join(map(repr, part.parts))}")
        yield f"{place}/{key}", part, [groups[key]]


def _by_name(optimizer: Optimizer) -> dict[str, Group]:
    return {group_name(group, place): group for place, group in enumerate(optimizer.param_groups, 1)}


def _check_shared(name: str, place: str, schedule: Any, groups: list[Group]) -> None:
    """Raise where one value would take the place of several that somebody chose, such as no decay for biases."""
    if isinstance(schedule, FromTorch) or any(f"{name}_scale" in group for group in groups):
        return
    built = [_plain(group[name]) for group in groups if name in group]
    if any(value != built[0] for value in built):
        names = [group_name(group, number) for number, group in enumerate(groups, 1)]
        told = ", ".join(f"{one}: {value!r}" for one, value in zip(names, built, strict=False))
        raise ConfigError(
            f"the schedule {place!r} would set {name} to one value in parameter groups that were built with different ones ({told}); give each its "
            f"own, {{{name!r}: {{{names[0]!r}: ..., {names[1]!r}: ...}}}}, or each group a {name + '_scale'!r} that the value is multiplied by"
        )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


# --- torch's schedulers ---


def _followed(schedules: dict[str, Any], optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Schedules with twins of torch's schedulers in the place of these, and beside them what else they cycle.

    Raises:
        ConfigError: one is not for the learning rate, or cycles what has a schedule already.
    """
    found: dict[str, Any] = {}
    for name, schedule in schedules.items():
        parts = schedule.parts if isinstance(schedule, ByName) else {"": schedule}
        if not any(isinstance(part, FromTorch) for part in parts.values()):
            found.setdefault(name, schedule)
            continue
        if name != "lr":
            raise ConfigError(f"the schedule {name!r} is a scheduler of torch's, which sets the learning rate; give it as schedules={{'lr': ...}}")
        twins = _twins(parts, optimizers)
        for field in sorted({field for twin in twins.values() for field in twin.fields}):
            if field != name and field in schedules:
                raise ConfigError(f"the schedule {field!r} is set by the scheduler of torch's, too; make that with cycle_momentum=False")
            followed: dict[str, Any] = {key: Followed(twin, field) for key, twin in twins.items() if field in twin.fields}
            if field == name:
                followed |= {key: part for key, part in parts.items() if not isinstance(part, FromTorch)}
            found[field] = followed[next(iter(followed))] if len(optimizers) == 1 else ByName(followed)
    return found


def _twins(parts: Mapping[str, Any], optimizers: Mapping[str, Optimizer]) -> dict[str, Twin]:
    """Twins of the schedulers among the parts of a value, by the name of their optimizer."""
    found: dict[str, Twin] = {}
    for key, part in parts.items():
        if not isinstance(part, FromTorch):
            continue
        own = {one: optimizer for one, optimizer in optimizers.items() if getattr(part.make, "optimizer", optimizer) is optimizer}
        if key:
            own = {one: optimizer for one, optimizer in own.items() if one == key}
        if not own:
            raise ConfigError(f"the schedule 'lr': the {type(part.make).__name__} was made of another optimizer than that of this run")
        found |= {one: Twin(part, optimizer) for one, optimizer in own.items()}
    return found
