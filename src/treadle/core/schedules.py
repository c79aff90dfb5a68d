"""Schedules: values that change while a run goes on, as pure functions of its progress.

A schedule is any callable that takes a `Progress` and returns a number. The value for step n is taken before
that step, with n - 1 steps done. Nothing is stored, so a resumed run continues every schedule by itself.
The ones here are frozen values with a readable ``repr``; a plain function serves as well::

    schedules={"lr": lambda progress: 0.1 * (1 - progress.fraction) ** 2}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from treadle.core.errors import ConfigError
from treadle.core.when import Duration, Progress

Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self, progress: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class _Linear:
    start: float
    end: float
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * _share(progress, self.over)


@dataclass(frozen=True)
class _Cosine:
    peak: float
    end: float
    warmup: Duration | None
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        done = _share(progress, self.over)
        if self.warmup is None:
            return _cosine_between(self.peak, self.end, done)
        warm_steps = progress.steps_in(self.warmup)
        if progress.steps < warm_steps:
            return self.peak * min(1.0, (progress.steps + 1) / warm_steps)  # the first step moves the weights already
        warm = warm_steps / progress.steps_in(self.over or progress.duration)
        return _cosine_between(self.peak, self.end, (done - warm) / (1 - warm) if warm < 1 else 1.0)


@dataclass(frozen=True)
class _Exponential:
    start: float
    factor: float
    every: Duration

    def __call__(self, progress: Progress) -> float:
        if self.every.needs_epoch_size():
            _told(progress, self.every)
        return self.start * self.factor ** self.every.count(progress)


@dataclass(frozen=True)
class _OneCycle:
    peak: float
    warmup: float
    start: float
    end: float
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        done = _share(progress, self.over)
        if done < self.warmup:
            return _cosine_between(self.start, self.peak, done / self.warmup)
        return _cosine_between(self.peak, self.end, (done - self.warmup) / (1 - self.warmup))


def constant(value: float) -> Schedule:
    """The same value at every step.

    Example:
        >>> constant(0.1)(Progress(Duration.parse("10 steps")))
        0.1
    """
    return _Constant(value)


def linear(start: float, end: float, over: str | None = None) -> Schedule:
    """A straight line from `start` to `end`, then `end`.

    Args:
        start: the value of the first step.
        end: the value that is approached.
        over: the length of the line, such as ``"5 epochs"``; the whole run unless told.

    Example:
        >>> linear(1.0, 0.0)(Progress(Duration.parse("10 steps"), steps=5))
        0.5
    """
    return _Linear(start, end, _optional(over))


def cosine(peak: float, end: float = 0.0, warmup: str | None = None, over: str | None = None) -> Schedule:
    """Half a cosine from `peak` down to `end`, after a linear warm-up from near zero.

    Args:
        peak: the highest value.
        end: the value at the end.
        warmup: the length of the warm-up, such as ``"500 steps"`` or ``"1 epoch"``; none unless told.
        over: the length of the whole curve; the whole run unless told.

    Raises:
        ConfigError: a length has no unit, or `peak` is not positive.

    Source:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, section 3 (one cycle of it).

    Example:
        >>> round(cosine(0.1)(Progress(Duration.parse("10 steps"), steps=5)), 3)
        0.05
    """
    return _Cosine(_positive("peak", peak), end, _optional(warmup), _optional(over))


def exponential(start: float, factor: float, every: str) -> Schedule:
    """`start`, multiplied by `factor` each time `every` has passed.

    Args:
        start: the first value.
        factor: what the value is multiplied by.
        every: how often, such as ``"1 epoch"``.

    Example:
        >>> exponential(10, 0.5, every="2 steps")(Progress(Duration.parse("10 steps"), steps=5))
        2.5
    """
    return _Exponential(start, factor, Duration.parse(every))


def one_cycle(peak: float, warmup: float = 0.3, start: float | None = None, end: float | None = None, over: str | None = None) -> Schedule:
    """Up to `peak` and down again, along two half cosines.

    Args:
        peak: the highest value.
        warmup: share of the curve that goes up, between 0 and 1.
        start: the first value; ``peak / 25`` unless told.
        end: the last value; ``peak / 250_000`` unless told.
        over: the length of the whole curve; the whole run unless told.

    Raises:
        ConfigError: `peak` is not positive, or `warmup` is not between 0 and 1.

    Source:
        Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, section 3;
        with cosines for the lines, as is common since.

    Example:
        >>> one_cycle(1.0)(Progress(Duration.parse("10 steps"), steps=3))
        1.0
    """
    if not isinstance(warmup, (int, float)) or not 0 < warmup < 1:
        raise ConfigError(f"one_cycle: warmup must be between 0 and 1, a share of the curve, got {warmup!r}")
    _positive("peak", peak)
    return _OneCycle(peak, warmup, peak / 25 if start is None else start, peak / 250_000 if end is None else end, _optional(over))


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _share(progress: Progress, over: Duration | None) -> float:
    length = over or progress.duration
    _told(progress, length)
    return min(1.0, length.amount(progress))


def _told(progress: Progress, length: Duration) -> None:
    """Raise where nobody knows how much of a length is done: between the ends of epochs whose length nobody knows."""
    if length.unit == "epochs" and not progress.epoch_size:
        raise ConfigError(f"how much of '{length}' is done cannot be told for data without a length; give the length in steps")


def _optional(text: str | None) -> Duration | None:
    return None if text is None else Duration.parse(text)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ConfigError(f"schedule: {name} must be positive, got {value!r}")
    return value
