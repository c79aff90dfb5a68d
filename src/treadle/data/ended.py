"""StopIteration out of a user's function: Python takes it for the end of the data, and a run would end there as if all were well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from treadle.core.callables import AT_ITS_END
from treadle.core.errors import DataError


def ended(what: str) -> DataError:
    """The error in its place.

    Args:
        what: which function raised it.
    """
    return DataError(f"{what} raised StopIteration, which would end the epoch in silence; {AT_ITS_END}")


def leaked(error: StopIteration, iterator: Iterator[Any]) -> str:
    """The function out of which a StopIteration came that nobody meant as the end of an iterator; empty where it is the end.

    An iterator of C raises it in no Python frame, one of Python in its ``__next__``; what `map` or `filter` calls raises it in another.

    Args:
        error: as it was caught around ``next(iterator)``.
        iterator: the one that was asked.
    """
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    if below is None:
        return ""
    code, own = below.tb_frame.f_code, getattr(type(iterator).__next__, "__code__", None)
    return "" if code is own or code.co_name == "__next__" else code.co_qualname
