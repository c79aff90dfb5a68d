"""Tables and JSON on standard output: tables are drawn with rich on a terminal, the title and tab-separated lines elsewhere."""

from __future__ import annotations

import json
import math
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


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        title: a line above it.
        columns: their heads: the first column holds names, the others numbers. Without heads all of it is text.
        rows: the cells.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(f"{title}\n")
        for row in [columns, *rows] if columns else rows:
            sys.stdout.write("\t".join(row) + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=bool(columns))
    for place, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.print(title, highlight=False, markup=False)
    console.print(table)
