"""The schedule: a value as a pure function of a run's progress, to be scaled and put one after the other.

A schedule is any callable that takes a `Progress` and returns a number. The value for step n is taken before
that step, with n - 1 steps done. Nothing is stored, so a resumed run continues every schedule by itself.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from treadle.core.errors import ConfigError
from treadle.core.schedules.lengths import number
from treadle.core.when import Duration, Progress

Function = Callable[[Progress], float]
"""What a schedule does: a plain function serves as well as a `Schedule`."""


class Schedule(ABC):
    """A value as a pure function of a run's progress.

    Those in `treadle.schedules` are frozen values with a readable ``repr``. A plain function of progress serves wherever a
    schedule does; `treadle.schedules.of` makes one of it that can be scaled and followed by another.

    Example:
        >>> from treadle.schedules import constant, linear
        >>> warm = linear(0.0, 1.0).then(constant(1.0), at="4 steps") * 0.1
        >>> [round(warm(Progress(Duration.parse("10 steps"), steps=steps)), 3) for steps in (0, 2, 4, 9)]
        [0.0, 0.05, 0.1, 0.1]
    """

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The value for the step after this progress."""

    def __str__(self) -> str:
        """As it would be written: ``cosine(peak=0.1, warmup='5 steps')``; one of the user's own as it says itself."""
        if not type(self).__name__.startswith("_"):
            return repr(self)
        words = ", ".join(f"{name}={_written(value)}" for name, value in vars(self).items() if value is not None)
        return f"{_snake(type(self).__name__)}({words})"

    def then(self, after: Function, at: str) -> Schedule:
        """This schedule up to `at`, and another one from there on.

        Each has its part of the run for the whole: where no length of its own is given, this one spans what is before `at`, and the
        other what is left. The other counts from `at`; so does an `at` inside of it.

        Args:
            after: a schedule, or a function of progress.
            at: where it begins, such as ``"10 epochs"``, counted from where this one begins. Past the end of the run it never does.

        Raises:
            ConfigError: `after` cannot be called, or `at` has no unit.

        Example:
            >>> from treadle.schedules import cosine, linear
            >>> two = linear(0.0, 1.0).then(cosine(1.0), at="2 epochs")
            >>> two(Progress(Duration.parse("6 epochs"), epoch_size=8, epoch_steps=2, epoch_samples=8, steps=8, samples=32, epochs=4))
            0.5
        """
        return _Then(self, of(after), Duration.parse(at))

    def __mul__(self, scale: float) -> Schedule:
        """The same, each value multiplied by a number."""
        return _Scaled(self, number("the scale of a schedule", scale)) if isinstance(scale, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def check(self, progress: Progress) -> None:
        """See before the run that every part of it can be told.

        Args:
            progress: the run's, at its beginning or where it goes on.

        Raises:
            ConfigError: a length cannot be told for this data.
        """
        self(progress)


def of(function: Function) -> Schedule:
    """A schedule that can be scaled and followed by another, from any function of progress.

    Args:
        function: takes a `Progress`, returns a number.

    Raises:
        ConfigError: it cannot be called.

    Example:
        >>> decay = of(lambda progress: 1 - progress.fraction) * 0.1
        >>> decay(Progress(Duration.parse("10 steps"), steps=5))
        0.05
    """
    if isinstance(function, type) or not callable(function):
        raise ConfigError(f"a schedule must be a callable of the run's progress, such as treadle.schedules.constant(0.1); got {function!r}")
    return function if isinstance(function, Schedule) else _Function(function)


@dataclass(frozen=True)
class _Function(Schedule):
    function: Function

    def __str__(self) -> str:
        return str(getattr(self.function, "__qualname__", self.function))

    def __call__(self, progress: Progress) -> float:
        return self.function(progress)


@dataclass(frozen=True)
class _Scaled(Schedule):
    schedule: Schedule
    scale: float

    def __str__(self) -> str:
        return f"{self.scale:g} * {self.schedule}"

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress) * self.scale

    def check(self, progress: Progress) -> None:
        self.schedule.check(progress)


@dataclass(frozen=True)
class _Then(Schedule):
    before: Schedule
    after: Schedule
    at: Duration

    def __str__(self) -> str:
        return f"{self.before}.then({self.after}, at='{self.at}')"

    def __call__(self, progress: Progress) -> float:
        start = _start(self.at, progress.duration, progress.epoch_size, progress.epoch_steps, progress.epoch_samples)
        if self.at.count(progress) < 1:
            return self.before(_until(self.at, progress))
        return self.after(start.moved(progress))

    def check(self, progress: Progress) -> None:
        known = (progress.epoch_size, progress.epoch_steps, progress.epoch_samples)
        self.before.check(Progress(self.at, *known))
        self.after.check(_start(self.at, progress.duration, *known).moved(Progress(progress.duration, *known)))


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"'{value}'" if isinstance(value, Duration) else f"{value:.12g}" if isinstance(value, float) else repr(value)


def _snake(name: str) -> str:
    """``_StepDecay`` -> ``step_decay``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.lstrip("_")).lower()


# --- a part of a run, as if it were a whole one ---


@dataclass(frozen=True)
class _Start:
    """Where a part begins, in every unit, and how long it is.

    Args:
        rest: the length of the part.
        steps: optimizer steps before it.
        samples: samples before it, None where only the run itself finds out.
        positions: positions of epochs before it, None where nobody knows how long an epoch is.
    """

    rest: Duration
    steps: int
    samples: int | None
    positions: int | None

    def moved(self, progress: Progress) -> Progress:
        """A run's progress, counted from here."""
        steps = max(0, progress.steps - self.steps)
        known = (self.rest, progress.epoch_size, progress.epoch_steps, progress.epoch_samples)
        # Of data that does not say how many samples it has, as many a step as so far.
        before = self.samples if self.samples is not None else progress.samples * self.steps // max(1, progress.steps)
        samples = max(0, progress.samples - before)
        if self.positions is None or not progress.epoch_size:
            return _WithoutEpochs(*known, steps, samples)
        done = progress.epochs * progress.epoch_size + progress.into_epoch
        return Progress(*known, steps, samples, *divmod(max(0, done - self.positions), progress.epoch_size))


class _WithoutEpochs(Progress):
    """Progress of a part that began in some epoch of which nobody knows where it ends."""

    @property
    def epochs(self) -> int:
        raise ConfigError("a schedule after another one cannot be told in epochs for data without a length; give its lengths in steps")

    @epochs.setter
    def epochs(self, value: int) -> None:
        """Nobody knows."""


def _until(at: Duration, progress: Progress) -> Progress:
    """The same progress, of a run that ends there."""
    known = (at, progress.epoch_size, progress.epoch_steps, progress.epoch_samples, progress.steps, progress.samples)
    return _WithoutEpochs(*known) if isinstance(progress, _WithoutEpochs) else Progress(*known, progress.epochs, progress.into_epoch)


@lru_cache(maxsize=256)  # asked at each step, always the same
def _start(at: Duration, duration: Duration, size: int | None, steps: int | None, samples: int | None) -> _Start:
    """Where a part that begins at some length begins.

    Raises:
        ConfigError: that cannot be told for this data.
    """
    in_epoch = {"epochs": 1 if size else None, "steps": steps, "samples": samples}
    per_epoch = in_epoch[at.unit]
    if not size or not steps or not per_epoch:
        Progress(duration, size, steps, samples).steps_in(at)  # which raises where that is not in steps
        return _Start(_rest(duration, at.value if duration.unit == "steps" else None), int(at.value), None, None)
    epochs = at.value / per_epoch
    begin = math.ceil(epochs * steps)
    positions = math.ceil(epochs * size)
    before = math.ceil(epochs * samples) if samples else None
    told = {"epochs": Fraction(positions, size), "steps": Fraction(begin), "samples": None if before is None else Fraction(before)}
    return _Start(_rest(duration, told[duration.unit]), begin, before, positions)


def _rest(duration: Duration, before: Fraction | None) -> Duration:
    """What is left of a run; one unit where nothing is."""
    if before is None:
        raise ConfigError(f"what is left of '{duration}' cannot be told for data without a length; give it in steps")
    return Duration(duration.value - before if duration.value > before else Fraction(1), duration.unit)
