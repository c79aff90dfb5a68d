"""The console of a notebook: one output below the cell, with the progress bar and the table of epochs, redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from treadle.core.when import Progress
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
    """Shows a run below its cell."""

    live = True

    def __init__(self) -> None:
        self._display = Display()
        self._lines: list[str] = []
        self._rows: list[tuple[Row, dict[str, float]]] = []
        self._place, self._done, self._facts = "", 0.0, ""

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin, with the table of a run that goes on."""
        for row in rows:
            self._take(row)
        self._draw()

    def write(self, row: Row) -> None:
        """Show the row of an epoch or an evaluation as a line of the table."""
        if self._take(row):
            self._draw()

    def tick(self, progress: Progress, loss: float, rate: float | None, left: float | None, doing: str) -> None:
        """Move the bar; see `treadle.log.console.Console.tick`."""
        self._place, self._done, self._facts = place(progress), progress.fraction, doing or facts(loss, rate, left)
        self._draw()

    def say(self, text: str) -> None:
        """Show a line; the same line once."""
        if text not in self._lines:
            self._lines.append(text)
            self._draw()

    def close(self) -> None:
        """End; what was shown stays."""

    def _take(self, row: Row) -> bool:
        if is_shown(row):
            self._rows.append((row, shown(row)))
        return is_shown(row)

    def _draw(self) -> None:
        self._display.show({"text/html": self._html(), "text/plain": self._text()})

    def _columns(self) -> list[str]:
        return in_order(dict.fromkeys(name for _, values in self._rows for name in values))

    def _html(self) -> str:
        columns = self._columns()
        parts = [f"<div{_WARNING if line.startswith('warning') else ''}>{escape(line)}</div>" for line in self._lines]
        if self._place:
            bar = f'<progress value="{self._done:.4f}" max="1" style="width:20em"></progress>'
            parts.append(f"<div>{escape(self._place)} {bar} {self._done:.0%} {escape(self._facts)}</div>")
        if self._rows:
            body = [_row("td", cells(row, values, columns)) for row, values in self._rows]
            parts.append(f"<table>{_row('th', heads(columns))}{''.join(body)}</table>")
        return "".join(parts)

    def _text(self) -> str:
        """The same where there is no HTML, such as a notebook turned into text."""
        columns = self._columns()
        table = [heads(columns), *(cells(row, values, columns) for row, values in self._rows)] if self._rows else []
        progress = [f"{self._place} {self._done:.0%} {self._facts}"] if self._place else []
        return "\n".join([*self._lines, *progress, *("  ".join(cell.rjust(10) for cell in line) for line in table)])


_WARNING = ' style="color:#b58900"'


def _row(kind: str, texts: list[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"
