"""Fields: which schedule value goes to which field of which parameter group.

A value is a number for all groups of all optimizers, or a dict by the names of optimizers or groups. A number that several groups share
is multiplied by a group's own ``<field>_scale``, such as ``lr_scale``; one that is given to a group by its name is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from treadle.core.settings import for_group

Group = dict[str, Any]
_BETAS = {"beta1": 0, "beta2": 1}
"""Fields that are one of a group's ``betas``."""


def set_fields(optimizer: Optimizer, values: Mapping[str, Any], name: str) -> None:
    """Put schedule values into an optimizer's groups.

    Args:
        optimizer: whose groups.
        values: by field; a number, or a dict by the names of optimizers or groups. What is no field of a group is for others.
        name: the optimizer's.
    """
    for place, group in enumerate(optimizer.param_groups, 1):
        for field, value in values.items():
            shared = value.__class__ is not dict
            if not shared:
                value, shared = _own(value, name, group_name(group, place), field)
                if value is None:
                    continue
            if shared and (scale := f"{field}_scale") in group:
                value = value * group[scale]
            if field in group:
                group[field] = value
            elif field in _BETAS and "betas" in group:
                betas = list(group["betas"])
                betas[_BETAS[field]] = value
                group["betas"] = tuple(betas)


def _own(value: dict[str, Any], optimizer: str, group: str, field: str) -> tuple[Any, bool]:
    """The value for a group, None where there is none, and whether it is for all groups of its optimizer."""
    own: Any = value.get(optimizer, value)
    return (for_group(own, group, field), False) if own.__class__ is dict else (own, True)


def fields_of(*optimizers: Optimizer) -> set[str]:
    """Names of what a schedule may set in any of some optimizers."""
    fields = {field for optimizer in optimizers for group in optimizer.param_groups for field in group}
    return (fields - {"params", "param_names", "name", "initial_lr"}) | (set(_BETAS) if "betas" in fields else set())


def group_name(group: Group, place: int) -> str:
    """A group's name: its own, or ``group 1``, ``group 2``, ..., as everywhere in this library."""
    return str(group.get("name") or f"group {place}")
