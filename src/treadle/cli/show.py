"""`treadle show RUN`: a run in the terminal: status, values, checkpoints, curves."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.log.curves import Curves, Panels
from treadle.log.journal import read_journal
from treadle.log.sketch import print_curves
from treadle.log.tables import print_json, print_table
from treadle.log.writer import scalars
from treadle.system.folder import read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_run_argument(parser)
    parser.add_argument("--values", metavar="NAME", nargs="+", help="draw only these, such as train/loss valid/loss")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_run_argument(parser: argparse.ArgumentParser, **more: Any) -> None:
    """A run folder."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as results/001", **more)


def run(options: argparse.Namespace) -> int:
    """Read the folder; nothing in it is changed, and it may belong to a run that goes on."""
    folder = run_folder(options.run)
    record, values, curves = read_record(folder), last_values(folder), curves_of(folder, options.values)
    if options.json:
        print_json({"run": str(folder), **record, "last_values": {name: value for name, (value, _) in values.items()}})
        return 0
    reason = f" ({record['reason']})" if record.get("reason") else ""
    print_table(f"{folder}: {record.get('status')}{reason}", [], _facts(folder, record))
    if values:
        print_table("values", ["value", "last", "smallest", "largest"], list(_extremes(folder, values)))
    print_curves(curves)
    return 0


def run_folder(name: str) -> Path:
    """The run folder of this name.

    Raises:
        UsageError: it is none; the runs in it are listed.
    """
    folder = Path(name)
    if read_record(folder):
        return folder
    inside = sorted(str(path.parent) for path in folder.glob("*/run.json"))
    if inside:
        raise UsageError(f"{name!r} is no run folder, but holds {', '.join(inside[-5:])}{' and others' if len(inside) > 5 else ''}")
    raise UsageError(f"{name!r} is no run folder: it has no run.json" if folder.is_dir() else f"there is no folder {name!r}")


def curves_of(folder: Path, names: Iterable[str] | None = None) -> Panels:
    """The curves of a run.

    Raises:
        UsageError: nothing was logged under one of the names; the nearest is given.
    """
    from treadle.core.errors import did_you_mean

    curves, every = Curves(names), Curves()
    for row in read_journal(folder):
        curves.add(row)
        every.add(row)
    for name in names or ():
        if name not in curves.names():
            raise UsageError(f"{str(folder)!r} has no values named {name!r}{did_you_mean(name, every.names())}")
    return curves.panels()


def last_values(folder: Path) -> dict[str, tuple[float, int]]:
    """The newest value of every name, with its step."""
    return {name: (value, row["step"]) for row in read_journal(folder) for name, value in scalars(row).items()}


def _facts(folder: Path, record: dict[str, Any]) -> list[list[str]]:
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*") if path.is_dir())
    return [
        ["progress", f"{record.get('epochs', 0)} epochs, {record.get('steps', 0):,} steps, {record.get('samples', 0):,} samples"],
        ["duration", str(record.get("duration", ""))],
        ["made by", record.get("origin") or "a script or a notebook"],
        ["best", record.get("best") or "-"],
        ["last", record.get("last") or "-"],
        ["checkpoints", ", ".join(checkpoints) or "-"],
    ]


def _extremes(folder: Path, values: dict[str, tuple[float, int]]) -> Iterable[list[str]]:
    found: dict[str, list[float]] = {}
    for row in read_journal(folder):
        for name, value in scalars(row).items():
            found.setdefault(name, []).append(value)
    for name, (last, _) in values.items():
        yield [name, *(f"{value:.5g}" for value in (last, min(found[name]), max(found[name])))]
