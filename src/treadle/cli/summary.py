"""A run in a few facts, read from its small files and the end of its journal: what a list of runs shows of each."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from treadle.config.build import flatten, plain
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ConfigError, RunFolderError
from treadle.core.when import UNITS, Duration
from treadle.log.tail import first_wall, read_last_rows, wall_before
from treadle.log.writer import Row, scalars
from treadle.provenance.read import FOLDER, active_seconds, moment, read_history, read_object, read_provenance
from treadle.system.folder import RunFolder, read_record

_WIDER = 1024 * 1024
"""Bytes of a journal that are read where its last rows hold neither validation nor an epoch's mean."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known of a run.

    Args:
        folder: the run folder.
        status: "running", "cut short", "finished", "stopped", "failed", "interrupted: ..." or "damaged".
        record: `run.json`.
        progress: steps, samples and epochs done.
        fraction: share of the duration that is done, from 0 to 1; None where that cannot be told.
        best: the best values, by the name of what is measured.
        last: the last values that were logged.
        config: `config.yaml`, by paths with dots.
        provenance: the record of what made it.
        history: its starts and ends.
        active_s: seconds at work; None where nobody knows.
        started: its first start, in seconds since 1970; None where nobody knows.
        damaged: a line for each file that cannot be read.
    """

    folder: Path
    status: str
    record: dict[str, Any]
    progress: dict[str, float]
    fraction: float | None
    best: dict[str, float]
    last: dict[str, float]
    config: dict[str, Any]
    provenance: dict[str, Any]
    history: list[dict[str, Any]]
    active_s: float | None
    started: float | None
    damaged: list[str] = field(default_factory=list)


def summarize(folder: Path) -> Summary:
    """Read a run folder; nothing in it is changed, and no damage in it raises."""
    record, best = read_record(folder), read_object(folder / "best.json")
    provenance, history = read_provenance(folder), read_history(folder)
    damaged = _damaged(record, best, provenance, history)
    rows, journal = _last_rows(folder, damaged), folder / "metrics.jsonl"
    status, begun = status_of(folder, record), first_wall(journal)
    progress = progress_of(record, rows if status == "running" else [])
    starts = [moment(event.get("time")) for event in history if event.get("event") == "started"]
    times = [*starts[:1], moment(provenance.get("created")), begun]
    return Summary(
        folder=folder,
        status=status,
        record=record,
        progress=progress,
        fraction=_fraction(record, progress, rows),
        best=_best(best),
        last={name: value for row in rows for name, value in scalars(row).items()},
        config=config_of(folder, damaged),
        provenance=provenance,
        history=history,
        active_s=active_seconds(history, partial(_wall_before, journal, rows), begun),
        started=next((time for time in times if time is not None), None),
        damaged=damaged,
    )


def _damaged(record: dict[str, Any], best: dict[str, Any], provenance: dict[str, Any], history: list[dict[str, Any]]) -> list[str]:
    status = record.get("status")
    lines = ["run.json cannot be read"] if status == "unknown" else [] if isinstance(status, str) else ["run.json names no status"]
    lines += [str(best["damaged"])] if "damaged" in best else []
    lines += [f"{FOLDER}/{provenance['damaged']}"] if "damaged" in provenance else []
    torn = [event for event in history if event.get("event") == "damaged"]
    return [*lines, *(f"line {event.get('line')} of {FOLDER}/history.jsonl is no JSON object" for event in torn)]


def status_of(folder: Path, record: dict[str, Any]) -> str:
    """As the record says, but for a run whose process is gone, and one whose record is damaged."""
    if record.get("status") == "running" and not RunFolder(folder).is_locked():
        return "cut short"
    status = record.get("status")
    return status if isinstance(status, str) and status != "unknown" else "damaged"


def progress_of(record: dict[str, Any], rows: list[Row] | tuple[()] = ()) -> dict[str, float]:
    """Steps, samples and epochs done: by `run.json`, which is as old as the last checkpoint, or by a newer row."""
    done: dict[str, float] = {unit: record[unit] for unit in UNITS if isinstance(record.get(unit), (int, float))}
    if rows and rows[-1]["step"] > done.get("steps", 0):
        row = rows[-1]
        done = {unit: row[name] for unit, name in (("steps", "step"), ("samples", "samples"), ("epochs", "epoch")) if name in row}
        done = {unit: int(amount) if isinstance(amount, float) and amount.is_integer() else amount for unit, amount in done.items()}
    return done


def config_of(folder: Path, damaged: list[str]) -> dict[str, Any]:
    """`config.yaml` by paths with dots; empty where there is none, or where it is damaged: then a line says so."""
    path = folder / "config.yaml"
    try:
        return dict(flatten(plain(read_yaml(path)))) if path.exists() else {}
    except ConfigError as error:
        damaged.append(str(error).partition("\n")[0])
        return {}


def commit_of(provenance: dict[str, Any]) -> str:
    """The commit of the code in seven digits, with a ``+`` where it had changes that were not committed; empty where nobody knows."""
    found = repositories(provenance)
    if not found:
        return ""
    commit = str(found[0].get("commit") or "")[:7] or "none"
    return f"{commit}{'+' if found[0].get('changed') or found[0].get('untracked') or found[0].get('patch') else ''}"


def repositories(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """The git repositories of the code, as far as they are recorded."""
    return [one for one in items(section(provenance, "code").get("repositories")) if isinstance(one, dict)]


def section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a record; empty where it is not there, or is something else."""
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def items(value: object) -> list[Any]:
    """A list of a record; empty where it is not there, or is something else."""
    return value if isinstance(value, list) else []


def count(number: float, unit: str) -> str:
    """A number with its unit.

    Example:
        >>> count(1, "steps"), count(1200, "steps"), count(0, "changed files")
        ('1 step', '1,200 steps', '0 changed files')
    """
    return f"{round(number, 2):,} {unit if number != 1 else unit.removesuffix('s')}"


def span(seconds: float) -> str:
    """A time as people read it.

    Example:
        >>> [span(seconds) for seconds in (0.123, 59.6, 3725, 200_000)]
        ['0.1s', '1:00', '1:02:05', '2d 7:33']
    """
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def day(seconds: float) -> str:
    """A moment, in this machine's time zone: ``2026-11-22 18:00``."""
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return ""


def _last_rows(folder: Path, damaged: list[str]) -> list[Row]:
    try:
        path = folder / "metrics.jsonl"
        rows = read_last_rows(path)
        told = any(name.startswith("valid/") or name == "train/epoch_loss" for row in rows for name in row)
        return rows if told or not rows else read_last_rows(path, _WIDER)
    except RunFolderError as error:
        damaged.append(str(error).replace(f"{folder}/", ""))
        return []


def _wall_before(journal: Path, rows: list[Row], time: float) -> float | None:
    """The time of the newest row up to a moment; mostly that is the last one."""
    last = rows[-1].get("wall") if rows else None
    return float(last) if isinstance(last, (int, float)) and last <= time else wall_before(journal, time)


def _fraction(record: dict[str, Any], progress: dict[str, float], rows: list[Row]) -> float | None:
    """How much of the duration is done; within an epoch as the row of that very step says."""
    with suppress(ConfigError):
        length = Duration.parse(str(record.get("duration", "")))
        done = progress.get(length.unit)
        of_step = next((row.get("epoch") for row in reversed(rows) if row["step"] == progress.get("steps")), None)
        if length.unit == "epochs" and isinstance(of_step, (int, float)):
            done = of_step
        if done is not None and done == done:
            return min(1.0, done / float(length.value))
    return None


def _best(best: dict[str, Any]) -> dict[str, float]:
    values = [one.get("value") for one in items(best.get("best")) if isinstance(one, dict)]
    value = next((value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)), None)
    return {str(best["name"]): value} if value is not None and best.get("name") else {}
