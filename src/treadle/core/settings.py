"""Settings of an optimizer's parameter groups, looked at before they are used: a wrong one would be noticed hours later, or never."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from treadle.core.errors import ConfigError, did_you_mean

SCALE = "lr_scale"
"""A factor on a group's learning rate, also on one that a schedule gives; a setting that any optimizer may have."""
NO_DECAY = "/no_decay"
"""How the name ends of that half of a group which has no weight decay."""


def check_settings(who: str, settings: Mapping[str, Any], optimizer: Any) -> None:
    """Look whether an optimizer has such settings, and takes such values.

    Args:
        who: begins the message of an error.
        settings: for one of its groups.
        optimizer: a ``torch.optim.Optimizer``.

    Raises:
        ConfigError: it has not, and the nearest name is given; or a number is needed, and something else is given.
    """
    known = {*optimizer.defaults, SCALE}
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"{who}: {type(optimizer).__name__} has no setting {key!r}{did_you_mean(key, known)}")
        is_tensor = hasattr(value, "numel")
        if is_number(optimizer.defaults.get(key, 1.0)) and not is_tensor and not (is_number(value) and value >= 0):
            raise ConfigError(f"{who}: {key} must be a number, and not negative; got {value!r}")


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def for_group(parts: Mapping[str, Any], group: str, setting: str) -> Any:
    """What is given to a group by its name; its half without weight decay follows it in all but the decay.

    Args:
        parts: by the names of groups.
        group: the name of one.
        setting: what is given, such as lr.

    Returns:
        that of the group; None where nothing is given to it.

    Example:
        >>> [for_group({"head": 0.1}, "head/no_decay", setting) for setting in ("lr", "weight_decay")]
        [0.1, None]
    """
    found = parts.get(group)
    return parts.get(group.removesuffix(NO_DECAY)) if found is None and setting != "weight_decay" else found
