"""The console of a notebook: one output below the cell, with the progress bar and the table of epochs, redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from treadle.core.when import Progress
from treadle.log.waiting import Waiting
from treadle.log.words import cells, facts, heads, in_order, is_shown, place, shown
from treadle.log.writer import Row


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel; IPython is not imported to find out."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


class Display:
    """An output below the cell that can be replaced by another."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, bundle: dict[str, Any]) -> None:
        """Put contents in it, by media type."""
        from IPython import display

        if self._handle is None:
            self._handle = display.display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


class Notebook:
    """Shows a run below its cell: what there is to say and the bar in one output, the table in another, which changes seldom.

    Args:
        free: whether cores are free for more workers, where data is waited for.
    """

    live = True

    def __init__(self, free: bool = True) -> None:
        self._head, self._table = Display(), Display()
        self._lines: list[str] = []
        self._rows: list[tuple[Row, dict[str, float]]] = []
        self._place, self._done, self._facts = "", 0.0, ""
        self._waiting = Waiting(free)

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin, with the table of a run that goes on."""
        self._rows = [(row, shown(row)) for row in rows if is_shown(row)]
        self._draw_head()
        self._draw_table()

    def write(self, row: Row) -> None:
        """Show the row of an epoch or an evaluation as a line of the table."""
        self._waiting.add(row)
        if is_shown(row):
            self._rows.append((row, shown(row)))
            self._draw_table()
            if line := self._waiting.first_line():
                self.say(line)

    def tick(self, progress: Progress, loss: float, rate: float | None, left: float | None, doing: str) -> None:
        """Move the bar; see `treadle.log.console.Console.tick`."""
        self._place, self._done, self._facts = place(progress), progress.fraction, doing or facts(loss, rate, left)
        self._draw_head()

    def say(self, text: str) -> None:
        """Show a line; the same warning once."""
        if not (text.startswith("warning") and text in self._lines):
            self._lines.append(text)
            self._draw_head()

    def close(self) -> None:
        """End; what was shown stays, and what the run waited for is said."""
        if line := self._waiting.line():
            self.say(line)

    def _draw_head(self) -> None:
        page = [f"<div{_style(line)}>{escape(line)}</div>" for line in self._lines]
        text = list(self._lines)
        if self._place:
            bar = f'<progress value="{self._done:.4f}" max="1" style="width:20em"></progress>'
            page.append(f"<div>{escape(self._place)} {bar} {self._done:.0%} {escape(self._facts)}</div>")
            text.append(f"{self._place} {self._done:.0%} {self._facts}")
        self._head.show({"text/html": "".join(page), "text/plain": "\n".join(text)})

    def _draw_table(self) -> None:
        columns = in_order(dict.fromkeys(name for _, values in self._rows for name in values))
        lines = [heads(columns), *(cells(row, values, columns) for row, values in self._rows)] if self._rows else []
        page = "".join(_row("td" if number else "th", line) for number, line in enumerate(lines))
        text = "\n".join("  ".join(cell.rjust(10) for cell in line) for line in lines)
        self._table.show({"text/html": f"<table>{page}</table>", "text/plain": text})


def _style(text: str) -> str:
    if text.startswith("warning"):
        return ' style="color:#b58900"'
    return ' style="font-family:monospace; white-space:pre"' if "\n" in text else ""  # a table


def _row(kind: str, texts: list[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"
