"""Curves: what was logged, name by name over the steps, in panels of things that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from treadle.log.writer import Row, is_clock, scalars

_SPLITS = ("train/", "valid/", "test/", "schedule/")
_POINTS = 2000
"""More than can be seen in a picture."""


@dataclass
class Curve:
    """One value over the steps; each curve has steps of its own."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Add a point."""
        self.steps.append(step)
        self.values.append(value)

    def thinned(self) -> Curve:
        """Every n-th point and the last, so that a million rows can be drawn; no value is averaged."""
        length = len(self.steps)
        places = sorted({*range(0, length, -(-length // _POINTS) or 1), *([length - 1] if length else [])})
        return Curve([self.steps[place] for place in places], [self.values[place] for place in places])


Panels = dict[str, dict[str, Curve]]
"""By what is measured, such as "loss"; in each panel the curves by the names under which they were logged."""


class Curves:
    """Collects curves from rows.

    Args:
        rows: the first of them.

    Example:
        >>> row = {"step": 4, "epoch": 1.0, "samples": 64, "wall": 0.0, "train/epoch_loss": 0.6, "valid/loss": 0.5}
        >>> [(panel, list(found)) for panel, found in Curves([row]).panels().items()]
        [('loss', ['train/epoch_loss', 'valid/loss'])]
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.by_name: dict[str, Curve] = {}
        """Every curve, in the order in which the names came."""
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Take one row."""
        for name, value in scalars(row).items():
            self.by_name.setdefault(name, Curve()).add(row["step"], value)

    def panels(self, names: Sequence[str] | None = None) -> Panels:
        """The curves as they are drawn, the loss first.

        Args:
            names: only these. Unless told, all but times, throughput and memory; of a value that is logged by the window
                and by the epoch, the finer one.
        """
        chosen = [name for name in self.by_name if (name in names if names is not None else self._is_drawn(name))]
        panels: Panels = {}
        for name in sorted(chosen, key=lambda name: (panel_of(name) != "loss", panel_of(name), name)):
            panels.setdefault(panel_of(name), {})[name] = self.by_name[name].thinned()
        return panels

    def _is_drawn(self, name: str) -> bool:
        if is_clock(name) or not name.startswith("train/"):
            return not is_clock(name)
        by_epoch, by_window = f"train/epoch_{panel_of(name)}", f"train/{panel_of(name)}"
        points = {one: len(self.by_name[one].steps) if one in self.by_name else 0 for one in (by_epoch, by_window)}
        return name != (by_epoch if points[by_window] > points[by_epoch] else by_window) or not min(points.values())


def panel_of(name: str) -> str:
    """What a logged value measures: the same for training and validation.

    Example:
        >>> panel_of("train/epoch_loss"), panel_of("valid/accuracy"), panel_of("weights/norm"), panel_of("schedule/lr/head")
        ('loss', 'accuracy', 'weights/norm', 'lr')
    """
    split = next((split for split in _SPLITS if name.startswith(split)), "")
    if split == "schedule/":  # what several parameter groups have of it is drawn together
        return name.removeprefix(split).partition("/")[0] or name
    return name.removeprefix(split).removeprefix("epoch_" if split == "train/" else "") or name
