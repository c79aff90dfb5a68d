"""Curves: what was logged, name by name over the steps, in panels of things that are compared."""

from __future__ import annotations

from collections.abc import Iterable
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
        stride = -(-len(self.steps) // _POINTS) or 1
        last = -1 if stride == 1 else len(self.steps) - 1
        keep = [*range(0, len(self.steps), stride)]
        keep += [last] if last > keep[-1] else []
        return Curve([self.steps[place] for place in keep], [self.values[place] for place in keep])


Panels = dict[str, dict[str, Curve]]
"""By what is measured, such as "loss"; in each panel the curves by the names under which they were logged."""


class Curves:
    """Collects curves from rows.

    Args:
        names: only these; all but times, throughput and memory unless told.

    Example:
        >>> curves = Curves()
        >>> curves.add({"step": 4, "epoch": 1.0, "samples": 64, "wall": 0.0, "train/epoch_loss": 0.6, "valid/loss": 0.5})
        >>> [(panel, list(found)) for panel, found in curves.panels().items()]
        [('loss', ['train/epoch_loss', 'valid/loss'])]
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._wanted = None if names is None else set(names)
        self._curves: dict[str, Curve] = {}

    def add(self, row: Row) -> None:
        """Take one row."""
        for name, value in scalars(row).items():
            if not is_clock(name) if self._wanted is None else name in self._wanted:
                self._curves.setdefault(name, Curve()).add(row["step"], value)

    def names(self) -> list[str]:
        """What was found."""
        return list(self._curves)

    def panels(self) -> Panels:
        """The curves, the loss first; of a value that is logged by the window and by the epoch, the finer one."""
        panels: Panels = {}
        chosen = self._curves if self._wanted is not None else {name: curve for name, curve in self._curves.items() if not self._is_coarse(name)}
        for name in sorted(chosen, key=lambda name: (panel_of(name) != "loss", panel_of(name), name)):
            panels.setdefault(panel_of(name), {})[name] = chosen[name].thinned()
        return panels

    def _is_coarse(self, name: str) -> bool:
        """Whether the same value has another curve of more points."""
        if not name.startswith("train/"):
            return False
        by_epoch, by_window = f"train/epoch_{panel_of(name)}", f"train/{panel_of(name)}"
        points = {one: len(self._curves[one].steps) if one in self._curves else 0 for one in (by_epoch, by_window)}
        return (name == by_window and points[by_epoch] >= points[name]) or (name == by_epoch and points[by_window] > points[name])


def panel_of(name: str) -> str:
    """What a logged value measures: the same for training and validation.

    Example:
        >>> panel_of("train/epoch_loss"), panel_of("valid/accuracy"), panel_of("weights/norm")
        ('loss', 'accuracy', 'weights/norm')
    """
    split = next((split for split in _SPLITS if name.startswith(split)), "")
    return name.removeprefix(split).removeprefix("epoch_" if split == "train/" else "") or name
