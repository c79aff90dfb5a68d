"""An outlier: the one step that took as long as many others, for something that a run does once."""

from __future__ import annotations

from dataclasses import replace

from treadle.profile.measured import Measured
from treadle.profile.phases import LOGGING

_SHARE, _TIMES = 0.25, 5
"""Share of all the time, and times the next longest step, from which a step is one."""


def outlier(measured: Measured) -> int | None:
    """The index in `step_s` of the only step that is by far the longest, if there is one.

    Example:
        >>> from types import SimpleNamespace
        >>> outlier(SimpleNamespace(step_s=[1.0, 9.0, 1.0])), outlier(SimpleNamespace(step_s=[1.0, 9.0, 9.0]))
        (1, None)
    """
    if len(measured.step_s) < 3:
        return None
    second, longest = sorted(measured.step_s)[-2:]
    found = longest >= _SHARE * sum(measured.step_s) and longest >= _TIMES * second
    return measured.step_s.index(longest) if found else None


def without(measured: Measured, index: int) -> tuple[Measured, dict[str, float]]:
    """What was measured without one step, and the seconds of that step's phases."""
    begin = sum(measured.step_s[:index])
    end = begin + measured.step_s[index]
    spent: dict[str, float] = {}
    for name, start, stop in measured.timeline:
        if (inside := min(stop, end) - max(start, begin)) > 0:
            spent[name] = spent.get(name, 0.0) + inside
    rest = replace(
        measured,
        steps=measured.steps - 1,
        samples=round(measured.samples * (measured.steps - 1) / measured.steps),
        wall_s=measured.wall_s - sum(spent.values()),
        phases={name: max(0.0, seconds - spent.get(name, 0.0)) for name, seconds in measured.phases.items()},
        rows=max(0, measured.rows - (LOGGING in spent)),
    )
    return rest, spent
