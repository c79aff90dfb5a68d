"""A bug of our own: told from the user's by where it was raised, and said so."""

from __future__ import annotations

import traceback
from pathlib import Path

from treadle.core.errors import TreadleError
from treadle.core.places import PACKAGE, is_standard


def add_report_note(error: BaseException, folder: object = None) -> None:
    """Where an exception was raised by Treadle itself, say so in a note, and where to report it.

    An error of ours that is meant, one of the disk's or of a file that Python cannot read, one with a note, and one that comes from the
    user's code or a library are left as they are.

    Args:
        error: what was raised.
        folder: the run folder, where there is one.
    """
    if isinstance(error, (TreadleError, OSError, MemoryError, SyntaxError)) or not isinstance(error, Exception):
        return
    place = _raised_by_us(_before_a_generator(error))
    if place is None or getattr(error, "__notes__", None):  # what has a note is explained already
        return
    files = f" and, of {folder}, run.json, config.yaml and the last rows of metrics.jsonl" if folder else ""
    error.add_note(
        f"raised inside Treadle ({place}). If that line calls something of yours, the cause is there; else this is a bug of Treadle's: "
        f"please report it where you got Treadle from, with this traceback{files}"
    )


def _before_a_generator(error: Exception) -> Exception:
    """What was raised: out of a generator, such as our loop, a StopIteration comes as a RuntimeError that Python raises."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, StopIteration) else error


def _raised_by_us(error: Exception) -> str | None:
    """File and line, where the innermost frame that is not the standard library's is ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_standard(frame.filename)]
    if not frames or not Path(frames[-1].filename).is_relative_to(PACKAGE):
        return None
    path = Path(frames[-1].filename).relative_to(PACKAGE)
    return None if path.parts[0] in ("recipes", "scaffold") else f"{path}, line {frames[-1].lineno}"
