"""Curves as a picture, with matplotlib. No global state of matplotlib is touched: no backend, no pyplot."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import UsageError
from treadle.log.curves import Curve, Panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "html", "pdf")
_UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}, "html": {"Date": None}}
"""The same curves give the same file: no date in it, and no random names."""
_COLUMNS = 3
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""
_INSIDE = 4
"""A legend of more entries would lie on the curves."""
_DOTS = 30
"""Curves of fewer points show them."""


def draw(runs: Mapping[str, Panels]) -> Figure:
    """One figure of one or several runs, a panel for each thing that is measured.

    Args:
        runs: the curves of each run, by the name in the legend. Of one run each curve has a colour; of several each run has,
            and training is dashed.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure_class = _figure_class()
    names = list(dict.fromkeys(panel for panels in runs.values() for panel in panels))
    columns = min(_COLUMNS, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    figure: Figure = figure_class(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        labels = []
        for number, (run, panels) in enumerate(runs.items()):
            for order, (curve_name, curve) in enumerate(panels.get(name, {}).items()):
                labels.append(curve_name if len(runs) == 1 else f"{run}: {curve_name}")
                _add(axes, curve, **_look(curve_name, number, order, len(runs)))
        _finish(axes, name, labels)
    return figure


def to_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file of one of `FORMATS`."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "treadle"}):
        figure.savefig(buffer, format="svg" if kind == "html" else kind, dpi=130, metadata=_UNDATED[kind])
    if kind != "html":
        return buffer.getvalue()
    picture = buffer.getvalue().decode()
    head = '<!doctype html><meta charset="utf-8"><title>curves</title><style>svg{max-width:100%;height:auto}</style>'
    return f"{head}\n{picture[picture.index('<svg') :]}".encode()


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending of the name says how.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise UsageError(f"cannot draw {str(path)!r}: its name must end in {', '.join(f'.{one}' for one in FORMATS)}")
    content = to_bytes(figure, kind)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _look(name: str, number: int, order: int, runs: int) -> dict[str, Any]:
    if runs == 1:
        return {"color": _COLOURS[order % len(_COLOURS)], "linestyle": "-"}
    # Two curves of a run in one panel: the split is told by the line.
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": "--" if name.startswith("train/") else "-"}


def _add(axes: Any, curve: Curve, **look: Any) -> None:
    axes.plot(curve.steps, curve.values, marker="o" if len(curve.steps) <= _DOTS else None, markersize=3, linewidth=1.4, **look)


def _finish(axes: Any, name: str, labels: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    title = axes.set_title(name, fontsize=11)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2} if len(labels) > _INSIDE else {}
    legend = axes.legend(axes.lines, labels, fontsize=8, frameon=False, **below)
    for text in (title, *legend.get_texts()):
        text.set_parse_math(False)  # a name with dollars in it is no formula


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("drawing needs matplotlib, which is not installed: pip install 'treadle[plot]'") from None
    return Figure
