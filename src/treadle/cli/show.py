"""`treadle show RUN`: a run in the terminal: status, what made it, values, curves, config."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from treadle.cli.making import accepted, data_rows, leak_rows, making, origin_of
from treadle.cli.summary import Summary, count, day, span, summarize
from treadle.config.describe import describe, shown
from treadle.config.schema import Config
from treadle.core.errors import UsageError, did_you_mean
from treadle.log.curves import Curves, Panels
from treadle.log.journal import read_journal
from treadle.log.sketch import print_curves
from treadle.log.tables import print_json, print_table
from treadle.log.writer import is_clock
from treadle.provenance.read import FOLDER, read_object
from treadle.system.folder import read_record


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
    one, curves = summarize(folder), Curves(read_journal(folder))
    panels = chosen_panels(curves, options.values, folder)
    leaks, capsules = read_object(folder / FOLDER / "leaks.json"), sorted(path.name for path in (folder / "capsules").glob("*") if path.is_dir())
    if options.json:
        print_json(_object(one, curves, leaks, capsules))
        return 0
    print_table(_headline(one), [], [*_facts(one), *([["capsules", ", ".join(capsules)]] if capsules else [])])
    for title, rows in (("what made it", making(one)), ("leaks between splits", leak_rows(leaks)), ("damaged", [[line] for line in one.damaged])):
        if rows:
            print_table(title, [], rows)
    if data := data_rows(one.provenance):
        print_table("data", ["split", "items", "type"], data, ["type"])
    print_curves(panels)
    if curves.by_name:
        print_table("values", ["value", "last", "smallest", "largest"], list(_extremes(curves)))
    if chosen := _chosen(one):
        print_table("config, where it is your own or differs from the default", ["key", "value", "from"], chosen, ["value", "from"])
    return 0


def _headline(one: Summary) -> str:
    status, _, cause = one.status.partition(": ")
    why = {"cut short": "its process is gone; the same command goes on", "damaged": "run.json cannot be read"}.get(one.status)
    reason = why or one.record.get("reason") or cause
    return f"{one.folder}: {status}{f' ({reason})' if reason else ''}"


def _object(one: Summary, curves: Curves, leaks: dict[str, Any], capsules: list[str]) -> dict[str, Any]:
    return {
        "run": str(one.folder),
        **one.record,
        "status": one.status,
        "last_values": {name: curve.values[-1] for name, curve in curves.by_name.items()},
        "fraction": one.fraction,
        "active_seconds": one.active_s,
        "starts": sum(event.get("event") == "started" for event in one.history),
        "accepted": accepted(one.history),
        "config": {key: {"value": value, "from": origin_of(one.provenance, key)} for key, value in one.config.items()},
        "provenance": one.provenance,
        "leaks": leaks,
        "capsules": capsules,
        "damaged": one.damaged,
    }


def _chosen(one: Summary) -> list[list[str]]:
    """Config values that say something, and where each came from: those that `treadle.Config` does not have, or has another default for."""
    held = next((key.removesuffix("run_dir") for key in one.config if key == "run_dir" or key.endswith(".run_dir")), "")
    usual = {f"{held}{key.path}": key.default for key in describe(Config)}
    given = {key: shown(value) for key, value in one.config.items() if key != f"{held}run_dir"}
    return [[key, value, origin_of(one.provenance, key) or ""] for key, value in given.items() if usual.get(key) != value]


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


def _facts(one: Summary) -> list[list[str]]:
    record = one.record
    checkpoints = sorted(path.name for path in (one.folder / "checkpoints").glob("step-*") if path.is_dir())
    done = ", ".join(count(one.progress.get(unit, 0), unit) for unit in ("epochs", "steps", "samples"))
    best = "".join(f", {name} {value:.6g}" for name, value in one.best.items())
    facts = [
        ["progress", done],
        ["duration", f"{record.get('duration', '')}{f' ({math.floor(100 * one.fraction)}% done)' if one.fraction not in (None, 1.0) else ''}"],
        ["started", day(one.started) if one.started is not None else ""],
        ["active", _active(one)],
        ["accepted", "; ".join(accepted(one.history))],
        ["best", f"{record.get('best') or '-'}{best}"],
        ["last", record.get("last") or "-"],
        ["checkpoints", ", ".join(checkpoints) or "-"],
    ]
    return [[name, str(value)] for name, value in facts if value]


def _active(one: Summary) -> str:
    starts = sum(event.get("event") == "started" for event in one.history)
    return f"{span(one.active_s)}{f' in {starts} starts' if starts > 1 else ''}" if one.active_s is not None else ""


def _extremes(curves: Curves) -> Iterable[list[str]]:
    for name in sorted(curves.by_name, key=is_clock):
        values = curves.by_name[name].values
        finite = [value for value in values if math.isfinite(value)] or values
        yield [name, *(f"{value:.4g}" for value in (values[-1], min(finite), max(finite)))]
