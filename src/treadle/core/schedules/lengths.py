"""Lengths and numbers of schedules: which share of a length is done, and what may be given."""

from __future__ import annotations

import math

from treadle.core.errors import ConfigError
from treadle.core.when import Duration, Progress


def share(progress: Progress, over: Duration | None) -> float:
    """How much of a length, or of the whole run, is done: from 0 to 1."""
    return min(1.0, amount(progress, over or progress.duration))


def amount(progress: Progress, length: Duration) -> float:
    """How many times a length fits into what is done, with the fraction.

    Raises:
        ConfigError: nobody knows, between the ends of epochs whose length nobody knows.
    """
    if length.unit == "epochs" and not progress.epoch_size:
        raise ConfigError(f"how much of '{length}' is done cannot be told for data without a length; give the length in steps")
    return length.amount(progress)


def times(progress: Progress, length: Duration) -> int:
    """How many whole times a length fits into what is done; exact.

    Raises:
        ConfigError: it ends between the ends of epochs whose length nobody knows.
    """
    return math.floor(amount(progress, length)) if length.needs_epoch_size() and not progress.epoch_size else length.count(progress)


def optional(text: str | None) -> Duration | None:
    """A length, where one was given."""
    return None if text is None else Duration.parse(text)


def number(what: str, value: float) -> float:
    """A value that was given.

    Raises:
        ConfigError: it is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a number, got {value!r}")
    return value


def positive(what: str, value: float) -> float:
    """A value above zero.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{what} must be positive, got {value!r}")
    return value
