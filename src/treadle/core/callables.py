"""Functions that a run calls: one of which a call runs nothing, such as a generator, is refused."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from treadle.core.errors import UsageError

AT_ITS_END = "it comes from a next() on an iterator that is at its end: make a new iterator, or give next() a default"
"""Where a StopIteration out of a user's function is from, and what to do."""


def check_runs(function: Any, what: str) -> None:
    """Raise where a call of a function would run nothing of it, and nobody would see that.

    Args:
        function: what is going to be called.
        what: what it is, for the message, such as ``"the step"``.

    Raises:
        UsageError: it is a generator, or asynchronous.
    """
    kind = "has a yield in it" if isgeneratorfunction(function) or isasyncgenfunction(function) else ""
    if iscoroutinefunction(function):
        kind = "is asynchronous"
    if kind:
        name = getattr(function, "__qualname__", None) or repr(function)
        raise UsageError(f"{what} {name} {kind}, so that a call runs nothing of it; give a plain function, which does its work and returns")


def ended_in(who: str) -> UsageError:
    """The error in place of a StopIteration, which Python takes for the end of the loop, since that is a generator.

    Args:
        who: which function raised it.
    """
    return UsageError(f"{who} raised StopIteration, which Python takes for the end of a loop; {AT_ITS_END}")
