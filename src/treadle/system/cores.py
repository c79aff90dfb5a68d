"""Cores: how many this process may use, and how many loading processes that makes."""

from __future__ import annotations

import os

_MOST = 8
"""Loading processes that `"auto"` makes at most."""


def cores() -> int:
    """Cores of the machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loading(workers: int | str) -> int:
    """Loading processes of a value of `machine.workers`.

    Example:
        >>> loading(3), 1 <= loading("auto") <= 8
        (3, True)
    """
    return min(_MOST, cores()) if workers == "auto" else int(workers)


def are_free(workers: int | str) -> bool:
    """Whether one more loading process would have a core of its own; the training process waits for them, and needs none meanwhile.

    Example:
        >>> are_free(10**6)
        False
    """
    return max(1, loading(workers)) < cores()
