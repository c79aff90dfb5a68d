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
_LINES = {"train": "--", "test": ":"}
"""Of several runs each has a colour, so the split is told by the line."""
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
    names = list(dict.fromkeys(panel for panels in runs.values() for panel in panels))
    columns = min(_COLUMNS, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    entries = sum(len(panels.get(names[0], {})) for panels in runs.values()) if names else 0
    legend = 0.0 if entries <= _INSIDE else 0.2 * -(-entries // 4)
    figure: Figure = figure_class()(figsize=(4.6 * columns, 3.2 * rows + legend), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        drawn = [(run, number, label) for number, run in enumerate(runs) for label in runs[run].get(name, {})]
        for order, (run, number, label) in enumerate(drawn):
            colour = _COLOURS[(order if len(runs) == 1 else number) % len(_COLOURS)]
            split = "" if len(runs) == 1 else label.partition("/")[0]
            _add(axes, runs[run][name][label], color=colour, linestyle=_LINES.get(split, "-"))
        _finish(axes, name, [label if len(runs) == 1 else f"{run}: {label}" for run, _, label in drawn], place == 0)
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


def _add(axes: Any, curve: Curve, **look: Any) -> None:
    axes.plot(curve.steps, curve.values, marker="o" if len(curve.steps) <= _DOTS else None, markersize=3, linewidth=1.4, **look)


def _finish(axes: Any, name: str, labels: list[str], first: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    title = axes.set_title(name, fontsize=11)
    axes.set_xlabel("step", fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    texts = [title]
    if len(labels) <= _INSIDE and labels != [name]:  # which the title says
        texts += axes.legend(axes.lines, labels, fontsize=8, frameon=False).get_texts()
    elif first and len(labels) > _INSIDE:  # the colours and lines mean the same in each panel
        legend = axes.figure.legend(axes.lines, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        texts += legend.get_texts()
    for text in texts:
        text.set_parse_math(False)  # a name with dollars in it is no formula


def figure_class() -> Any:
    """Matplotlib's `Figure`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("drawing needs matplotlib, which is not installed: pip install 'treadle[plot]'") from None
    return Figure
