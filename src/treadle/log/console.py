"""The console: a progress bar and a table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from treadle.core.when import Progress
from treadle.log.pace import TICK_S
from treadle.log.waiting import Waiting
from treadle.log.words import cells, facts, head, heads, in_order, is_shown, least, place, shown
from treadle.log.writer import Row

_BAR = 18
"""Columns that the bar itself, its percentage and the gaps need at least."""


class Console:
    """Shows a run to a person.

    Args:
        style: "rich" (a bar that moves, tables), "plain" (a line for each epoch or evaluation), "quiet", or "auto":
            rich on a terminal, plain elsewhere.
        free: whether cores are free for more workers, where data is waited for.
    """

    live = True

    def __init__(self, style: str = "auto", free: bool = True) -> None:
        self._style = ("rich" if _moves(sys.stdout) else "plain") if style == "auto" else style
        self._bar: Any = None
        self._task: Any = None
        self._columns: list[str] = []
        self._known: list[str] = []  # the columns, with those that did not fit
        self._warned: set[str] = set()
        self._spoke = time.monotonic()
        self._waiting = Waiting(free)

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin; what was shown before is not shown again."""

    def write(self, row: Row) -> None:
        """Show the row of an epoch or an evaluation as a line of the table."""
        self._waiting.add(row)
        if self._style == "quiet" or not is_shown(row):
            return
        values = shown(row)
        # What a handler logs now and then, and not with the first epoch, has no column: it would be empty most of the time.
        settled = "train/epoch_loss" in self._known
        new = [name for name in values if name not in self._known and (not settled or name.startswith("valid/"))]
        if new:
            self._known += new
            columns = self._fitting(in_order(self._known))
            if columns != self._columns:
                self._columns = columns
                self._print(_line(heads(columns), columns), "bold")
        self._print(_line(cells(row, values, self._columns), self._columns))
        if line := self._waiting.first_line():
            self.say(line)

    def tick(self, progress: Progress, loss: float, rate: float | None, left: float | None, doing: str) -> None:
        """Move the bar.

        Args:
            progress: where the run is.
            loss: the newest fetched training loss.
            rate: samples a second, None before it is known.
            left: estimated seconds to the end, None before there is an estimate.
            doing: what else than training takes place, such as "evaluating 500/5,000"; empty while it trains.
        """
        if self._style != "rich":
            self._tick_plainly(progress, loss, left, doing)
            return
        if self._bar is None:
            self._bar = _bar()
            self._task = self._bar.add_task("", total=1.0, facts="")
            self._bar.start()
        where = place(progress)
        room = self._bar.console.width - len(where) - _BAR
        self._bar.update(self._task, completed=progress.fraction, description=where, facts=doing[: max(0, room)] or facts(loss, rate, left, room))
        self._bar.refresh()

    def _tick_plainly(self, progress: Progress, loss: float, left: float | None, doing: str) -> None:
        """Where there is no bar: a sign of life a minute, so that a long epoch is not silent."""
        now = time.monotonic()
        if self._style == "plain" and now - self._spoke > 60:
            self._print(f"{place(progress)}, step {progress.steps:,}, {doing or facts(loss, None, left)}")

    def say(self, text: str) -> None:
        """Show a line; the same warning once."""
        warns = text.startswith("warning")
        if text in self._warned or (self._style == "quiet" and not warns):
            return
        if warns:
            self._warned.add(text)
        self._print(text, "yellow" if warns else None)

    def close(self) -> None:
        """End; leave the bar where it is, and say what the run waited for."""
        if line := self._waiting.line():
            self.say(line)
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _fitting(self, columns: list[str]) -> list[str]:
        """As many columns as the terminal is wide; a row that wraps cannot be read."""
        room = self._terminal().width if self._style == "rich" else 10_000
        dropped = []
        while len(columns) > 1 and sum(_widths(columns)) + 2 * (len(columns) + 1) > room:
            dropped.append(least(columns))
            columns = [name for name in columns if name != dropped[-1]]
        if dropped:
            self._print(f"not shown, for lack of columns: {', '.join(map(head, dropped))}", "dim")
        return columns

    def _print(self, text: str, style: str | None = None) -> None:
        self._spoke = time.monotonic()
        if self._style == "rich":
            self._terminal().print(text, style=style, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr if text.startswith("warning") else sys.stdout, flush=True)

    def _terminal(self) -> Any:
        """Where rich draws: above the bar, while there is one."""
        if self._bar is not None:
            return self._bar.console
        import rich

        return rich.get_console()


@contextmanager
def watching(text: str, style: str = "auto") -> Iterator[Callable[[int, int | None], None]]:
    """A bar for long work that is no run, on a terminal only; it is gone when the work is done.

    Args:
        text: what is being done.
        style: as of `Console`; "plain" and "quiet" show nothing.

    Yields:
        a function to be told how much is done, of how much (None where nobody knows).
    """
    if style in ("plain", "quiet") or not _moves(sys.stdout):
        yield lambda done, of: None
        return
    from rich.errors import LiveError
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, auto_refresh=False, transient=True)
    task, ticked = bar.add_task(text, total=None), float("-inf")

    def watch(done: int, of: int | None) -> None:
        nonlocal ticked
        if time.monotonic() - ticked >= TICK_S:
            ticked = time.monotonic()
            bar.update(task, completed=done, total=of, refresh=True)

    with suppress(LiveError):  # within a run, whose own bar is there
        bar.start()
    try:
        yield watch
    finally:
        bar.stop()


def _moves(stream: TextIO | None) -> bool:
    """Whether it is a terminal on which a line can be drawn again; where it was closed there is none."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), TextColumn("{task.fields[facts]}"))
    # Redrawn by hand, a few times a second: a refresh thread of its own would cost the training loop.
    return Progress(*columns, auto_refresh=False, expand=True)


def _widths(columns: list[str]) -> list[int]:
    return [7, 8, *(max(10, len(head(name))) for name in columns)]


def _line(cells: list[str], columns: list[str]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, _widths(columns), strict=True))
