"""Runs of the program in a process of their own, and what is left of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from treadle.checkpoint.restore import read_checkpoint

PROGRAM = Path(__file__).with_name("program.py")
NOT_COMPARED = ("wall", "time/", "throughput/", "memory/")
KILLED = -9


def start(level: int, folder: Path, *arguments: str) -> int:
    """Run the program; gives its exit code, which must be 0 or that of a kill -9."""
    command = [sys.executable, "-W", "error", str(PROGRAM), str(level), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, KILLED), done.stderr
    return done.returncode


def remains(folder: Path, *, levels: bool = False) -> dict[str, Any]:
    """Everything a run left that has to be the same: states, journal without its clock, random generators, sample ids by step.

    Args:
        folder: the run folder.
        levels: leave out what only a Trainer has, to compare levels.
    """
    record = json.loads((folder / "run.json").read_text())
    states, _ = read_checkpoint(folder / record["last"])
    own = states.pop("run")
    states.pop("train_metrics", None)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ids = [line.split() for line in Path(f"{folder}.ids").read_text().splitlines()]
    left_out = (*NOT_COMPARED, "train/accuracy") if levels else NOT_COMPARED
    return {
        "status": record["status"],
        "states": _bits(states),
        "random generators": _bits(own["rng"]),
        "progress": own["progress"],
        "journal": [{key: value for key, value in row.items() if not key.startswith(left_out)} for row in rows],
        "sample ids": {int(step): rest for step, *rest in ids},  # a step that was done again counts as it was done last
    }


def _bits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bits(item) for item in value]
    value = value.numpy() if hasattr(value, "numpy") else value
    return value.tobytes() if hasattr(value, "tobytes") else value


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the event files, without those that only a clock gives."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith(NOT_COMPARED)]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
