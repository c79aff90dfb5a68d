"""Reading what made a run; whatever is missing or damaged is told, and stops nobody from looking at the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

FOLDER = "provenance"


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """What `provenance/record.json` of a run folder says.

    Args:
        folder: the run folder.

    Returns:
        the record; empty where there is none, ``{"damaged": why}`` where it cannot be read.

    Example:
        >>> read_provenance("nowhere")
        {}
    """
    return read_object(Path(folder) / FOLDER / "record.json")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Returns:
        it; empty where there is no file, ``{"damaged": why}`` where it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        return {"damaged": f"{path.name} cannot be read: {error.strerror}"}
    except (ValueError, RecursionError):
        return {"damaged": f"{path.name} is no JSON"}
    return found if isinstance(found, dict) else {"damaged": f"{path.name} holds no JSON object"}


def asked_run_dir(record: Mapping[str, Any]) -> str:
    """The run folder that the config of a record asks for; empty where nobody knows.

    Example:
        >>> asked_run_dir({"config": {"lr": {"value": 0.1}, "run.run_dir": {"value": "results/{n}"}}})
        'results/{n}'
    """
    config = record.get("config")
    entries = config.items() if isinstance(config, Mapping) else ()
    found = (entry.get("value") for name, entry in entries if name.rpartition(".")[2] == "run_dir" and isinstance(entry, Mapping))
    return str(next(found, None) or "")


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """The events of `provenance/history.jsonl` of a run folder: each start of the run, and each end that it lived to tell.

    Args:
        folder: the run folder.

    Returns:
        the events in order; empty where there is no history. A last line torn by a crash is left out; another that is
        damaged stands as ``{"event": "damaged", "line": number}``.
    """
    try:
        lines = (Path(folder) / FOLDER / "history.jsonl").read_bytes().split(b"\n")
    except OSError:
        return []
    return [_event(line, number) for number, line in enumerate(lines[:-1], 1) if line.strip()]


def active_seconds(history: list[dict[str, Any]], wall_before: Callable[[float], float | None], first_wall: float | None = None) -> float | None:
    """How long a run was at work, with the pauses between its starts left out.

    Args:
        history: from `read_history`.
        wall_before: gives the time of the newest row of the journal up to a moment (both in seconds since 1970), None where
            there is none. A start whose end is missing, as after a kill, lasted until then.
        first_wall: the time of the first row, for a run without a history.

    Returns:
        seconds; None where nobody knows.

    Example:
        >>> started, ended = "2026-01-01T10:00:00+00:00", "2026-01-01T10:00:09+00:00"
        >>> active_seconds([{"event": "started", "time": started}, {"event": "ended", "time": ended}], lambda time: None)
        9.0
    """
    events = [(str(event.get("event")), moment(event.get("time"))) for event in history]
    times = [(kind, time) for kind, time in events if kind in ("started", "ended") and time is not None]
    if not any(kind == "started" for kind, _ in times):
        last = wall_before(float("inf"))
        return max(0.0, last - first_wall) if last is not None and first_wall is not None else None
    total = 0.0
    for place, (kind, time) in enumerate(times):
        if kind == "started":
            after, until = times[place + 1] if place + 1 < len(times) else ("", float("inf"))
            end = until if after == "ended" else wall_before(until)
            total += max(0.0, (time if end is None else end) - time)
    return total


def moment(text: object) -> float | None:
    """A time such as ``"2026-01-01T10:00:00+00:00"`` in seconds since 1970; None where it is none.

    Example:
        >>> moment("1970-01-01T00:01:00+00:00"), moment("yesterday")
        (60.0, None)
    """
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _event(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"event": "damaged", "line": number}
