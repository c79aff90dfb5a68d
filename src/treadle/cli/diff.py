"""`treadle diff A B`: what differs between two runs, and what came of it."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from treadle.cli.differences import (
    Part,
    code_part,
    command_part,
    config_part,
    data_part,
    environment_part,
    first_difference,
    word,
)
from treadle.cli.plot import labels_of
from treadle.cli.show import add_values_argument, chosen_panels, run_folder
from treadle.cli.summary import Summary, count, span, summarize
from treadle.core.errors import RunFolderError, UsageError, did_you_mean
from treadle.log.curves import Curves, Panels
from treadle.log.journal import read_journal
from treadle.log.sketch import print_curves
from treadle.log.tables import print_json, print_table
from treadle.log.writer import is_clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("one", metavar="RUN", help="a run folder")
    parser.add_argument("other", metavar="RUN", help="another")
    add_values_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", metavar="FILE", help="draw the curves of both as a picture too: a .png, .svg, .pdf or .html")
    parser.epilog = (
        "Exit code: 0 where nothing differs in config, code, environment, data and results, 1 where something does, 2 where a RUN is none."
    )


def run(options: argparse.Namespace) -> int:
    """Compare them; nothing in them is changed."""
    try:
        folders = [run_folder(options.one), run_folder(options.other)]
        return _compare(folders, options)
    except UsageError as error:  # as of `diff`: 1 says that something differs
        print(f"treadle diff: {error}", file=sys.stderr)
        return 2


def _compare(folders: list[Path], options: argparse.Namespace) -> int:
    one, other = map(summarize, folders)
    labels = labels_of(folders) if folders[0] != folders[1] else [f"{folders[0].name} (1)", f"{folders[1].name} (2)"]
    parts = [config_part(one, other), code_part(one, other), environment_part(one, other), data_part(one, other), command_part(one, other)]
    curves, results = _curves(folders), Part("results")
    if isinstance(curves, str):
        results.note, values, panels = f"not compared: {curves}", [], []
    else:
        values = _values(curves, options.values, folders)
        panels = [chosen_panels(found, [name for name in options.values if name in found.by_name] if options.values else None, folder)
                  for found, folder in zip(curves, folders, strict=True)]  # fmt: skip
        results.more = [_first(folders, results, labels)]
    different = any(part.differs for part in [*parts, results] if part.name != "command") or isinstance(curves, str)
    if options.output:
        _draw(dict(zip(labels, panels, strict=False)), Path(options.output))
    if options.json:
        print_json(_object(folders, parts, results, values, different))
        return int(different)
    for label, run in zip(labels, (one, other), strict=True):
        print(f"{label}: {_state(run)}" if str(run.folder) == label else f"{label} = {run.folder}: {_state(run)}")
    for part in parts:
        _print(part, labels)
    _print_results(results, values if results.differs or options.values else [], labels)
    if results.differs and panels and sys.stdout.isatty():  # elsewhere the curves of two runs on one canvas look the same
        print_curves(_overlaid(dict(zip(labels, panels, strict=True))))
    for line in [f"damaged: {run.folder}: {line}" for run in (one, other) for line in run.damaged]:
        print(line)
    if options.output:
        print(options.output)
    return int(different)


def _curves(folders: list[Path]) -> list[Curves] | str:
    """The curves of each; or what is damaged."""
    try:
        return [Curves(read_journal(folder)) for folder in folders]
    except RunFolderError as error:
        return str(error)


def _values(curves: list[Curves], names: list[str] | None, folders: list[Path]) -> list[tuple[str, float | None, float | None]]:
    """The last values of both under each name; without times, throughput and memory unless those are named.

    Raises:
        UsageError: neither run has a value of one of the names.
    """
    known = list(dict.fromkeys(name for one in curves for name in one.by_name))
    for name in names or ():
        if name not in known:
            raise UsageError(f"neither {str(folders[0])!r} nor {str(folders[1])!r} has values named {name!r}{did_you_mean(name, known)}")
    chosen = names if names is not None else sorted((name for name in known if not is_clock(name)), key=_order)
    left, right = ({name: one.by_name[name].values[-1] for name in chosen if name in one.by_name} for one in curves)
    return [(name, left.get(name), right.get(name)) for name in chosen]


def _order(name: str) -> tuple[int, str]:
    """The validation first, then an epoch's means."""
    return next((place for place, start in enumerate(("valid/", "test/", "train/epoch_", "train/")) if name.startswith(start)), 4), name


def _first(folders: list[Path], results: Part, labels: list[str]) -> str:
    """Where the journals part, in words; what differs there becomes the rows of the results."""
    found = first_difference(*folders)
    if found is None:
        return "the same: the journals are equal to the bit, times and throughput left out"
    step, results.rows = found
    if results.rows[0][0] == "a row":
        absent = labels[0 if results.rows[0][1] is None else 1]
        return f"the journals are equal up to step {step:,}, which {absent} has no row for"
    told = "; ".join(f"{name} {_exact(mine)} and {_exact(his)}" for name, mine, his in results.rows[:3])
    more = f"; and {count(len(results.rows) - 3, 'more values')}" if len(results.rows) > 3 else ""
    return f"the journals differ from step {step:,} on: {told}{more}"


def _exact(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, float) else word(value)


def _state(run: Summary) -> str:
    time = f" in {span(run.active_s)}" if run.active_s is not None else ""
    return f"{run.status}, {count(run.progress.get('steps', 0), 'steps')}{time}"


def _print(part: Part, labels: list[str]) -> None:
    if part.differs:
        print_table(
            f"{part.name}: {count(len(part.rows), 'differences')}", ["", *labels], [[name, word(a), word(b)] for name, a, b in part.rows], labels
        )
    else:
        print(f"{part.name}: {part.note or 'the same'}")
    for line in part.more:
        print(line)


def _print_results(results: Part, values: list[tuple[str, float | None, float | None]], labels: list[str]) -> None:
    """The table where something differs, or where values were named."""
    told = results.note or results.more[0]
    if not values:
        print(f"results: {told}")
        return
    print_table(
        "results: the last values", ["value", *labels, "difference"], [[name, _number(a), _number(b), _change(a, b)] for name, a, b in values]
    )
    print(told)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _change(one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return ""
    if one == other or (one != one and other != other):
        return "0"
    change = other - one
    share = f" ({change / abs(one):+.1%})" if one and math.isfinite(change) else ""
    return f"{change:+.3g}{share}"


def _overlaid(runs: dict[str, Panels]) -> Panels:
    """The panels of both in one, so that they have the same axes."""
    names = sorted({name for panels in runs.values() for name in panels}, key=lambda name: (name != "loss", name))
    return {name: {f"{run} {label}": panels[name][label] for run, panels in runs.items() for label in panels.get(name, {})} for name in names}


def _draw(runs: dict[str, Panels], target: Path) -> None:
    from treadle.log.figure import draw, save

    save(draw(runs), target)


def _object(
    folders: list[Path], parts: list[Part], results: Part, values: list[tuple[str, float | None, float | None]], different: bool
) -> dict[str, Any]:
    told = {part.name: {"differences": {name: [a, b] for name, a, b in part.rows}, "note": part.note or None, "more": part.more} for part in parts}
    last = {name: {"values": [a, b], "difference": None if a is None or b is None else b - a} for name, a, b in values}
    found = {
        "last_values": last,
        "first_difference": {name: [a, b] for name, a, b in results.rows},
        "note": results.note or None,
        "more": results.more,
    }
    return {"runs": [str(folder) for folder in folders], "same": not different, **told, "results": found}
