"""What a writer is: three methods, and two more for those that show a run to a person."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]
"""One logged step: ``step``, ``epoch``, ``samples``, ``wall``, and values under their names."""

COUNTERS = ("step", "epoch", "samples", "wall")


class Writer(Protocol):
    """Where rows go. A writer that raises is reported and dropped; the run goes on.

    One that shows a run to a person says ``live = True``: it is also opened where a run that is over is started again. It may
    have ``say(text)``, and ``tick(progress, loss, rate, left, doing)``, which is called a few times a second; see
    `treadle.log.console.Console`.

    Example:
        >>> class Names:
        ...     def open(self, folder, rows): self.seen = set()
        ...     def write(self, row): self.seen |= set(row)
        ...     def close(self): print(sorted(self.seen))
    """

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin.

        Args:
            folder: the run folder.
            rows: the journal so far, of a run that continues. A view is made anew from them, so that it has neither
                gaps nor rows that the run took back.
        """

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """End; called once, also after a failure."""


def is_clock(name: str) -> bool:
    """Whether a value says how fast it went, or what it took, and not how well: equal runs differ in it."""
    return name.startswith(("time/", "throughput/", "memory/"))


def scalars(row: Row) -> dict[str, float]:
    """The values of a row that are single numbers."""
    return {name: value for name, value in row.items() if name not in COUNTERS and isinstance(value, (int, float))}
