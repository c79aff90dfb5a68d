"""Trace: a few steps under torch's profiler, for Perfetto, chrome://tracing and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

BEGIN = "treadle: "
"""How the names of phases begin in a trace."""


class Trace:
    """Records operators, and the phases around them.

    Args:
        device: where it is computed.
    """

    def __init__(self, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profiler: Any = profile(activities=activities, acc_events=True)
        self._range: Any = None

    def open(self, phase: str) -> None:
        """Begin to record, in a phase."""
        self._profiler.__enter__()
        self._enter(phase)

    def changed(self, before: str, after: str) -> None:
        """A phase ends, and another begins."""
        self._range.__exit__(None, None, None)
        self._enter(after)

    def close(self, path: Path) -> float:
        """End, and write the trace.

        Returns:
            seconds in which the GPU was busy; 0 where there is none.
        """
        self._range.__exit__(None, None, None)
        self._profiler.__exit__(None, None, None)
        self._profiler.export_chrome_trace(str(path))
        events = [event for event in self._profiler.events() or () if event.device_type == torch._C._autograd.DeviceType.CUDA]
        work = [event.time_range for event in events if not event.is_user_annotation and not event.name.startswith(BEGIN)]
        return union([(one.start, one.end) for one in work]) / 1e6

    def _enter(self, phase: str) -> None:
        self._range = record_function(BEGIN + phase)
        self._range.__enter__()


def union(stretches: list[tuple[float, float]]) -> float:
    """Length of what some stretches cover together.

    Example:
        >>> union([(0, 2), (1, 3), (5, 6)])
        4
    """
    covered: float = 0
    reached = float("-inf")
    for start, end in sorted(stretches):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered
