"""Schedules that span a length: the whole run, unless told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from treadle.core.errors import ConfigError, did_you_mean
from treadle.core.schedules.lengths import number, optional, positive, share
from treadle.core.schedules.schedule import Schedule
from treadle.core.when import Duration, Progress


def constant(value: float) -> Schedule:
    """The same value at every step.

    Example:
        >>> constant(0.1)(Progress(Duration.parse("10 steps")))
        0.1
    """
    return _Constant(number("constant: value", value))


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
    return _Linear(number("linear: start", start), number("linear: end", end), optional(over))


def polynomial(start: float, end: float = 0.0, power: float = 2.0, over: str | None = None) -> Schedule:
    """From `start` down to `end` along ``(1 - share done) ** power``, then `end`.

    Args:
        start: the value of the first step.
        end: the value that is approached.
        power: 1 is a straight line; more falls steeply first.
        over: the length of the curve; the whole run unless told.

    Raises:
        ConfigError: `power` is not positive, or a length has no unit.

    Example:
        >>> polynomial(1.0, power=2)(Progress(Duration.parse("10 steps"), steps=5))
        0.25
    """
    return _Polynomial(number("polynomial: start", start), number("polynomial: end", end), positive("polynomial: power", power), optional(over))


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
    return _Cosine(positive("schedule: peak", peak), number("cosine: end", end), optional(warmup), optional(over))


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
    positive("schedule: peak", peak)
    return _OneCycle(peak, warmup, peak / 25 if start is None else start, peak / 250_000 if end is None else end, optional(over))


def inverse_sqrt(peak: float, warmup: str) -> Schedule:
    """A linear warm-up to `peak`, then down with one over the square root of the step.

    It needs no end, so the same curve serves runs of any length.

    Args:
        peak: the value at the end of the warm-up; with the paper's words ``d_model**-0.5 * warmup_steps**-0.5``.
        warmup: the length of the warm-up, such as ``"4000 steps"``.

    Raises:
        ConfigError: `peak` is not positive, or the length has no unit.

    Source:
        Vaswani et al., Attention Is All You Need, section 5.3, equation 3.

    Example:
        >>> schedule = inverse_sqrt(0.1, warmup="4 steps")
        >>> [schedule(Progress(Duration.parse("100 steps"), steps=step - 1)) for step in (2, 4, 16)]
        [0.05, 0.1, 0.05]
    """
    return _InverseSqrt(positive("inverse_sqrt: peak", peak), Duration.parse(warmup))


def wsd(peak: float, warmup: str, decay: str, end: float = 0.0, shape: str = "linear", over: str | None = None) -> Schedule:
    """Warm-up, stable, decay: up in a line, level at `peak`, and down to `end` in the last part.

    Up to the decay the curve does not depend on how long the run is, so that a run can be made longer from a checkpoint before it.

    Args:
        peak: the value of the level part.
        warmup: the length of the warm-up, such as ``"500 steps"``.
        decay: the length of the decay, which ends the curve, such as ``"1 epoch"``.
        end: the value at the end.
        shape: how it decays: ``"linear"``, ``"cosine"``, or ``"sqrt"`` for one minus the square root of the share that is done.
        over: the length of the whole curve; the whole run unless told.

    Raises:
        ConfigError: `peak` is not positive, a length has no unit, or there is no such shape.

    Source:
        Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies, section 4; ``"sqrt"`` from
        Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, section 3.

    Example:
        >>> schedule = wsd(1.0, warmup="2 steps", decay="4 steps")
        >>> [round(schedule(Progress(Duration.parse("10 steps"), steps=steps)), 3) for steps in (0, 1, 5, 8)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if shape not in _DECAYS:
        raise ConfigError(f"wsd: unknown shape {shape!r}{did_you_mean(str(shape), _DECAYS)}")
    lengths = Duration.parse(warmup), Duration.parse(decay), optional(over)
    return _Wsd(positive("wsd: peak", peak), number("wsd: end", end), shape, *lengths)


@dataclass(frozen=True)
class _Constant(Schedule):
    value: float

    def __call__(self, progress: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class _Linear(Schedule):
    start: float
    end: float
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * share(progress, self.over)


@dataclass(frozen=True)
class _Polynomial(Schedule):
    start: float
    end: float
    power: float
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        left: float = (1 - share(progress, self.over)) ** self.power
        return self.end + (self.start - self.end) * left


@dataclass(frozen=True)
class _Cosine(Schedule):
    peak: float
    end: float
    warmup: Duration | None
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        done = share(progress, self.over)
        if self.warmup is None:
            return cosine_between(self.peak, self.end, done)
        warm_steps = progress.steps_in(self.warmup)
        if progress.steps < warm_steps:
            return self.peak * _warmed(progress, warm_steps)
        warm = warm_steps / progress.steps_in(self.over or progress.duration)
        return cosine_between(self.peak, self.end, (done - warm) / (1 - warm) if warm < 1 else 1.0)


@dataclass(frozen=True)
class _OneCycle(Schedule):
    peak: float
    warmup: float
    start: float
    end: float
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        done = share(progress, self.over)
        if done < self.warmup:
            return cosine_between(self.start, self.peak, done / self.warmup)
        return cosine_between(self.peak, self.end, (done - self.warmup) / (1 - self.warmup))


@dataclass(frozen=True)
class _InverseSqrt(Schedule):
    peak: float
    warmup: Duration

    def __call__(self, progress: Progress) -> float:
        warm_steps = progress.steps_in(self.warmup)
        if progress.steps + 1 < warm_steps:
            return self.peak * _warmed(progress, warm_steps)
        return self.peak * math.sqrt(warm_steps / (progress.steps + 1))


@dataclass(frozen=True)
class _Wsd(Schedule):
    peak: float
    end: float
    shape: str
    warmup: Duration
    decay: Duration
    over: Duration | None

    def __call__(self, progress: Progress) -> float:
        warm_steps = progress.steps_in(self.warmup)
        whole = self.over or progress.duration
        part = progress.steps_in(self.decay) / progress.steps_in(whole)
        decayed = max(0.0, 1 - (1 - share(progress, whole)) / part)
        level = self.end + (self.peak - self.end) * _DECAYS[self.shape](decayed)
        return min(level, self.peak * _warmed(progress, warm_steps)) if progress.steps < warm_steps else level


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: cosine_between(1.0, 0.0, done),
    "sqrt": lambda done: 1 - math.sqrt(done),
}
"""What is left of the height when a share of the decay is done."""


def _warmed(progress: Progress, warm_steps: float) -> float:
    """The share of the height that the next step has in a warm-up: the first step moves the weights already."""
    return min(1.0, (progress.steps + 1) / warm_steps)


def cosine_between(start: float, end: float, done: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
