"""Runs of the program in a process of their own, and what is left of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.checkpoint.restore import read_checkpoint

NOT_COMPARED = ("wall", "time/", "throughput/", "memory/")
KILLED = -9


def start(name: str | int, folder: Path, *arguments: str) -> int:
    """Run the program; gives its exit code, which must be 0 or that of a kill -9."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", "-m", "guarantees.program", str(name), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode in (0, KILLED), done.stderr
    return done.returncode


class Bits:
    """An array, equal to another of the same bits."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bits) and self._form() == other._form() and self.array.tobytes() == other.array.tobytes()

    __hash__ = None  # type: ignore[assignment]

    def is_near(self, other: "Bits") -> bool:
        """Whether the difference is one of rounding."""
        return self._form() == other._form() and np.allclose(self.array, other.array, rtol=1e-3, atol=1e-5)

    def _form(self) -> tuple[Any, ...]:
        return self.array.dtype, self.array.shape


def remains(folder: Path, *, levels: bool = False) -> dict[str, Any]:
    """Everything a run left that has to be the same: states, journal without its clock, random generators, what each step saw.

    Args:
        folder: the run folder.
        levels: leave out what only a Trainer has, to compare levels.
    """
    record = json.loads((folder / "run.json").read_text())
    states, _ = read_checkpoint(folder / record["last"])
    own = states.pop("run")
    states.pop("train_metrics", None)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left_out = (*NOT_COMPARED, "train/accuracy") if levels else NOT_COMPARED
    best = folder / "best.json"
    return {
        "steps": _seen(Path(f"{folder}.ids")),
        "status": record["status"],
        "progress": own["progress"],
        "journal": [{key: value for key, value in row.items() if not key.startswith(left_out)} for row in rows],
        "states": bits(states),
        "random generators": bits(own["rng"]),
        "best": json.loads(best.read_text()) if best.exists() else None,
        "kept": record["kept"],
    }


def _seen(file: Path) -> dict[int, set[str]]:
    """What each step saw. A step that was done again must have seen the same again, or it has more than one."""
    steps: dict[int, set[str]] = {}
    for line in file.read_text().splitlines():
        step, seen = line.split(" ", 1)
        steps.setdefault(int(step), set()).add(seen)
    return steps


def bits(value: Any) -> Any:
    """A state whose tensors and arrays can be compared, bit by bit."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    if hasattr(value, "numpy"):
        value = (value.view(torch.int16) if value.dtype is torch.bfloat16 else value).numpy()  # which numpy has no type for
    return Bits(value) if isinstance(value, np.ndarray) else value


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the event files, without those that only a clock gives."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith(NOT_COMPARED)]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def everything(folder: Path) -> dict[str, Any]:
    """What a run left, its TensorBoard included."""
    return {**remains(folder), "tensorboard": tensorboard_scalars(folder)}


def first_difference(one: Any, other: Any, *, rounding: bool = False, where: str = "") -> str | None:
    """The first place where two remains differ, and how; None where they do not.

    Args:
        one: what should be there.
        other: what is there.
        rounding: let floating-point numbers differ by rounding.
        where: the place that is looked at.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(key, one.get(key, "nothing"), other.get(key, "nothing")) for key in dict.fromkeys([*one, *other])]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return f"{where}: {len(one)} items, not {len(other)}"
        pairs = [(place, *pair) for place, pair in enumerate(zip(one, other, strict=True))]
    else:
        return (
            None
            if (type(one) is type(other) and one == other) or (rounding and _near(one, other))
            else f"{where}: {_short(one)}, not {_short(other)}"
        )
    found = (first_difference(a, b, rounding=rounding, where=f"{where}/{key}" if where else str(key)) for key, a, b in pairs)
    return next(filter(None, found), None)


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, Bits) and isinstance(other, Bits):
        return one.is_near(other)
    return isinstance(one, float) and isinstance(other, float) and bool(np.isclose(one, other, rtol=1e-3, atol=1e-5))


def _short(value: Any) -> str:
    text = f"{value.array.ravel()[:3]}..." if isinstance(value, Bits) else repr(value)
    return text if len(text) < 80 else f"{text[:80]}..."
