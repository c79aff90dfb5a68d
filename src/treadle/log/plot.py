"""The plot: loss and metric curves while the run goes on, below a notebook's cell or in a file."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from treadle.log.curves import Curves
from treadle.log.figure import draw, figure_class, save, to_bytes
from treadle.log.notebook import Display, in_notebook
from treadle.log.words import is_shown
from treadle.log.writer import Row

_SHARE = 20
"""Drawing takes at most one part in this many of the time."""


class Plot:
    """Draws what is logged over the steps: live below the cell in a notebook, else as `plots/curves.png` in the run folder.

    The picture is drawn anew after an epoch or an evaluation, in a notebook also between them; as seldom as it takes for drawing to
    cost at most a twentieth of the time, and once more at the end.

    Args:
        names: which logged values; all but times, throughput and memory unless told.

    Raises:
        UsageError: matplotlib is not installed.

    Example:
        >>> import torch, treadle
        >>> result = treadle.train(
        ...     torch.nn.Linear(2, 1), torch.nn.MSELoss(), (torch.zeros(8, 2), torch.zeros(8, 1)), optimizer=torch.optim.SGD, writers=[Plot()],
        ...     config=treadle.Config(run_dir=f"{tmp}/run", duration="3 epochs", log=treadle.LogConfig(console="quiet")),
        ... )
        >>> (result.run_dir / "plots" / "curves.png").exists()
        True
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        figure_class()  # matplotlib is missing now, and not after the first epoch
        self._names = names if names is None else list(names)
        self._display = Display() if in_notebook() else None

    @property
    def live(self) -> bool:
        """Whether a person watches it."""
        return self._display is not None

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin, with the curves of a run that goes on."""
        self._path = folder / "plots" / "curves.png"
        self._curves = Curves(rows)
        self._next, self._drawn = 0.0, False
        self._display = Display() if self._display else None  # a cell that is run again has an output of its own
        self._draw()

    def write(self, row: Row) -> None:
        """Take one row."""
        self._curves.add(row)
        self._drawn = False
        if (self._display or is_shown(row)) and time.monotonic() >= self._next:
            self._draw()

    def close(self) -> None:
        """Draw the last picture."""
        self._draw()

    def _draw(self) -> None:
        if self._drawn or not (panels := self._curves.panels(self._names)):
            return
        began = time.monotonic()
        figure = draw({"": panels})
        if self._display:
            picture = b64encode(to_bytes(figure, "png")).decode()
            self._display.show({"image/png": picture, "text/plain": f"curves of {', '.join(name for panel in panels.values() for name in panel)}"})
        else:
            save(figure, self._path)
        self._drawn = True
        self._next = time.monotonic() + _SHARE * (time.monotonic() - began)
