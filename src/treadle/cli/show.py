"""`treadle show RUN`: a run in the terminal: status, values, checkpoints, curves."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.config.build import plain
from treadle.config.describe import describe, shown
from treadle.config.loading import flatten
from treadle.config.schema import Config
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ConfigError, UsageError, did_you_mean
from treadle.log.curves import Curves, Panels
from treadle.log.journal import read_journal
from treadle.log.sketch import print_curves
from treadle.log.tables import print_json, print_table
from treadle.log.writer import is_clock, scalars
from treadle.system.folder import RunFolder, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_run_argument(parser)
    add_values_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_run_argument(parser: argparse.ArgumentParser, **more: Any) -> None:
    """A run folder."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as results/001", **more)


def add_values_argument(parser: argparse.ArgumentParser) -> None:
    """Which curves."""
    parser.add_argument("--values", metavar="NAME,...", type=lambda text: text.split(","), help="draw only these: train/epoch_loss,valid/loss")


def run(options: argparse.Namespace) -> int:
    """Read the folder; nothing in it is changed, and it may belong to a run that goes on."""
    folder = run_folder(options.run)
    record, values, curves = read_record(folder), last_values(folder), curves_of(folder, options.values)
    status = _status(folder, record)
    if options.json:
        print_json({"run": str(folder), **record, "status": status, "last_values": {name: value for name, (value, _) in values.items()}})
        return 0
    print_curves(curves)
    if values:
        print_table("values", ["value", "last", "smallest", "largest"], list(_extremes(folder, values)))
    if chosen := _chosen(folder):
        print_table("config, where it is your own or differs from the default", [], chosen)
    reason = f" ({record['reason']})" if record.get("reason") else ""
    print_table(f"{folder}: {status}{reason}", [], _facts(folder, record))
    return 0


def _status(folder: Path, record: dict[str, Any]) -> str:
    """As the record says, but for a run whose process is gone."""
    if record.get("status") == "running" and not RunFolder(folder).is_locked():
        return "cut short: its process is gone; the same command goes on"
    return str(record.get("status"))


def _chosen(folder: Path) -> list[list[str]]:
    """Config values that say something: those that `treadle.Config` does not have, or has another default for."""
    try:
        given = dict(flatten(plain(read_yaml(folder / "config.yaml"))))
    except ConfigError:
        return []
    usual = {key.path: key.default for key in describe(Config)}
    return [[path, shown(value)] for path, value in given.items() if path != "run_dir" and usual.get(path.removeprefix("run.")) != shown(value)]


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
        raise UsageError(f"{name!r} is no run folder, but holds {f'{inside[0]}, ... ' if len(inside) > 5 else ''}{', '.join(inside[-5:])}")
    if "checkpoints" in folder.parts and read_record(Path(*folder.parts[: folder.parts.index("checkpoints")])):
        raise UsageError(f"{name!r} is a checkpoint; give its run folder (to evaluate it: --weights {name})")
    raise UsageError(f"{name!r} is no run folder: it has no run.json" if folder.is_dir() else f"there is no folder {name!r}")


def curves_of(folder: Path, names: Iterable[str] | None = None) -> Panels:
    """The curves of a run.

    Raises:
        UsageError: nothing was logged under one of the names; the nearest is given.
    """
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
    for name in sorted(values, key=is_clock):
        yield [name, *(f"{value:.4g}" for value in (values[name][0], min(found[name]), max(found[name])))]
