"""When: lengths with a unit ("10 epochs"), and where a run is.

Whether something is due is integer arithmetic on counters, so it is exact at any length, the same before
and after a resume, and free of a clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from treadle.core.errors import ConfigError

_LONGEST = 10**18
UNITS = ("steps", "samples", "epochs")
_LENGTH = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]{1,3})?|\.[0-9]+)\s*([a-z]+)\s*", re.IGNORECASE)
_SECONDS = {"second": 1, "seconds": 1, "s": 1, "minute": 60, "minutes": 60, "min": 60, "hour": 3600, "hours": 3600, "h": 3600}


@dataclass(slots=True)
class Progress:
    """Where a run is: counters that only grow, and the length they grow towards.

    Args:
        duration: the length of the whole run.
        epoch_size: positions in one epoch (samples; batches for ``treadle.Batches``), None where nobody knows.
        epoch_steps: optimizer steps in one epoch, None where nobody knows.
        epoch_samples: samples in one epoch, None where nobody knows.
        steps: optimizer steps done.
        samples: training samples used.
        epochs: epochs finished.
        into_epoch: positions of the current epoch already used.
    """

    duration: Duration
    epoch_size: int | None = None
    epoch_steps: int | None = None
    epoch_samples: int | None = None
    steps: int = 0
    samples: int = 0
    epochs: int = 0
    into_epoch: int = 0

    def advanced(self, samples: int, positions: int, ends_epoch: bool) -> Progress:
        """The progress one step later."""
        epochs, into = (self.epochs + 1, 0) if ends_epoch else (self.epochs, self.into_epoch + positions)
        known = (self.duration, self.epoch_size, self.epoch_steps, self.epoch_samples)
        return Progress(*known, self.steps + 1, self.samples + samples, epochs, into)

    def state_dict(self) -> dict[str, int]:
        """The counters, for a checkpoint."""
        return {"steps": self.steps, "samples": self.samples, "epochs": self.epochs, "into_epoch": self.into_epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Put back what `state_dict` gave."""
        self.steps, self.samples, self.epochs, self.into_epoch = (state[name] for name in ("steps", "samples", "epochs", "into_epoch"))

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the current one where its length is known."""
        return self.epochs + self.into_epoch / self.epoch_size if self.epoch_size else float(self.epochs)

    @property
    def fraction(self) -> float:
        """Share of the whole run that is done, from 0 to 1."""
        return min(1.0, self.duration.amount(self))

    def steps_in(self, length: Duration) -> float:
        """How many optimizer steps a length takes.

        Raises:
            ConfigError: the length is not in steps, and the data does not say how long an epoch is.
        """
        if length.unit == "steps":
            return float(length.value)
        in_epoch = 1 if length.unit == "epochs" else self.epoch_samples
        if not self.epoch_steps or not in_epoch:
            raise ConfigError(f"'{length}' cannot be told in steps, because this data does not say how long it is; give it in steps")
        return float(length.value) * self.epoch_steps / in_epoch

    @property
    def finished(self) -> bool:
        """Whether the whole duration is done."""
        return self.duration.count(self) >= 1


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of training, also used as a cadence: a number of steps, samples or epochs.

    Raises:
        ConfigError: from `parse`, where the text has no number, an unknown unit, or is not positive.

    Example:
        >>> Duration.parse("10 epochs")
        Duration.parse('10 epochs')
    """

    value: Fraction
    unit: str
    _n: int = field(init=False, repr=False, compare=False)  # numerator and denominator, which are asked for at every step
    _d: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_n", self.value.numerator)
        object.__setattr__(self, "_d", self.value.denominator)

    @classmethod
    def parse(cls, text: str | Duration) -> Duration:
        """Read ``"10 epochs"``, ``"1 epoch"``, ``"0.5 epochs"``, ``"5_000 steps"``, ``"1e6 samples"``."""
        if isinstance(text, Duration):
            return text
        number, unit = _split(text, "a number of steps, samples or epochs, such as '10 epochs' or '5000 steps'")
        unit = unit if unit.endswith("s") else unit + "s"
        if unit not in UNITS:
            raise ConfigError(f"{text!r} has the unknown unit {unit!r}; say '10 epochs', '5000 steps' or '1e6 samples'")
        if not 0 < number <= _LONGEST:
            raise ConfigError(f"{text!r} must be more than zero {unit}" if number <= 0 else f"{text!r} is longer than any run: 1e18 at most")
        if unit != "epochs" and number.denominator != 1:
            raise ConfigError(f"{text!r} must be a whole number of {unit}")
        return cls(number, unit)

    def count(self, progress: Progress) -> int:
        """How many whole times this length fits into what is done."""
        n, d = self._n, self._d
        if self.unit == "steps":
            return progress.steps // n
        if self.unit == "samples":
            return progress.samples // n
        if d != 1 and progress.epoch_size:
            return (progress.epochs * progress.epoch_size + progress.into_epoch) * d // (n * progress.epoch_size)
        return progress.epochs * d // n

    def amount(self, progress: Progress) -> float:
        """How many times this length fits into what is done, with the fraction."""
        done = progress.steps if self.unit == "steps" else progress.samples if self.unit == "samples" else progress.epoch
        return done / float(self.value)

    def due(self, before: Progress, after: Progress) -> bool:
        """Whether a multiple of this length was reached between two moments one step apart."""
        if self.unit == "steps":
            return after.steps % self._n == 0 and after.steps > before.steps
        if self._d == 1 and self.unit == "epochs" and after.epochs == before.epochs:
            return False
        return self.count(after) > self.count(before)

    def covers(self, progress: Progress) -> bool:
        """Whether all that is done lies within this length of the run's beginning."""
        if self.unit == "steps":
            return progress.steps <= self._n
        if self.unit == "samples":
            return progress.samples <= self._n
        if self._d != 1 and progress.epoch_size:
            return (progress.epochs * progress.epoch_size + progress.into_epoch) * self._d <= self._n * progress.epoch_size
        whole = progress.epochs * self._d
        return whole < self._n or (whole == self._n and not progress.into_epoch)

    def needs_epoch_size(self) -> bool:
        """Whether this length can only be told with a known number of samples in an epoch."""
        return self.unit == "epochs" and self.value.denominator != 1

    def __str__(self) -> str:
        number = str(self.value) if self.value.denominator == 1 else _decimal(self.value)
        return f"{number} {self.unit[:-1] if self.value == 1 else self.unit}"

    def __repr__(self) -> str:
        return f"Duration.parse({str(self)!r})"


def parse_seconds(text: str | float) -> float:
    """Seconds of a time such as ``"90 minutes"``, ``"2 hours"`` or a plain number of seconds.

    Raises:
        ConfigError: the text has no number, an unknown unit, or is not positive.
    """
    if isinstance(text, (int, float)):
        if not math.isfinite(text):
            raise ConfigError(f"{text!r} is not a time such as '90 minutes' or '2 hours'")
        number, unit = Fraction(text), "s"
    else:
        number, unit = _split(text, "a time such as '90 minutes' or '2 hours'")
    if unit not in _SECONDS:
        raise ConfigError(f"{text!r} has the unknown unit {unit!r}; say seconds, minutes or hours")
    if number <= 0:
        raise ConfigError(f"{text!r} must be more than zero")
    return float(number * _SECONDS[unit])


def _decimal(value: Fraction) -> str:
    """Exact, since every value was read from a decimal."""
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    return f"{Decimal(int(value * 10**digits)).scaleb(-digits):f}"


def _split(text: object, wanted: str) -> tuple[Fraction, str]:
    match = _LENGTH.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{text!r} is not {wanted}")
    return Fraction(match[1].replace("_", "")), match[2].lower()
