"""The console: a progress bar and a table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.core.when import Progress
from treadle.log.writer import Row

_HEADS = {"time/epoch_s": "seconds"}
_FIRST = ("train/epoch_loss", "train/", "valid/", "time/epoch_s")


class Console:
    """Shows a run to a person.

    Args:
        style: "rich" (a bar that moves, tables), "plain" (a line for each epoch or evaluation), "quiet", or "auto":
            rich on a terminal, plain elsewhere.
    """

    def __init__(self, style: str = "auto") -> None:
        self._style = ("rich" if sys.stdout.isatty() else "plain") if style == "auto" else style
        self._bar: Any = None
        self._task: Any = None
        self._columns: list[str] = []
        self._known: set[str] = set()  # the columns, with those that did not fit
        self._spoke = time.monotonic()

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin; what was shown before is not shown again."""
        if self._style == "rich":
            self._bar = _bar()
            self._task = self._bar.add_task("", total=1.0, facts="")
            self._bar.start()

    def write(self, row: Row) -> None:
        """Show the row of an epoch or an evaluation as a line of the table."""
        if self._style == "quiet" or not any(name.startswith("valid/") or name == "train/epoch_loss" for name in row):
            return
        values = {name: value for name, value in row.items() if _shown(name, row)}
        columns = self._columns
        if not set(values) <= self._known:
            self._known = set(values)
            columns = self._columns = self._fitting(_ordered(values))
            self._print(_line(["epoch", "step", *(_head(name) for name in columns)], columns), "bold")
        cells = [f"{row['epoch']:.4g}", str(row["step"]), *(_number(name, values[name]) if name in values else "" for name in columns)]
        self._print(_line(cells, columns))

    def tick(self, progress: Progress, loss: float, rate: float | None, left: float | None) -> None:
        """Move the bar.

        Args:
            progress: where the run is.
            loss: the newest fetched training loss.
            rate: samples a second, None before it is known.
            left: estimated seconds to the end, None before there is an estimate.
        """
        if self._bar is None:
            self._tick_plainly(progress, loss, left)
            return
        facts = [
            f"loss {loss:.4f}" if loss == loss else "",
            f"{rate:,.0f} samples/s" if rate else "",
            f"ETA {_clock(left)}" if left is not None else "",
        ]
        self._bar.update(self._task, completed=progress.fraction, description=_place(progress), facts="  ".join(filter(None, facts)))
        self._bar.refresh()

    def _tick_plainly(self, progress: Progress, loss: float, left: float | None) -> None:
        """Where there is no bar: a sign of life a minute, so that a long epoch is not silent."""
        now = time.monotonic()
        if self._style == "plain" and now - self._spoke > 60:
            self._print(f"{_place(progress)}, step {progress.steps:,}, loss {loss:.4f}, ETA {'?' if left is None else _clock(left)}")

    def say(self, text: str) -> None:
        """Show a line."""
        if self._style != "quiet" or text.startswith("warning"):
            self._print(text, "yellow" if text.startswith("warning") else None)

    def close(self) -> None:
        """End; leave the bar where it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _fitting(self, columns: list[str]) -> list[str]:
        """As many columns as the terminal is wide; a row that wraps cannot be read."""
        room = self._bar.console.width if self._bar is not None else 10_000
        while len(columns) > 1 and sum(_widths(columns)) + 2 * (len(columns) + 1) > room:
            columns = columns[:-1]
        return columns

    def _print(self, text: str, style: str | None = None) -> None:
        self._spoke = time.monotonic()
        if self._style != "rich":
            print(text, file=sys.stderr if text.startswith("warning") else sys.stdout, flush=True)
        elif self._bar is not None:
            self._bar.console.print(text, style=style, highlight=False, markup=False)
        else:
            from rich.console import Console as Terminal

            Terminal().print(text, style=style, highlight=False, markup=False)


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.fields[facts]}"))
    # Redrawn by hand, a few times a second: a refresh thread of its own would cost the training loop.
    return Progress(*columns, auto_refresh=False, expand=True)


def _place(progress: Progress) -> str:
    length = progress.duration
    if length.unit == "epochs":
        whole = length.value.denominator == 1
        now = float(min(progress.epochs + 1, int(length.value))) if whole else min(progress.epoch, float(length.value))
        return f"epoch {now:g}/{int(length.value)}" if whole else f"epoch {now:.2f}/{float(length.value):g}"
    done = progress.steps if length.unit == "steps" else progress.samples
    return f"{length.unit[:-1]} {done:,}/{int(length.value):,}"


def _shown(name: str, row: Row) -> bool:
    """Numbers of an epoch or an evaluation; of what is logged by the window and by the epoch, the epoch's mean."""
    by_epoch = f"train/epoch_{name.removeprefix('train/')}"
    of_epoch = name.startswith(("train/", "valid/")) and name != "train/loss" and by_epoch not in row
    return isinstance(row[name], (int, float)) and (of_epoch or name == "time/epoch_s")


def _ordered(values: Iterable[str]) -> list[str]:
    def rank(name: str) -> int:
        return next(place for place, start in enumerate(_FIRST) if name.startswith(start))

    return sorted(values, key=rank)


def _head(name: str) -> str:
    return _HEADS.get(name, name.replace("train/epoch_", "train/"))


def _widths(columns: list[str]) -> list[int]:
    return [7, 8, *(max(10, len(_head(name))) for name in columns)]


def _line(cells: list[str], columns: list[str]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, _widths(columns), strict=True))


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name.startswith("time/") else f"{value:.4g}" if abs(value) >= 1000 or 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
