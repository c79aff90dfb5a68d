"""Where predictions go: to memory, to a file, or to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from treadle.core.errors import UsageError, did_you_mean
from treadle.data.order import Indices
from treadle.prediction.files import FORMATS, write
from treadle.prediction.outputs import Part
from treadle.prediction.rows import joined

Target = str | Path | Callable[[Indices, Any], object] | None


def delivered(parts: Iterable[Part], to: Target) -> Any:
    """Read all outputs, and bring them to a place, see `Trainer.predict`.

    Raises:
        UsageError: the data comes in an order of its own, and the place has no indices.
    """
    if to is None:
        return joined(_in_order(parts))
    if not callable(to):
        path = Path(to)
        return write(_in_order(parts) if path.suffix == ".npy" else parts, path)
    for part in parts:
        to(part.ids, part.output)
    return None


def _in_order(parts: Iterable[Part]) -> Iterator[Part]:
    """The same outputs, where they go to a place that has rows and no indices: who reads it takes row for row for the dataset's."""
    last = -1
    for part in parts:
        if part.ids[0] <= last or (np.diff(part.ids) <= 0).any():
            raise UsageError(
                "this data comes in an order of its own, such as a sampler's, or that of treadle.data.bucket, so the rows of the outputs "
                f"would not be those of the dataset (sample {part.ids[0]:,} is not in its place, or one after it); predict the dataset itself, "
                "or give to='outputs.jsonl' or a function of (ids, output), which have the indices"
            )
        last = part.ids[-1]
        yield part


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
