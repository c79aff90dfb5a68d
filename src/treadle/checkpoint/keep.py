"""Which checkpoints stay: a pure function of what is known about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """A checkpoint, as far as keeping it goes.

    Args:
        step: optimizer steps done when it was saved.
        value: the value by which the best is chosen, None where it was not measured at that step or is NaN.
        milestone: how many whole times `CheckpointConfig.keep_every` fitted into the run so far.
    """

    step: int
    value: float | None = None
    milestone: int = 0


def best_first(records: Iterable[Record], mode: str) -> list[Record]:
    """The records that have a value, the best first; of equals, the earlier."""
    sign = -1.0 if mode == "max" else 1.0
    measured = [(sign * record.value, record.step, record) for record in records if record.value is not None and record.value == record.value]
    return [record for _, _, record in sorted(measured, key=lambda item: item[:2])]


def kept(records: Iterable[Record], keep_last: int, keep_best: int, mode: str, protected: Iterable[int] = ()) -> set[int]:
    """The steps whose checkpoints stay.

    Args:
        records: all there are.
        keep_last: how many of the newest stay, at least 1.
        keep_best: how many of the best stay, at least 1.
        mode: "min" or "max": what is best.
        protected: steps that stay in any case, such as the one resumed from.

    Returns:
        steps out of `records`; always the newest, the best, the protected ones, and the first that reached each milestone.

    Example:
        >>> sorted(kept([Record(1, 0.9), Record(2, 0.5), Record(3, 0.7)], 1, 1, "max"))
        [1, 3]
    """
    found = sorted(records, key=lambda record: record.step)
    newest = [record.step for record in found[-max(1, keep_last) :]]
    best = [record.step for record in best_first(found, mode)[: max(1, keep_best)]]
    first: dict[int, int] = {}
    for record in found:
        if record.milestone:
            first.setdefault(record.milestone, record.step)
    return {*newest, *best, *first.values(), *({record.step for record in found} & set(protected))}
