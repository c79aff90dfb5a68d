"""Tables and JSON on standard output: tables are drawn with rich on a terminal, the title and tab-separated lines elsewhere."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON object on a line; a number that JSON has no word for, such as NaN, is null."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = (), spare: Sequence[str] | None = None
) -> None:
    """Print a table.

    Args:
        title: a line above it; none where it is empty.
        columns: their heads: the first column holds names, the others numbers. Without heads all of it is text.
        rows: the cells.
        text: of the further columns, those that hold text.
        spare: makes the table as narrow as the terminal: long texts are cut in the middle, then these columns are left out,
            the first of them first, and a line says which. Elsewhere all of it is written. Unless told, long cells are folded.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(f"{title}\n" if title else "")
        for row in [columns, *rows] if columns else rows:
            sys.stdout.write("\t".join(row) + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, left_out = Console(), list[str]()
    if spare is not None:
        columns, rows, left_out = _fitted(columns, rows, text, spare, console.width)
    table = Table(show_header=bool(columns))
    for place, column in enumerate(columns):
        head = _broken(column) if spare is not None else column
        table.add_column(escape(head), justify="right" if place and column not in text else "left", overflow="fold", no_wrap=spare is not None)
    for row in rows:
        table.add_row(*map(escape, row))
    if title:
        console.print(title, highlight=False, markup=False)
    console.print(table)
    if left_out:
        console.print(f"not shown, for lack of columns: {', '.join(left_out)}", style="dim", highlight=False, markup=False)


_NARROWEST = 16
"""Columns that a text is cut to at most, so that it can still be told from others."""


def _fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str], spare: Sequence[str], room: int
) -> tuple[list[str], list[list[str]], list[str]]:
    """The columns and rows that are no wider than the terminal, and the heads of the columns that were left out."""
    from rich.cells import cell_len

    left_out: list[str] = []
    while True:
        places = [place for place, column in enumerate(columns) if column not in left_out]
        heads = {place: max(map(cell_len, _broken(columns[place]).split("\n"))) for place in places}
        widths = {place: max([heads[place], *(cell_len(row[place]) for row in rows)]) for place in places}
        soft = [place for place in places if not place or columns[place] in text]
        over = sum(widths.values()) + 3 * len(places) + 1 - room
        while over > 0 and (widest := max(soft, key=lambda place: widths[place], default=None)) is not None:
            if widths[widest] <= max(_NARROWEST, heads[widest]):
                break
            widths[widest], over = widths[widest] - 1, over - 1
        further = [column for column in spare if column in columns and column not in left_out]
        if over <= 0 or not further:
            return [columns[place] for place in places], [[elided(row[place], widths[place]) for place in places] for row in rows], left_out
        left_out.append(further[0])


def elided(text: str, width: int) -> str:
    """A text of at most so many columns: a longer one without its middle.

    Example:
        >>> elided("results/a-very-long-name/001", 16)
        'results...me/001'
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    end = ""
    for letter in reversed(text):
        if cell_len(letter + end) > (width - 3) // 2:
            break
        end = letter + end
    return f"{set_cell_size(text, width - 3 - cell_len(end))}...{end}"


def _broken(head: str) -> str:
    """A long head on lines of its own: ``valid/`` over ``accuracy``."""
    return re.sub(r"(?<=[/.])(?=.)|(?<=\w) (?=\w)", "\n", head) if len(head) > _HEAD else head


_HEAD = 9
"""Columns of a head that stays on one line."""
