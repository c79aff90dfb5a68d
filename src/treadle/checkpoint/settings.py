"""What an optimizer was built with: its groups and their settings, which schedules and handlers change later, compared when a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer

from treadle.core.structure import same
from treadle.system.groups import labels

Settings = dict[str, dict[str, Any]]
"""Plain values by key, by group."""
_LEFT_OUT = ("params", "param_names", "initial_lr", "foreach", "fused", "capturable")
"""What is no setting, or says how a step is computed, and not what."""
_SHOWN = 4


class _Built:
    """The groups of an optimizer as they were when it was first seen."""

    def __init__(self, optimizer: Optimizer) -> None:
        names = labels(optimizer.param_groups)
        if len(set(names)) < len(names):
            names = [f"group {place}" for place in range(1, len(names) + 1)]
        pairs = list(zip(names, optimizer.param_groups, strict=True))
        self.settings: Settings = {name: _plain(group) for name, group in pairs}
        self.home = {id(p): name for name, group in pairs for p in group["params"]}


_BUILT: WeakKeyDictionary[Optimizer, _Built] = WeakKeyDictionary()


def remember(optimizer: Optimizer) -> None:
    """Keep in mind what an optimizer was built with, the first time that it is seen."""
    if optimizer not in _BUILT:
        _BUILT[optimizer] = _Built(optimizer)


def built_with(optimizer: Optimizer) -> Settings:
    """The settings that a remembered optimizer was built with, by group."""
    return _BUILT[optimizer].settings


def set_since_built(optimizer: Optimizer, where: str, key: str, value: Any) -> None:
    """Give a setting another value, in the group that was built under a name.

    What was taken out of it since, and has a group of its own, goes along where it had the same value.
    """
    home = _BUILT[optimizer].home
    own = [group for group in optimizer.param_groups if any(home.get(id(p)) == where for p in group["params"])]
    before = own[0][key] if own else None
    for group in own:
        if same(group[key], before):
            group[key] = type(before)(value) if isinstance(before, tuple) else value


def check_groups(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Compare the groups in an optimizer's saved state with those that it has.

    Raises:
        ValueError: they are others, in another order, or hold other parameters; both are in the message.
    """
    as_was = [(label, len(group["params"]), group.get("param_names")) for label, group in zip(labels(before), before, strict=True)]
    as_is = [(label, len(group["params"]), group.get("param_names")) for label, group in zip(labels(now), now, strict=True)]
    if len(as_was) != len(as_is) or any(not _alike(one, other) for one, other in zip(as_was, as_is, strict=True)):
        raise ValueError(f"its parameter groups were\n{_listed(as_was)}\nand are\n{_listed(as_is)}")


_Group = tuple[str, int, Any]


def _alike(one: _Group, other: _Group) -> bool:
    are_named = one[2] is not None and other[2] is not None
    return one[:2] == other[:2] and not (are_named and list(one[2]) != list(other[2]))


def _listed(groups: Sequence[_Group]) -> str:
    return "\n".join(f"  {label}: {count} tensor{'s'[: count != 1]}{_named(names)}" for label, count, names in groups)


def _named(names: Any) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back; those that it cannot hold are left out."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1 and key != "params":
            value = value.item()
        if key not in _LEFT_OUT and (value is None or isinstance(value, (bool, int, float, str, list, tuple))):
            values[key] = list(value) if isinstance(value, tuple) else value
    return values
