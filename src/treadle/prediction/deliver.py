"""Where predictions go: to memory, to a file, or to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError, did_you_mean
from treadle.data.order import Indices
from treadle.prediction.files import FORMATS, write
from treadle.prediction.outputs import Part
from treadle.prediction.rows import joined

Target = str | Path | Callable[[Indices, Any], object] | None


def delivered(parts: Iterable[Part], to: Target) -> Any:
    """Read all outputs, and bring them to a place, see `Trainer.predict`."""
    if to is None:
        return joined(parts)
    if not callable(to):
        return write(parts, Path(to))
    for part in parts:
        to(part.ids, part.output)
    return None


def check_target(to: object) -> None:
    """Raise where predictions cannot go to a place; asked before anything is predicted.

    Raises:
        UsageError: it is neither a function, nor a file of a format that is known.
    """
    if to is None or callable(to):
        return
    if not isinstance(to, (str, Path)):
        raise UsageError(f"to must be the path of a file, or a function of (ids, output), got {to!r}")
    suffix = Path(to).suffix
    if suffix not in FORMATS:
        raise UsageError(f"predictions cannot be written to {str(to)!r}: unknown ending {suffix!r}{did_you_mean(suffix, FORMATS)}")
    if Path(to).is_dir():
        raise UsageError(f"predictions cannot be written to {str(to)!r}: it is a folder")
