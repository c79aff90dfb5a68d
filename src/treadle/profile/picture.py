"""The picture: each step as a line of its phases, the modules that take most time, and what the memory holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treadle.log.figure import figure_class
from treadle.profile.measured import Measured
from treadle.profile.outlier import outlier
from treadle.profile.phases import PHASES
from treadle.profile.tables import COLOURS
from treadle.profile.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODULES = 10
_FORWARD, _BACKWARD = COLOURS["forward"], COLOURS["backward"]


def draw(measured: Measured, verdict: Verdict) -> Figure:
    """The figure.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure: Figure = figure_class()(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(f"{verdict.bound}: {verdict.why}", fontsize=11, wrap=True).set_parse_math(False)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2), width_ratios=(3, 2))
    _steps(figure.add_subplot(grid[0, :]), measured)
    _modules(figure.add_subplot(grid[1, 0]), measured)
    _memory(figure.add_subplot(grid[1, 1]), measured)
    return figure


def by_step(measured: Measured) -> list[tuple[int, str, float, float]]:
    """Stretches cut at the steps' ends: step from 1, phase, start in its step, length, in seconds.

    Example:
        >>> from types import SimpleNamespace
        >>> by_step(SimpleNamespace(step_s=[2.0, 1.0], timeline=[("forward", 0.0, 1.5), ("other", 1.5, 3.0)]))
        [(1, 'forward', 0.0, 1.5), (1, 'other', 1.5, 0.5), (2, 'other', 0.0, 1.0)]
    """
    found, begin = [], 0.0
    for number, length in enumerate(measured.step_s, start=1):
        end = begin + length
        for name, start, stop in measured.timeline:
            first, last = max(start, begin), min(stop, end)
            if last > first:
                found.append((number, name, first - begin, last - first))
        begin = end
    return found


def _steps(axes: Any, measured: Measured) -> None:
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    for number, name, start, length in by_step(measured):
        axes.barh(number, 1000 * length, left=1000 * start, height=0.8, color=COLOURS[name], linewidth=0)
    shown = [name for name in PHASES if measured.share(name) >= 0.001]
    handles = [Patch(color=COLOURS[name], label=f"{name} {100 * measured.share(name):.1f} %") for name in shown]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(f"{measured.steps} steps, one a line", fontsize=10)
    axes.set_xlabel("ms since its body began; the wait for the next batch is at its end", fontsize=9)
    axes.set_ylabel("step", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.set_ylim(measured.steps + 0.6, 0.4)
    _cut(axes, measured)
    _plain(axes)


def _cut(axes: Any, measured: Measured) -> None:
    """A step that is by far the longest would make lines of all others that nobody can read: it goes out at the right."""
    index = outlier(measured)
    if index is None:
        return
    others = measured.step_s[:index] + measured.step_s[index + 1 :]
    axes.set_xlim(0, 1100 * max(others))
    place = (1.0, index + 1)
    axes.annotate(f"to {1000 * measured.step_s[index]:,.0f} ms ", place, xycoords=axes.get_yaxis_transform(), fontsize=8, ha="right", va="center")


def _modules(axes: Any, measured: Measured) -> None:
    first = sorted(measured.modules, key=lambda one: -one.own_s)[:_MODULES]
    axes.set_title("modules by their own time" if first else "modules cannot be told apart", fontsize=10)
    places = range(len(first))
    forward = [1000 * one.own_forward_s for one in first]
    axes.barh(places, forward, color=_FORWARD, label="forward")
    axes.barh(places, [1000 * one.own_backward_s for one in first], left=forward, color=_BACKWARD, label="backward")
    axes.set_yticks(places, [f"{one.name} ({one.type})" for one in first])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.set_xlabel("ms a step", fontsize=9)
    if first:
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    _plain(axes)


def _memory(axes: Any, measured: Measured) -> None:
    kinds = sorted(measured.memory.items(), key=lambda item: -item[1])
    axes.set_title("memory of tensors", fontsize=10)
    places = range(len(kinds))
    axes.barh(places, [size / 2**20 for _, size in kinds], color="#999999")
    axes.set_yticks(places, [kind for kind, _ in kinds])
    axes.invert_yaxis()
    axes.set_xlabel("MiB", fontsize=9)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(True, axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
