"""Curves as a sketch in the terminal, with plotille's dots."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

from treadle.log.curves import Curve, Panels

_COLOURS = ("cyan", "yellow", "green", "magenta", "red", "blue")
_HEIGHT = 9
_MARGIN = 11
_HUGE = 1e100
"""Beyond it, and NaN, no line is drawn: differences of such values are not numbers any more."""


def print_curves(panels: Panels, width: int | None = None) -> None:
    """Draw each panel below the other; where the output cannot show the dots, or there is nothing to draw, nothing.

    Args:
        panels: the curves.
        width: columns; the terminal's unless told, at most 100.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=width)
    if not _can_show_dots():
        return
    coloured = console.is_terminal and not console.no_color
    for name, curves in panels.items():
        finite = {label: _finite(curve) for label, curve in curves.items()}
        finite = {label: curve for label, curve in finite.items() if curve.steps}
        # Without colours two curves cannot be told apart: one below the other.
        for part in [finite] if coloured and finite else [{label: curve} for label, curve in finite.items()]:
            _print_panel(console, name, part, _limits(finite), min(console.width, 100))


def _limits(curves: dict[str, Curve]) -> tuple[float, float, int, int]:
    """The smallest and the largest value, the first and the last step."""
    values = [value for curve in curves.values() for value in curve.values]
    steps = [step for curve in curves.values() for step in (curve.steps[0], curve.steps[-1])]
    return min(values), max(values), min(steps), max(steps)


def _print_panel(console: Any, name: str, curves: dict[str, Curve], limits: tuple[float, float, int, int], width: int) -> None:
    import plotille
    from rich.text import Text

    low, high, first, last = limits
    room = (high - low) * 0.02 or abs(high) * 0.1 or 1.0  # the dots of the extremes are on the canvas, not on its edge
    canvas = plotille.Canvas(max(10, width - _MARGIN - 1), _HEIGHT, first, low - room, max(last, first + 1), high + room, mode="names")
    title = Text(name, style="bold")
    for place, (label, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        title.append("   ⠤⠤ ", style=colour).append(label, style="not bold")
        _trace(canvas, curve, None if console.no_color or not console.is_terminal else colour)
    console.print(title)
    for row, line in enumerate(canvas.plot().splitlines()):
        label = _label(high) if row == 0 else _label(low) if row == _HEIGHT - 1 else ""
        console.print(Text(f"{label:>{_MARGIN - 1}} │").append_text(Text.from_ansi(line)))
    left, right = f"step {first:,}", f"{last:,}"
    console.print(Text(" " * (_MARGIN + 1) + left + right.rjust(max(1, width - _MARGIN - 1 - len(left)))), style="dim")


def _trace(canvas: Any, curve: Curve, colour: str | None) -> None:
    points = list(zip(curve.steps, curve.values, strict=True))
    canvas.point(*points[0], color=colour)
    for (x, y), (to_x, to_y) in pairwise(points):
        canvas.line(x, y, to_x, to_y, color=colour)


def _finite(curve: Curve) -> Curve:
    kept = [place for place, value in enumerate(curve.values) if abs(value) < _HUGE]
    return Curve([curve.steps[place] for place in kept], [curve.values[place] for place in kept])


def _label(value: float) -> str:
    return f"{value:.3g}"


def _can_show_dots() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()
