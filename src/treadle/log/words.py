"""Rows and progress as people read them: which values of a row are shown, in which order, under which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from treadle.core.when import Progress
from treadle.log.writer import Row

_HEADS = {"time/epoch_s": "seconds"}
_FIRST = ("train/epoch_loss", "train/", "valid/", "time/epoch_s")


def is_shown(row: Row) -> bool:
    """Whether a row is that of an epoch or of an evaluation: a line of the table."""
    return any(name.startswith("valid/") or name == "train/epoch_loss" for name in row)


def shown(row: Row) -> dict[str, float]:
    """The numbers of an epoch or an evaluation; of what is logged by the window and by the epoch, the epoch's mean."""
    return {name: value for name, value in row.items() if _is_shown(name, row)}


def in_order(names: Iterable[str]) -> list[str]:
    """Columns in the order of the table: the training loss, training, validation, seconds."""
    return sorted(names, key=lambda name: next(place for place, start in enumerate(_FIRST) if name.startswith(start)))


def heads(columns: Iterable[str]) -> list[str]:
    """The table's first line."""
    return ["epoch", "step", *map(head, columns)]


def cells(row: Row, values: Mapping[str, float], columns: Iterable[str]) -> list[str]:
    """One line of the table; what the row lacks is empty."""
    return [
        f"{row['epoch']:.2f}".rstrip("0").rstrip("."),
        str(row["step"]),
        *(number(name, values[name]) if name in values else "" for name in columns),
    ]


def head(name: str) -> str:
    """A column's name: that under which the value was logged, but for the clock's."""
    return _HEADS.get(name, name)


def least(columns: list[str]) -> str:
    """The column that can best be spared: the clock, what is measured in training only, what is of averaged weights; the last one first."""

    def rank(name: str) -> float:
        if name.startswith("time/"):
            return 0
        if name.startswith("train/") and name != "train/epoch_loss":
            return 2 if name.replace("train/", "valid/") in columns else 1
        return 2.5 if _is_of_average(name, columns) else 4 if name.endswith("loss") else 3

    return min(reversed(columns), key=rank)


def _is_of_average(name: str, columns: list[str]) -> bool:
    """Whether the same value of the raw weights has a column: ``valid/loss`` beside ``valid/ema/loss``."""
    start, _, leaf = name.rpartition("/")
    return f"{start.rpartition('/')[0]}/{leaf}" in columns


def number(name: str, value: float) -> str:
    """A value: four digits after the point, or four in all where it is very large or small."""
    return f"{value:.1f}" if name.startswith("time/") else f"{value:.4g}" if abs(value) >= 1000 or 0 < abs(value) < 1e-3 else f"{value:.4f}"


def place(progress: Progress) -> str:
    """Where a run is, in the unit of its length: ``epoch 3/10``."""
    length = progress.duration
    if length.unit == "epochs":
        whole = length.value.denominator == 1
        now = float(min(progress.epochs + 1, int(length.value))) if whole else min(progress.epoch, float(length.value))
        return f"epoch {now:g}/{int(length.value)}" if whole else f"epoch {now:.2f}/{float(length.value):g}"
    done = progress.steps if length.unit == "steps" else progress.samples
    return f"{length.unit[:-1]} {done:,}/{int(length.value):,}"


def facts(loss: float, rate: float | None, left: float | None, room: int = 1000) -> str:
    """What stands beside a progress bar.

    Args:
        loss: the newest training loss; NaN before there is one.
        rate: samples a second, None before it is known.
        left: estimated seconds to the end, None before there is an estimate.
        room: columns; the rate is left out first, then the loss.
    """
    known = [f"loss {loss:.4f}" if loss == loss else "", f"{rate:,.0f} samples/s" if rate else "", f"ETA {clock(left)}" if left is not None else ""]
    for chosen in (known, [known[0], known[2]], known[2:]):
        text = "  ".join(filter(None, chosen))
        if len(text) <= room:
            return text
    return ""


def clock(seconds: float) -> str:
    """A time: ``1:05``, or ``2:01:05`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _is_shown(name: str, row: Row) -> bool:
    by_epoch = f"train/epoch_{name.removeprefix('train/')}"
    of_epoch = name.startswith(("train/", "valid/")) and name != "train/loss" and by_epoch not in row
    return isinstance(row[name], (int, float)) and (of_epoch or name == "time/epoch_s")
