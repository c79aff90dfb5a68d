"""Tables in the terminal: drawn with rich on a terminal, the title and tab-separated lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence


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
    from rich.table import Table

    table = Table(show_header=bool(columns))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(title, highlight=False, markup=False)
    console.print(table)
