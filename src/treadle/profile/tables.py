"""Tables of a profile: a bar of the phases on a terminal, then phases, modules and tensors."""

from __future__ import annotations

import sys

from treadle.log.tables import print_table
from treadle.profile.measured import Measured
from treadle.profile.memory import Held
from treadle.profile.phases import PHASES
from treadle.profile.verdict import Verdict

COLOURS = {
    "waiting for data": "#D55E00",
    "host to device": "#E69F00",
    "preparing batches": "#332288",
    "forward": "#0072B2",
    "backward": "#56B4E9",
    "optimizer": "#009E73",
    "metrics": "#F0E442",
    "logging": "#CC79A7",
    "evaluation": "#7A5195",
    "checkpoint": "#8C564B",
    "handlers": "#882255",
    "other": "#BBBBBB",
}
"""Of each phase, in the terminal and in the picture: Okabe and Ito's palette, which colour-blind people can tell apart, and three more."""
_MODULES, _TENSORS = 12, 8
_SOLID = "\N{NO-BREAK SPACE}"


def show(measured: Measured, verdict: Verdict) -> None:
    """Print everything, the verdict last."""
    print(_heading(measured))
    _bar(measured)
    _phases(measured)
    _modules(measured)
    _memory(measured)
    print(f"{verdict.bound}: {verdict.why}")
    for words in verdict.advice:
        print(f"  - {words}")
    for words in verdict.notes:
        print(f"  note: {words}")


def _heading(measured: Measured) -> str:
    where = measured.gpu or f"{measured.device}, {measured.threads} thread{'s' * (measured.threads > 1)}"
    batch = measured.samples / measured.steps
    return (
        f"{measured.steps} steps of {1000 * measured.mean_s:.3g} ms on {where}: batches of {batch:,.0f}, {measured.rate:,.0f} samples/s "
        f"(after {measured.warmup} to warm up)"
    )


def _bar(measured: Measured) -> None:
    """The phases as one line; nothing where nobody looks."""
    if not sys.stdout.isatty():
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    line, legend = Text(), Text()
    for name, width in widths(measured, console.width - 1).items():
        line.append("█" * width, style=COLOURS[name])
        if width:
            legend.append("■ ", style=COLOURS[name]).append(f"{name.replace(' ', _SOLID)}  ")
    console.print(line)
    console.print(legend)


def widths(measured: Measured, room: int) -> dict[str, int]:
    """Columns of each phase in a bar of so many, rounded so that they add up to it."""
    ends, reached, found = 0, 0.0, dict[str, int]()
    for name in PHASES:
        reached += measured.share(name)
        end = round(reached * room)
        found[name], ends = end - ends, end
    return found


def _phases(measured: Measured) -> None:
    rows = []
    for name in PHASES:
        seconds = measured.phases.get(name, 0.0)
        peak = measured.peaks.get(name)
        if seconds > 0:
            rows.append([name, f"{1000 * seconds / measured.steps:.3f}", f"{100 * measured.share(name):.1f}", _mib(peak) if peak else ""])
    whose = "GPU" if measured.gpu else "process"
    rows.append(["all", f"{1000 * measured.mean_s:.3f}", "100.0", _mib(max(measured.peaks.values())) if measured.peaks else ""])
    print_table(f"a step: time, and the most memory of the {whose}", ["phase", "ms", "%", "peak MiB"], rows, spare=["peak MiB"])


def _modules(measured: Measured) -> None:
    """Those that take most time by themselves."""
    if not measured.modules:
        return
    whole = sum(one.own_s for one in measured.modules)
    first = sorted(measured.modules, key=lambda one: -one.own_s)[:_MODULES]
    rows = [
        [
            one.name,
            one.type,
            f"{100 * one.own_s / whole:.1f}",
            f"{1000 * one.own_forward_s:.3f}",
            f"{1000 * one.own_backward_s:.3f}",
            f"{1000 * (one.forward_s + one.backward_s):.3f}",
            f"{one.parameters:,}",
            _mib(one.own_saved_bytes),
        ]
        for one in first
    ]
    columns = ["module", "type", "%", "forward ms", "backward ms", "with parts ms", "parameters", "saved MiB"]
    more = len(measured.modules) - len(first)
    title = f"modules by their own time, in {measured.inside} further steps" + (f"; {more} more in profile.json" if more else "")
    print_table(title, columns, rows, text=["type"], spare=["with parts ms", "parameters"])


def _memory(measured: Measured) -> None:
    rows = [[kind, _mib(size), "", ""] for kind, size in sorted(measured.memory.items(), key=lambda item: -item[1])]
    rows += [[f"  {_name(one)}", _mib(one.bytes), "x".join(map(str, one.shape)) or "-", one.dtype] for one in measured.largest[:_TENSORS]]
    print_table("memory of tensors, and the largest of them", ["what", "MiB", "shape", "dtype"], rows, text=["shape", "dtype"], spare=["dtype"])


def _name(one: Held) -> str:
    return f"{one.kind}: {one.name or 'outside of modules'}"


def _mib(size: int) -> str:
    """Bytes as MiB.

    Example:
        >>> _mib(3 * 2**19), _mib(2**12), _mib(0)
        ('1.5', '0.0039', '0')
    """
    mib = size / 2**20
    return f"{mib:,.1f}" if mib >= 1 else f"{mib:.2g}"
