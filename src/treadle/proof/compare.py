"""Two runs compared: what each step saw and gave, the journal, and the state in the newest checkpoint, bit by bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.checkpoint.restore import read_checkpoint
from treadle.checkpoint.save import folder_name
from treadle.checkpoint.tracked import RUN
from treadle.core.errors import CheckpointError, RunFolderError
from treadle.log.journal import read_journal
from treadle.log.writer import is_clock
from treadle.proof.attend import WITNESS

WITNESSED = {
    "samples": "the number of samples",
    "ids": "which samples the batch holds",
    "batch": "what is in the batch",
    "loss": "the loss",
    "weights": "the weights after the step",
    "random": "the random generators after the step",
}
"""What a witness writes down of each step, in the order in which one follows from the other."""
MISSING = "(absent)"


@dataclass(frozen=True)
class Difference:
    """The first thing in which two runs differ.

    Args:
        what: "samples", "ids", "batch", "loss", "weights", "random", "journal", "state", "steps" or "checkpoint".
        step: the first step where it shows; None where it cannot be told.
        where: which one, such as ``model: layers.0.weight``.
        one: what the first run has, in short.
        other: what the second one has.
    """

    what: str
    step: int | None
    where: str
    one: str
    other: str

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        return f"{self.where}{at}: {self.one} in one run, {self.other} in the other"


@dataclass
class Comparison:
    """What was compared, and the first difference.

    Args:
        difference: None where there is none.
        counts: how many of each kind of thing were compared; zero of those that a run does not have.
        weights: SHA-256 of the models' weights and buffers in the first run's newest checkpoint; empty where there is none.
        notes: what was not compared, and why.
    """

    difference: Difference | None = None
    counts: dict[str, int] = field(default_factory=dict)
    weights: str = ""
    notes: list[str] = field(default_factory=list)


def first_difference(one: str | Path, other: str | Path) -> Difference | None:
    """The first thing in which two run folders differ; None where they are the same, bit by bit.

    Compared are the lines of `witness.jsonl`, where both have it, the journal without its clock, and the states in the newest
    checkpoints that are whole: models, optimizers, everything else that is tracked, progress and random generators.

    Args:
        one: a run folder.
        other: another one.
    """
    return compare(one, other).difference


def compare(one: str | Path, other: str | Path, until: int | None = None, thinned: bool = False) -> Comparison:
    """As `first_difference`, with what was compared.

    Args:
        one: a run folder.
        other: another one.
        until: the step after which rows of the journal do not count, where the first run did not come to its end.
        thinned: whether checkpoints of the first run may have been removed, which is no difference then, but a note: of both, the newest
            of the same step are compared.
    """
    one, other, result = Path(one), Path(other), Comparison()
    found = [_witness(one, other, result), _journal(one, other, result, until), _states(one, other, result, thinned)]
    found = [item for item in found if item is not None]
    # What shows first comes first; of one step, what the witness saw says more than a row, and a row more than the end.
    result.difference = min(found, key=lambda item: float("inf") if item.step is None else item.step) if found else None  # type: ignore[union-attr]
    return result


# --- what each step saw ---


def _witness(one: Path, other: Path, result: Comparison) -> Difference | None:
    first, second = _seen(one), _seen(other)
    result.counts |= {"steps": 0, "samples": 0, "sample ids": 0, "batches": 0, "losses": 0}
    if not first or not second:
        return None
    for step in sorted({*first, *second}):
        lines = [*first.get(step, []), *second.get(step, [])]
        if step not in first or step not in second:
            there = ("done", MISSING) if step in first else (MISSING, "done")
            return Difference("steps", step, "the step", *there)
        for what, words in WITNESSED.items():
            expected = lines[0].get(what)
            for line in lines[1:]:  # also where one run did a step twice: it must have been the same step
                if line.get(what) != expected:
                    return Difference(what, step, words, _short(expected), _short(line.get(what)))
        _count(lines[0], result)
    return None


def _count(line: dict[str, Any], result: Comparison) -> None:
    counts, samples = result.counts, int(line.get("samples") or 0)
    counts["steps"] += 1
    counts["samples"] += samples if line.get("batch") is not None else 0
    counts["sample ids"] += samples if line.get("ids") is not None else 0
    counts["batches"] += line.get("batch") is not None
    for what, why in dict(line.get("untold") or {}).items():
        note = f"{WITNESSED.get(what, what)} could not be told, and was not compared: {why}"
        if note not in result.notes:
            result.notes.append(note)
    counts["losses"] += len(line.get("loss") or ())


def _seen(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The lines of a witness by step; a damaged line is left out."""
    steps: dict[int, list[dict[str, Any]]] = {}
    try:
        lines = (folder / WITNESS).read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            value = json.loads(line)
            steps.setdefault(int(value["step"]), []).append(value)
        except (ValueError, TypeError, KeyError):
            continue
    return steps


# --- the journal ---


def _journal(one: Path, other: Path, result: Comparison, until: int | None) -> Difference | None:
    try:
        first, second = ([row for row in _rows(folder) if until is None or row["step"] <= until] for folder in (one, other))
    except RunFolderError as error:
        return Difference("journal", None, "the journal", str(error), "")
    result.counts |= {"journal rows": 0, "journal values": 0}
    for place in range(max(len(first), len(second))):
        a = first[place] if place < len(first) else {}
        b = second[place] if place < len(second) else {}
        for name in dict.fromkeys([*a, *b]):
            if not _same_value(a.get(name, MISSING), b.get(name, MISSING)):
                step = min(row["step"] for row in (a, b) if row)
                return Difference("journal", step, f"{name!r} in the journal", _short(a.get(name, MISSING)), _short(b.get(name, MISSING)))
        result.counts["journal rows"] += 1
        result.counts["journal values"] += len(a)
    return None


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "wall" and not is_clock(name)} for row in read_journal(folder)]


def _same_value(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)  # where NaN is NaN


# --- the end ---


def _states(one: Path, other: Path, result: Comparison, thinned: bool) -> Difference | None:
    result.counts |= {"tensors": 0, "state values": 0}
    has = bool(_checkpoints(one)), bool(_checkpoints(other))
    first, second = _newest_of_both(one, other) if thinned and has[1] else (newest_states(one), newest_states(other))
    if thinned and has[1] and first is None:
        result.notes.append("there is no step of which both have a checkpoint that is whole: of states, only digests could be compared")
        return None
    if first is None or second is None:
        if first is second:
            return None
        there = ("whole", MISSING) if second is None else (MISSING, "whole")
        return Difference("checkpoint", None, "a checkpoint", *there)
    step = int(first[RUN]["progress"]["steps"])
    if thinned and _checkpoints(other)[0].name != folder_name(step):
        result.notes.append(f"the states of step {step} are compared, the newest of which both have a checkpoint that is whole")
    else:
        result.weights = weights_digest(first)
    for path, a, b in _pairs(_comparable(first), _comparable(second), ""):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            result.counts["tensors"] += 1
            if not _same_bits(a, b):
                return Difference("state", step, f"the state of {path}", *_first_element(a, b))
        else:
            result.counts["state values"] += 1
            if type(a) is not type(b) or repr(a) != repr(b):
                return Difference("state", step, f"the state of {path}", _short(a), _short(b))
    return None


def first_different(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first value that is not the same, to the bit, in two states by name; empty where there is none."""
    for path, a, b in _pairs(one, other, ""):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if not _same_bits(a, b):
                return f"the state of {path}: {' became '.join(_first_element(a, b))}"
        elif type(a) is not type(b) or repr(a) != repr(b):
            return f"the state of {path}: {_short(a)} became {_short(b)}"
    return ""


def newest_states(folder: Path) -> dict[str, Any] | None:
    """The states of the newest checkpoint of a run that is whole; None where there is none."""
    return next((states for path in _checkpoints(folder) if (states := _whole(path)) is not None), None)


def _newest_of_both(one: Path, other: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The states of the newest step of which both have a checkpoint that is whole; None and None where there is none."""
    names = [path.name for path in _checkpoints(other)]
    for path in _checkpoints(one):
        if path.name in names and (first := _whole(path)) is not None and (second := _whole(other / "checkpoints" / path.name)) is not None:
            return first, second
    return None, None


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((folder / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name), reverse=True)


def _whole(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(checkpoint)[0]
    except CheckpointError:
        return None


def weights_digest(states: dict[str, Any]) -> str:
    """SHA-256 of every tensor that a state holds by its own name, as models do, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(states):
        state = states[name]
        if name != RUN and isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
            for key in sorted(state):
                array = _plain(state[key])
                digest.update(f"{name} {key} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _comparable(states: dict[str, Any]) -> dict[str, Any]:
    """States without what a clock gives: how long a stream took, and how long the text of the journal is."""
    own = {name: value for name, value in states[RUN].items() if name != "journal"}
    if isinstance(own.get("stream"), dict):
        own["stream"] = {name: value for name, value in own["stream"].items() if name != "seconds"}
    return {**{name: value for name, value in states.items() if name != RUN}, RUN: own}


def _pairs(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    one, other = _plain(one), _plain(other)
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _pairs(one.get(key, MISSING), other.get(key, MISSING), f"{path}.{key}" if "." in path or ": " in path else _named(path, key))
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _pairs(a, b, f"{path}[{place}]")
    else:
        yield path, one, other


def _named(path: str, key: object) -> str:
    return f"{path}: {key}" if path else str(key)


def _plain(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu().contiguous()
    if value.dtype not in _NO_NUMPY:
        return value.numpy()
    return value.reshape(-1).view(torch.uint8).numpy() if value.numel() else value.float().numpy()


_NO_NUMPY = {torch.bfloat16, *(kind for name in ("float8_e4m3fn", "float8_e5m2") if (kind := getattr(torch, name, None)) is not None)}


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _first_element(one: np.ndarray, other: np.ndarray) -> tuple[str, str]:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{one.dtype} {list(one.shape)}", f"{other.dtype} {list(other.shape)}"
    a, b = (np.ascontiguousarray(array).reshape(-1) for array in (one, other))
    size = a.dtype.itemsize
    place = int(np.flatnonzero((a.view(np.uint8) != b.view(np.uint8)).reshape(-1, size).any(axis=1))[0])
    return f"{a[place]!s} as element {place}", f"{b[place]!s}"


def _short(value: Any) -> str:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
