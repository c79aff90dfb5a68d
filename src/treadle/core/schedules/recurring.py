"""Schedules with a cadence: what happens each time that a length has passed, or at given points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from treadle.core.errors import ConfigError
from treadle.core.schedules.lengths import amount, number, positive, times
from treadle.core.schedules.schedule import Schedule
from treadle.core.schedules.spanning import cosine_between
from treadle.core.when import Duration, Progress


def exponential(start: float, factor: float, every: str) -> Schedule:
    """`start`, multiplied by `factor` each time `every` has passed.

    Args:
        start: the first value.
        factor: what the value is multiplied by.
        every: how often, such as ``"1 epoch"``; for a smooth curve ``"1 step"``.

    Example:
        >>> exponential(10, 0.5, every="2 steps")(Progress(Duration.parse("10 steps"), steps=5))
        2.5
    """
    return _Exponential(number("exponential: start", start), number("exponential: factor", factor), Duration.parse(every))


def step_decay(start: float, factor: float, at: Sequence[str]) -> Schedule:
    """`start`, multiplied by `factor` at each of some points; at a regular pace it is `treadle.schedules.exponential`.

    Args:
        start: the first value.
        factor: what the value is multiplied by.
        at: the points, such as ``["30 epochs", "60 epochs"]``.

    Raises:
        ConfigError: there are no points, or one of them has no unit.

    Source:
        He et al., Deep Residual Learning for Image Recognition, section 3.4.

    Example:
        >>> schedule = step_decay(1.0, 0.5, at=["2 steps", "6 steps"])
        >>> [schedule(Progress(Duration.parse("10 steps"), steps=steps)) for steps in (0, 2, 9)]
        [1.0, 0.5, 0.25]
    """
    if isinstance(at, str) or not at:
        raise ConfigError(f"step_decay: at must be a list of points, such as ['30 epochs', '60 epochs'], got {at!r}")
    return _StepDecay(number("step_decay: start", start), number("step_decay: factor", factor), tuple(map(Duration.parse, at)))


def piecewise(start: float, points: Mapping[str, float], interpolate: bool = False) -> Schedule:
    """Given values at given points: level between them, or joined by straight lines.

    Args:
        start: the first value.
        points: the value from each point on, in order and in one unit, such as ``{"5 epochs": 0.4, "24 epochs": 0.0}``.
        interpolate: reach each value at its point in a straight line from the one before, in place of a jump.

    Raises:
        ConfigError: there are no points, or they are not in order, or in several units.

    Example:
        >>> schedule = piecewise(0.0, {"4 steps": 1.0, "8 steps": 0.0}, interpolate=True)
        >>> [schedule(Progress(Duration.parse("10 steps"), steps=steps)) for steps in (0, 2, 4, 7, 9)]
        [0.0, 0.5, 1.0, 0.25, 0.0]
    """
    if not isinstance(points, Mapping) or not points:
        raise ConfigError(f"piecewise: points must map lengths to values, such as {{'30 epochs': 0.01, '60 epochs': 0.001}}; got {points!r}")
    lengths = [Duration.parse(text) for text in points]
    if len({length.unit for length in lengths}) > 1 or any(a.value >= b.value for a, b in pairwise(lengths)):
        raise ConfigError(f"piecewise: the points must be in order and in one unit, got {', '.join(map(str, lengths))}")
    values = [number("piecewise: a value", value) for value in (start, *points.values())]
    return _Piecewise(tuple(lengths), tuple(values), bool(interpolate))


def cyclic(low: float, high: float, every: str, shrink: float = 1.0) -> Schedule:
    """Up from `low` to `high` and down again in straight lines, over and over.

    Args:
        low: where each cycle begins and ends.
        high: the top of the first cycle.
        every: the length of a cycle, up and down, such as ``"8 epochs"``.
        shrink: what the height of each cycle is over that of the one before: 1 is the paper's "triangular", 0.5 its "triangular2".

    Raises:
        ConfigError: `shrink` is not positive, or the length has no unit.

    Source:
        Smith, Cyclical Learning Rates for Training Neural Networks, section 3.

    Example:
        >>> schedule = cyclic(0.0, 1.0, every="4 steps", shrink=0.5)
        >>> [schedule(Progress(Duration.parse("10 steps"), steps=steps)) for steps in range(8)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """
    return _Cyclic(number("cyclic: low", low), number("cyclic: high", high), Duration.parse(every), positive("cyclic: shrink", shrink))


def cosine_restarts(peak: float, every: str, end: float = 0.0, growth: float = 1.0) -> Schedule:
    """Half a cosine from `peak` down to `end`, begun again each time that it is over.

    Args:
        peak: the value at the beginning of each cycle.
        every: the length of the first cycle, such as ``"10 epochs"``.
        end: the value that each cycle comes down to.
        growth: how long each cycle is over the one before, 1 or more.

    Raises:
        ConfigError: `peak` is not positive, `growth` is less than 1, or the length has no unit.

    Source:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, section 3.

    Example:
        >>> schedule = cosine_restarts(1.0, every="2 steps", growth=2)
        >>> [round(schedule(Progress(Duration.parse("10 steps"), steps=steps)), 3) for steps in range(6)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146]
    """
    if number("cosine_restarts: growth", growth) < 1:
        raise ConfigError(f"cosine_restarts: growth must be 1 or more, got {growth!r}")
    return _CosineRestarts(positive("cosine_restarts: peak", peak), Duration.parse(every), number("cosine_restarts: end", end), growth)


@dataclass(frozen=True)
class _Exponential(Schedule):
    start: float
    factor: float
    every: Duration

    def __call__(self, progress: Progress) -> float:
        return self.start * self.factor ** times(progress, self.every)


@dataclass(frozen=True)
class _StepDecay(Schedule):
    start: float
    factor: float
    at: tuple[Duration, ...]

    def __call__(self, progress: Progress) -> float:
        return self.start * self.factor ** sum(times(progress, point) >= 1 for point in self.at)


@dataclass(frozen=True)
class _Piecewise(Schedule):
    points: tuple[Duration, ...]
    values: tuple[float, ...]
    interpolate: bool

    def __call__(self, progress: Progress) -> float:
        if not self.interpolate:
            return self.values[sum(times(progress, point) >= 1 for point in self.points)]
        done = amount(progress, Duration(Fraction(1), self.points[0].unit))
        ends = [0.0, *(float(point.value) for point in self.points)]
        place = bisect_right(ends, done)
        if place == len(ends):
            return self.values[-1]
        way = (done - ends[place - 1]) / (ends[place] - ends[place - 1])
        return self.values[place - 1] + (self.values[place] - self.values[place - 1]) * way


@dataclass(frozen=True)
class _Cyclic(Schedule):
    low: float
    high: float
    every: Duration
    shrink: float

    def __call__(self, progress: Progress) -> float:
        cycle, into = divmod(amount(progress, self.every), 1.0)
        height: float = (self.high - self.low) * self.shrink**cycle
        return self.low + height * (1 - abs(2 * into - 1))


@dataclass(frozen=True)
class _CosineRestarts(Schedule):
    peak: float
    every: Duration
    end: float
    growth: float

    def __call__(self, progress: Progress) -> float:
        done, length = amount(progress, self.every), 1.0
        if self.growth == 1:
            done %= 1
        while done >= length:
            done, length = done - length, length * self.growth
        return cosine_between(self.peak, self.end, done / length)
