"""Again: a run made once more from its record, in a place of its own, and compared with what it left."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.checkpoint.digests import read_digests
from treadle.core.errors import UsageError
from treadle.proof.compare import Comparison, Difference, compare
from treadle.proof.lives import Program, runs_in
from treadle.provenance.environment import packages
from treadle.provenance.read import read_provenance
from treadle.provenance.record import accepted_changes
from treadle.provenance.restore import Restored, restored
from treadle.provenance.secrets import WITHHELD, any_withheld
from treadle.system.folder import read_record
from treadle.system.seal import broken
from treadle.system.stage import Stage

_COMPUTING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "NUMEXPR_", "CUBLAS_", "CUDNN_", "TORCH", "PYTORCH_", "ATEN_", "NVIDIA_TF32", "PYTHONHASHSEED")
"""Beginnings of variables that say how something is computed; others belong to the machine."""
_OPEN = ("running", "interrupted")
"""Statuses of a run that was to go on: it is made again as far as it came."""


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


def make_again(
    run: Path,
    target: Path,
    scratch: Path,
    *,
    repository: Path | None = None,
    at: str | None = None,
    anyway: bool = False,
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
        told: told what is being done.

    Raises:
        UsageError: it cannot be made again, or only with `anyway`; every reason is listed.
    """
    record, state = read_provenance(run), read_record(run)
    if "code" not in record:
        raise UsageError(
            f"{str(run)!r} has no record of what made it{': ' + record['damaged'] if 'damaged' in record else ''}; it cannot be made again"
        )
    if not state.get("steps"):
        raise UsageError(f"{str(run)!r} has done no step, so there is nothing to compare")
    result = Again(run)
    result.problems = _edited(run) + _accepted(run) + other_environment(record["environment"])
    told("bringing back the code")
    with restored(record, run / "provenance", scratch / "code", repository=repository, at=at) as code:
        result.problems += code.problems
        result.notes = code.notes
        if result.problems and not anyway:
            listed = "".join(f"\n  {problem}" for problem in result.problems)
            raise UsageError(
                f"{str(run)!r} cannot be made again as it was:{listed}\n--anyway makes it with these differences, and says so in its verdict"
            )
        told("running")
        _live(record, state, code, scratch, target, result)
    if result.again is not None:
        _judge(run, result.again, state, result)
    return result


def other_environment(before: Mapping[str, Any]) -> list[str]:
    """Packages that the run imported and that are here in another version, or not at all; and another Python."""
    here = packages()
    pairs = [(f"package {name}", before["packages"].get(name, ""), here.get(name, "(not installed)")) for name in before.get("imported", ())]
    python = platform.python_version()
    if before["python"].split(".")[:2] != python.split(".")[:2]:
        pairs.append(("Python", before["python"], python))
    return [f"{what}: {was} -> {now}" for what, was, now in pairs if was != now]


def command_of(record: Mapping[str, Any], state: Mapping[str, Any], moved: Callable[[str], str], config: Path) -> list[str]:
    """The words that start the program again.

    Args:
        record: what made the run.
        state: its `run.json`.
        moved: gives a path as it is now.
        config: its config.

    Raises:
        UsageError: it was made in a notebook or an interpreter, or the words are not all there.
    """
    words, origin = list(record["command"]), state.get("origin", "")
    interactive = len(words) < 2 or any("ipykernel" in word or "jupyter" in word for word in words[:3])
    if any_withheld(words) or interactive:
        if not origin:
            why = (
                f"its command line holds a secret, which was not recorded ({WITHHELD})"
                if not interactive
                else "it was made in a notebook or an interpreter"
            )
            raise UsageError(f"the run cannot be started again: {why}, and no function `experiment` made its trainer")
        return [sys.executable, "-m", "treadle", "train", moved(origin), "--config", str(config)]
    program = ["-m", "treadle"] if Path(words[1]).name == "treadle" else [moved(words[1])]
    return [sys.executable, *program, *map(moved, words[2:])]


def _live(record: Mapping[str, Any], state: Mapping[str, Any], code: Restored, scratch: Path, target: Path, result: Again) -> None:
    """Start the program and wait for its end; its run goes to the target."""
    stage_folder, processes = scratch / "runs", scratch / "processes"
    for folder in (stage_folder, processes):
        folder.mkdir()
    is_open = state.get("status") in _OPEN
    stage = Stage(str(stage_folder), stop_after=state["steps"] if is_open else None, interrupt=is_open)
    cwd = Path(code.moved(record["cwd"]))
    command = command_of(record, state, code.moved, (result.run / "config.yaml").absolute())
    began = time.monotonic()
    life = Program(command, processes, cwd=cwd if cwd.is_dir() else None).live(stage, _variables(record, code))
    result.seconds = time.monotonic() - began
    result.last_words = life.last_words if life.code else ""
    runs = runs_in(stage_folder)
    asked = stage.name(Path(stage.place(str(record["config"].get("run_dir", {}).get("value", "")))))
    name = asked if asked in runs else next(iter(runs), None)
    if name is None:
        result.last_words = life.last_words
        return
    if len(runs) > 1:
        result.notes.append(f"the program makes {len(runs)} runs; {name} is compared")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(stage_folder / name, target)
    result.again = target


def _variables(record: Mapping[str, Any], code: Restored) -> dict[str, str]:
    recorded = record["environment"]["variables"]
    found = {name: value for name, value in recorded.items() if name.startswith(_COMPUTING) and WITHHELD not in value}
    found.setdefault("OMP_NUM_THREADS", str(record["environment"]["threads"]))  # how many threads share a sum decides its rounding
    own = [code.moved(path) for path in record["code"].get("paths", ())]
    return {**found, "PYTHONPATH": ":".join(own)}


def _judge(run: Path, again: Path, state: Mapping[str, Any], result: Again) -> None:
    is_open = state.get("status") in _OPEN
    comparison: Comparison = compare(run, again, until=state["steps"] if is_open else None)
    result.counts, result.weights = comparison.counts, comparison.weights
    before, now = read_digests(run), read_digests(again)
    common = sorted(set(before) & set(now))
    result.counts["checkpoints"] = len(common)
    step = next((step for step in common if before[step] != now[step]), None)
    result.difference = comparison.difference
    if step is not None and (result.difference is None or result.difference.step is None or step < result.difference.step):
        name = next(name for name in sorted({*before[step], *now[step]}) if before[step].get(name) != now[step].get(name))
        result.difference = Difference("weights", step, f"the checkpoint's {name}", *(side[step].get(name, "absent")[:12] for side in (before, now)))
    compared = sum(result.counts.get(kind, 0) for kind in ("journal rows", "tensors", "checkpoints"))
    result.identical = result.difference is None and compared > 0


def _edited(run: Path) -> list[str]:
    return [f"{name} is not as the run left it: somebody edited it, or it is damaged" for name in broken(run)]


def _accepted(run: Path) -> list[str]:
    return [f"accepted on the way, so that no single program makes this run: {line}" for line in accepted_changes(run)]
