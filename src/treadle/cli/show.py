"""`treadle show RUN`: a run in the terminal: status, values, checkpoints, curves."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from treadle.config.build import flatten, plain
from treadle.config.describe import describe, shown
from treadle.config.schema import Config
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ConfigError, UsageError, did_you_mean
from treadle.log.curves import Curves, Panels
from treadle.log.journal import read_journal
from treadle.log.sketch import print_curves
from treadle.log.tables import print_json, print_table
from treadle.log.writer import is_clock
from treadle.system.folder import RunFolder, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_run_argument(parser)
    add_values_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """A run folder."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as results/001")


def add_values_argument(parser: argparse.ArgumentParser) -> None:
    """Which curves."""
    parser.add_argument("--values", metavar="NAME,...", type=lambda text: text.split(","), help="draw only these: train/epoch_loss,valid/loss")


def run(options: argparse.Namespace) -> int:
    """Read the folder; nothing in it is changed, and it may belong to a run that goes on."""
    folder = run_folder(options.run)
    record, curves = read_record(folder), Curves(read_journal(folder))
    panels = chosen_panels(curves, options.values, folder)
    status = _status(folder, record)
    if options.json:
        print_json({"run": str(folder), **record, "status": status, "last_values": {name: one.values[-1] for name, one in curves.by_name.items()}})
        return 0
    print_curves(panels)
    if curves.by_name:
        print_table("values", ["value", "last", "smallest", "largest"], list(_extremes(curves)))
    if chosen := _chosen(folder):
        print_table("config, where it is your own or differs from the default", [], chosen)
    reason = "its process is gone; the same command goes on" if status == "cut short" else record.get("reason")
    print_table(f"{folder}: {status}{f' ({reason})' if reason else ''}", [], _facts(folder, record))
    return 0


def _status(folder: Path, record: dict[str, Any]) -> str:
    """As the record says, but for a run whose process is gone."""
    if record.get("status") == "running" and not RunFolder(folder).is_locked():
        return "cut short"
    return str(record.get("status"))


def _chosen(folder: Path) -> list[list[str]]:
    """Config values that say something: those that `treadle.Config` does not have, or has another default for."""
    try:
        tree = plain(read_yaml(folder / "config.yaml"))
    except ConfigError:
        return []
    held = next((f"{name}." for name, value in tree.items() if isinstance(value, dict) and "run_dir" in value), "")
    usual = {f"{held}{key.path}": key.default for key in describe(Config)} | {f"{held}run_dir": None}
    given = {path: shown(value) for path, value in flatten(tree)} | {f"{held}run_dir": None}
    return [[path, value] for path, value in given.items() if value is not None and usual.get(path) != value]


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


def curves_of(folder: Path, names: Sequence[str] | None = None) -> Panels:
    """The curves of a run; see `chosen_panels`."""
    return chosen_panels(Curves(read_journal(folder)), names, folder)


def chosen_panels(curves: Curves, names: Sequence[str] | None, folder: Path) -> Panels:
    """The curves of these names, all of them unless told.

    Raises:
        UsageError: nothing was logged under one of the names; the nearest is given.
    """
    for name in names or ():
        if name not in curves.by_name:
            raise UsageError(f"{str(folder)!r} has no values named {name!r}{did_you_mean(name, curves.by_name)}")
    return curves.panels(names)


def _facts(folder: Path, record: dict[str, Any]) -> list[list[str]]:
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*") if path.is_dir())
    return [
        ["progress", ", ".join(_count(record.get(unit, 0), unit) for unit in ("epochs", "steps", "samples"))],
        ["duration", str(record.get("duration", ""))],
        ["made by", record.get("origin") or "a script or a notebook"],
        ["best", record.get("best") or "-"],
        ["last", record.get("last") or "-"],
        ["checkpoints", ", ".join(checkpoints) or "-"],
    ]


def _extremes(curves: Curves) -> Iterable[list[str]]:
    for name in sorted(curves.by_name, key=is_clock):
        values = curves.by_name[name].values
        finite = [value for value in values if math.isfinite(value)] or values
        yield [name, *(f"{value:.4g}" for value in (values[-1], min(finite), max(finite)))]


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit if number != 1 else unit[:-1]}"
