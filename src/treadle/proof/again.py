"""Again: a run made once more from its record, in a place of its own, and compared with what it left."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.data.fingerprint import differences as data_differences
from treadle.proof.command import command_of, variables_of
from treadle.proof.compare import Difference
from treadle.proof.judge import OPEN, holds_something, judged
from treadle.proof.lives import Program, runs_in
from treadle.provenance.environment import packages
from treadle.provenance.read import asked_run_dir, read_provenance
from treadle.provenance.record import accepted_changes
from treadle.provenance.restore import Restored, restored
from treadle.system.folder import read_record
from treadle.system.seal import broken
from treadle.system.stage import Stage


@dataclass
class Again:
    """What came of it.

    Args:
        run: the run.
        again: the folder of the new one; None where it did not come to that.
        identical: whether everything that was compared is the same to the bit.
        difference: the first one.
        counts: how many of each kind of thing were compared.
        weights: SHA-256 of the final weights.
        problems: what was not as it had been, and was accepted.
        notes: what a person should know.
        seconds: how long it took.
        last_words: of a process that failed.
        commit: the one that `at` named.
    """

    run: Path
    again: Path | None = None
    identical: bool = False
    difference: Difference | None = None
    counts: dict[str, int] = field(default_factory=dict)
    weights: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    last_words: str = ""
    commit: str = ""


def make_again(
    run: Path,
    target: Path,
    scratch: Path,
    *,
    repository: Path | None = None,
    at: str | None = None,
    anyway: bool = False,
    name: str = "",
    told: Callable[[str], object] = lambda doing: None,
) -> Again:
    """Make a run again.

    Args:
        run: the run folder.
        target: where the new one goes; not there yet.
        scratch: an empty folder for code and files in between.
        repository: where the run's commit is to be found, where that is another place than it was.
        at: another commit to make it from.
        anyway: go on where something is not as it was.
        name: what the run is called in messages; its folder unless told.
        told: told what is being done.

    Raises:
        UsageError: it cannot be made again, or only with `anyway`; every reason is listed.
    """
    name = name or str(run)
    record, state = _readable(run, name)
    result = Again(run)
    result.problems = _edited(run) + _accepted(run) + other_environment(record.get("environment", {}))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):  # better now than after hours
        raise UsageError(f"{str(target.parent)!r} cannot be written to; --into DIR says where the new run goes")
    told("bringing back the code")
    with restored(record, run / "provenance", scratch / "code", repository=repository, at=at) as code:
        result.problems += code.problems
        result.notes, result.commit = code.notes, code.commit
        command, cwd = command_of(record, state, code.moved, (run / "config.yaml").absolute()), _cwd(code, scratch, result)
        if result.problems and not anyway:
            listed = "".join(f"\n  {problem}" for problem in result.problems)
            raise UsageError(
                f"{name!r} cannot be made again as it was:{listed}\n--anyway makes it with these differences, and says so in its verdict"
            )
        told("running")
        staged = _live(Program(command, _folder(scratch, "processes"), cwd=cwd), record, state, code, _folder(scratch, "runs"), target, result)
        if result.again is not None:
            asked = asked_run_dir(record)
            found = judged(run, result.again, code.into, [str(run), str(run.absolute()), asked, str(Path(code.cwd, asked)), str(staged)])
            result.difference, result.counts, result.weights = found.difference, found.counts, found.weights
            result.identical = found.difference is None and holds_something(found.counts)
            result.notes += found.notes
            result.problems += _other_inputs(record, read_provenance(result.again), code)
    return result


def _readable(run: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a run, and its `run.json`, where both can be used."""
    record, state = read_provenance(run), read_record(run)
    if not isinstance(record.get("code"), dict):
        why = record.get("damaged") or ("record.json is damaged" if record else "there is no provenance/record.json")
        raise UsageError(f"{name!r} has no record of what made it, so it cannot be made again: {why}")
    if not isinstance(state.get("steps"), int):
        raise UsageError(f"{name!r} cannot be made again: its run.json is damaged, so nobody knows how far it came")
    if not state["steps"] and state.get("status") != "failed":
        raise UsageError(f"{name!r} has no step that was saved, so there is nothing to compare")
    return record, state


def other_environment(before: Mapping[str, Any]) -> list[str]:
    """Packages that the run imported and that are here in another version, or not at all; and another Python."""
    here, packages_then = packages(), before.get("packages", {})
    pairs = [(f"package {name}", packages_then.get(name, ""), here.get(name, "(not installed)")) for name in before.get("imported", ())]
    python, then = platform.python_version(), str(before.get("python", platform.python_version()))
    if then.split(".")[:2] != python.split(".")[:2]:
        pairs.append(("Python", then, python))
    return [f"{what}: {was} -> {now}" for what, was, now in pairs if was != now]


def _folder(scratch: Path, name: str) -> Path:
    (scratch / name).mkdir()
    return scratch / name


def _cwd(code: Restored, scratch: Path, result: Again) -> Path:
    """Where the program is started."""
    if not code.cwd or not code.holds(code.cwd):
        result.problems.append("the record does not say in which folder it was started; an empty one takes its place")
        return _folder(scratch, "empty")
    place = code.place(code.cwd)
    place.mkdir(parents=True, exist_ok=True)  # git keeps no folder that is empty
    return place


def _live(
    program: Program, record: Mapping[str, Any], state: Mapping[str, Any], code: Restored, runs: Path, target: Path, result: Again
) -> Path | None:
    """Start the program and wait for its end; its run goes to the target. Where it was made; None where there is none."""
    is_open = state.get("status") in OPEN
    stage = Stage(str(runs), stop_after=state["steps"] if is_open else None, interrupt=is_open)
    began, steps = time.monotonic(), -1
    while True:
        life = program.live(stage, variables_of(record, code.moved))
        if (name := _counterpart(record, stage, runs, result)) is None:
            result.last_words = life.last_words
            return None
        now = runs_in(runs)[name]
        if now.status not in OPEN or not steps < now.steps < state["steps"]:
            break
        steps = now.steps  # a program that stops itself: it was started again the first time, too
    result.seconds = time.monotonic() - began
    result.last_words = life.last_words if life.code and now.status not in OPEN else ""
    shutil.move(runs / name, target)
    result.again = target
    return runs / name


def _counterpart(record: Mapping[str, Any], stage: Stage, runs: Path, result: Again) -> str | None:
    """Of the runs that the program made, the one that is to be compared: in the same folder, or with the same config."""
    made = list(runs_in(runs))
    if len(made) < 2:
        return next(iter(made), None)
    asked = stage.name(Path(stage.place(asked_run_dir(record))))
    alike = [name for name in made if _config(read_provenance(runs / name)) == _config(record)]
    name = asked if asked in made else next(iter(alike), made[0])
    if (note := f"the program makes {len(made)} runs; {name} is compared") not in result.notes:
        result.notes.append(note)
    return name


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config that say what is computed."""
    config = record.get("config", {})
    return {name: entry.get("value") for name, entry in config.items() if not re.search(r"(^|\.)(run_dir|time_limit|log\.\w+)$", name)}


def _other_inputs(before: Mapping[str, Any], now: Mapping[str, Any], code: Restored) -> list[str]:
    """What went into the new run and was not what went into the first one, as its own record says: code, and data."""
    if not isinstance(now.get("code"), dict):
        return []
    here = [entry["root"] for entry in now["code"]["repositories"] if code.holds(entry["root"]) and not Path(entry["root"]).is_relative_to(code.into)]
    found = [f"code of today in {root} was imported, and not that of the run" for root in here if _imports_from(now, root)]
    files, then = now["code"]["files"], before["code"].get("files", {})
    if not code.commit:
        found += [f"{name}: another one was imported" for name in files if name in then and then[name]["sha256"] != files[name]["sha256"]]
    for name, was in before.get("data", {}).items():
        if isinstance(was, dict) and isinstance(data := now.get("data", {}).get(name), dict):
            found += [f"{name} data, {line}" for line in data_differences(was, data)]
    return found


def _imports_from(record: Mapping[str, Any], root: str) -> bool:
    return any(Path(root, name).is_file() for name in record["code"]["files"])


def _edited(run: Path) -> list[str]:
    return [f"{name} is not as the run left it: somebody edited it, or it is damaged" for name in broken(run)]


def _accepted(run: Path) -> list[str]:
    return [f"accepted on the way, so that no single program makes this run: {line}" for line in accepted_changes(run)]
