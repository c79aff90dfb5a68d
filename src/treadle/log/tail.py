"""The ends of a journal, without what lies between: a list of many runs cannot wait until each of them is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import BinaryIO

from treadle.core.errors import RunFolderError
from treadle.log.writer import Row

TAIL = 64 * 1024
"""Bytes at the end of a journal: some hundreds of rows."""
_LONGEST = 16 * 1024 * 1024
"""A row that is longer is not looked for."""


def read_last_rows(path: Path, size: int = TAIL) -> list[Row]:
    """The last rows of a journal.

    Args:
        path: `metrics.jsonl`; one that is missing has no rows.
        size: bytes to read; more where not even one row fits into them.

    Raises:
        RunFolderError: one of the rows is damaged, or the file cannot be read.

    Example:
        >>> read_last_rows(Path("nowhere/metrics.jsonl"))
        []
    """
    try:
        with open(path, "rb") as file:
            end = file.seek(0, 2)
            while True:
                start = max(0, end - size)
                file.seek(start)
                lines = file.read(end - start).split(b"\n")[:-1]  # a torn last row is left out
                whole = lines[1:] if start else lines
                if whole or not start or size > _LONGEST:
                    break
                size *= 4
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    rows = [_row(line) for line in whole]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        raise RunFolderError(f"a row near the end of {path} is damaged")
    return found


def first_wall(path: Path) -> float | None:
    """When the first row of a journal was written, in seconds since 1970; None where that cannot be told."""
    try:
        with open(path, "rb") as file:
            return _wall(file.readline(TAIL))
    except OSError:
        return None


def wall_before(path: Path, time: float) -> float | None:
    """When the newest row up to a moment was written; None where there is none.

    Rows are in the order of time, so this halves the file again and again, and reads some twenty rows of a million.

    Args:
        path: `metrics.jsonl`.
        time: seconds since 1970.
    """
    try:
        with open(path, "rb") as file:
            low, high, found = 0, file.seek(0, 2), None
            while low < high:
                middle = (low + high) // 2
                wall, after = _next_wall(file, middle)
                if wall is None or wall > time:
                    high = middle
                else:
                    low, found = max(after, middle + 1), wall
            return found
    except OSError:
        return None


def _next_wall(file: BinaryIO, place: int) -> tuple[float | None, int]:
    """The time of the first row that begins at a place or after it, and where that row ends."""
    file.seek(max(0, place - 1))
    if place:
        file.readline(_LONGEST)
    line = file.readline(_LONGEST)
    return _wall(line), file.tell() - len(line) + 1


def _wall(line: bytes) -> float | None:
    row = _row(line) if line.endswith(b"\n") else None
    wall = row.get("wall") if row else None
    return float(wall) if isinstance(wall, (int, float)) and math.isfinite(wall) else None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
