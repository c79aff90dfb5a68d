"""`treadle runs [DIR]`: every run below a folder, in one table."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.cli.summary import Summary, commit_of, day, span, summarize
from treadle.config.describe import shown
from treadle.config.yaml_file import read_value
from treadle.core.errors import UsageError, did_you_mean
from treadle.core.structure import same
from treadle.log.console import watching
from treadle.log.tables import print_json, print_table
from treadle.log.words import number
from treadle.log.writer import is_clock
from treadle.system.find import find_runs

_FEW = 50
"""Runs that are read before anybody wonders."""
_FIXED = ("run", "status", "done", "steps", "time", "started", "code")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("dir", metavar="DIR", nargs="?", default="results", help="the folder to look in, and in all below it (default: results)")
    parser.add_argument(
        "--sort", metavar="KEY", help="a column, a value such as valid/loss or a key of the config; the newest run is last unless told"
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--where", metavar="KEY=VALUE", type=_condition, action="append", default=[], help="only runs that have it, such as lr=0.1; repeatable"
    )
    parser.add_argument("--values", metavar="NAME,...", type=lambda text: text.split(","), help="show these values or keys of the config")
    parser.add_argument("--limit", metavar="N", type=_positive, help="only so many: the newest, or the first by --sort")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """List them; nothing is changed."""
    folder = Path(options.dir)
    if not folder.is_dir():
        if options.dir != "results":
            raise UsageError(f"there is no folder {options.dir!r}")
        return _none(options, f"no runs: there is no folder 'results' in {str(Path.cwd())!r}; for another one: treadle runs DIR", [])
    paths, unread = find_runs(folder)
    summaries = _read(paths)
    facts = {one.folder: _facts(one, folder) for one in summaries}
    chosen = _chosen(summaries, facts, options)
    if not paths:
        return _none(options, f"no runs in {options.dir!r}: no folder in it has a run.json", unread)
    if options.json:
        print_json({"dir": str(folder), "runs": [_object(one, facts[one.folder]) for one in chosen], "unread": unread})
        return 0
    if not chosen:
        return _none(options, f"none of the {len(paths)} runs in {options.dir!r} is like that", unread)
    columns = _columns(chosen, options.values)
    rows = [[_cell(column, facts[one.folder].get(column)) for column in columns] for one in chosen]
    texts = [column for column in columns if any(isinstance(facts[one.folder].get(column), str) for one in chosen)]
    few = f"{len(chosen)} of {len(paths)}" if len(chosen) < len(paths) else str(len(paths))
    print_table(f"{folder}: {few} {'run' if len(paths) == 1 else 'runs'}", columns, rows, texts, _spare(columns, options.values))
    for line in [*(f"{one.folder}: {line}" for one in chosen for line in one.damaged), *unread]:
        print(f"damaged: {line}" if line not in unread else line)
    return 0


def _none(options: argparse.Namespace, message: str, unread: list[str]) -> int:
    if options.json:
        print_json({"dir": options.dir, "runs": [], "unread": unread})
    else:
        print("\n".join([message, *unread]))
    return 0


def _read(paths: list[Path]) -> list[Summary]:
    found = []
    with watching("reading runs", "auto" if len(paths) > _FEW else "quiet") as watch:
        for path in paths:
            found.append(summarize(path))
            watch(len(found), len(paths))
    return found


def _facts(one: Summary, root: Path) -> dict[str, Any]:
    """What can be shown of a run, sorted by and chosen by: first its columns, then every value and every key of its config."""
    known: dict[str, Any] = {
        "run": str(one.folder.relative_to(root)) if one.folder != root else str(root),
        "status": one.status,
        "done": one.fraction,
        "steps": one.progress.get("steps"),
        **{f"best {name}": value for name, value in one.best.items()},
        "code": commit_of(one.provenance) or None,
        "time": one.active_s,
        "started": one.started,
    }
    others = {**one.last, **{key: value for key, value in one.config.items() if key.rpartition(".")[2] != "run_dir"}}
    return {**known, "best": next(iter(one.best.values()), None), **{name: value for name, value in others.items() if name not in known}}


def _columns(chosen: Sequence[Summary], named: Sequence[str] | None) -> list[str]:
    """The heads: of the config only what differs among these runs."""
    best = list(dict.fromkeys(f"best {name}" for one in chosen for name in one.best))
    middle = list(named) if named is not None else [*_measured(chosen), *_varying(chosen)]
    code = ["code"] if any(commit_of(one.provenance) for one in chosen) else []
    return ["run", "status", "done", "steps", *(name for name in best if name not in middle), *middle, "time", "started", *code]


def _measured(chosen: Sequence[Summary]) -> list[str]:
    """The last values that tell how good a run is: of the validation, of training where there was none."""
    names = dict.fromkeys(name for one in chosen for name in one.last)
    valid = sorted((name for name in names if name.startswith("valid/") and not is_clock(name)), key=lambda name: (name != "valid/loss", name))
    without = any(not any(name.startswith("valid/") for name in one.last) and "train/epoch_loss" in one.last for one in chosen)
    return [*valid, *(["train/epoch_loss"] if without else [])]


def _varying(chosen: Sequence[Summary]) -> list[str]:
    readable = [one.config for one in chosen if one.config]
    keys = dict.fromkeys(key for config in readable for key in config if key.rpartition(".")[2] != "run_dir")
    return [
        key for key in keys if any(not same(config.get(key), readable[0].get(key)) or (key in config) != (key in readable[0]) for config in readable)
    ]


def _spare(columns: Sequence[str], named: Sequence[str] | None) -> list[str]:
    """What is left out on a narrow terminal, the first of them first: never the run, its status, and the best of it."""
    best = [name for name in columns if name.startswith("best ")]
    again = [name for name in columns if f"best {name}" in best]
    measured = [name for name in columns if name.startswith(("valid/", "train/")) and name not in again]
    asked = [name for name in columns if name in (named or ())]
    config = [name for name in columns if name not in (*_FIXED, *best, *again, *measured, *asked)]
    order = ["steps", "code", *reversed(again), "started", *reversed(measured[len(measured) > 0 and not best :])]
    order += ["time", *reversed(config), *reversed(best[1:]), "done"]
    return [*(name for name in order if name not in asked), *reversed(asked)]


def _chosen(summaries: Sequence[Summary], facts: dict[Path, dict[str, Any]], options: argparse.Namespace) -> list[Summary]:
    """Those that were asked for, in the order that was asked for.

    Raises:
        UsageError: no run has one of the names; the nearest is given.
    """
    known = {name for one in facts.values() for name in one}
    for name in (*([options.sort] if options.sort else []), *(name for name, _ in options.where), *(options.values or ())):
        if summaries and name not in known:
            raise UsageError(f"no run in {options.dir!r} has a column, value or config key {name!r}{did_you_mean(name, known)}")
    found = [one for one in summaries if all(_is(facts[one.folder].get(name), name, text, facts[one.folder]) for name, text in options.where)]
    key = options.sort or "started"
    there = [one for one in found if not _is_missing(facts[one.folder].get(key))]
    there.sort(key=lambda one: _rank(facts[one.folder][key]), reverse=options.reverse and options.sort is not None)
    missing = [one for one in found if _is_missing(facts[one.folder].get(key))]
    if options.sort is not None:
        return [*there, *missing][: options.limit]
    newest = [*missing, *there][-(options.limit or len(found) or 1) :]  # the newest is at the bottom, by the prompt
    return newest[::-1] if options.reverse else newest


def _is(value: Any, name: str, text: str, facts: dict[str, Any]) -> bool:
    """Whether a value is the one that was typed: as a number where both are."""
    if name not in facts:
        return False
    wanted = read_value(text)
    return same(value, wanted) or text in (shown(value), _cell(name, value))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    return (False, float(value), "") if isinstance(value, (int, float)) else (True, 0.0, shown(value))


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column == "done":
        return f"{math.floor(100 * value)}%"
    if column in ("time", "started"):
        return span(value) if column == "time" else day(value)
    if column == "steps":
        return f"{value:,}"
    measured = isinstance(value, float) and ("/" in column or column == "best")
    return " ".join((number(column, value) if measured else f"{value:.6g}" if isinstance(value, float) else shown(value)).split())


def _object(one: Summary, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": str(one.folder),
        "status": one.status,
        "reason": one.record.get("reason") or None,
        "fraction": one.fraction,
        **{unit: one.progress.get(unit) for unit in ("steps", "samples", "epochs")},
        "duration": one.record.get("duration"),
        "best": one.best,
        "last_values": one.last,
        "config": one.config,
        "commit": facts["code"],
        "active_seconds": one.active_s,
        "started": one.started,
        "damaged": one.damaged,
    }


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no condition; write KEY=VALUE, such as lr=0.1 or status=finished")
    return name.strip(), value.strip()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; give 1 or more")
    return int(text)
