"""Settings of an optimizer's parameter groups, looked at before they are used: a wrong one would be noticed hours later, or never."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from treadle.core.errors import ConfigError, did_you_mean

SCALE = "lr_scale"
"""A factor on a group's learning rate, also on one that a schedule gives; a setting that any optimizer may have."""


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
