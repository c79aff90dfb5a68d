"""Replay: the step of a capsule, made once more by the program that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from treadle.checkpoint.restore import read_checkpoint
from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tracked import BATCH
from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError, NonFiniteLoss, UsageError
from treadle.core.places import is_users
from treadle.core.structure import leaves
from treadle.data.batch import Batch, to_device
from treadle.proof.command import command_of, variables_of
from treadle.proof.digest import Untold, whole_digest
from treadle.proof.lives import Program
from treadle.provenance.read import read_provenance
from treadle.system.folder import read_record
from treadle.system.seal import file_checksum
from treadle.system.stage import Stage

_SHOWN = 8


@dataclass
class Replay:
    """What came of it.

    Args:
        step: the step.
        before: what happened first: the error and its message.
        now: what happened this time; empty where the step went through.
        same: whether it is the same.
        batch: "the same", "another" or "missing": what the data gives now for this step, beside what the capsule holds.
        found: what the anomaly search found, in the order of time.
        ids: the samples, by their index in the data.
        gradients: parameters whose gradient was not finite.
        doubtful: random generators whose state before the step is not certain.
        doubtful_buffers: buffers of models whose content before the step is not certain.
        updates: updates that the step had made already when it failed.
        changed: files of the program that are not as they were when the run was made.
        raised_in: the line of the user's code where an error of its own came from.
    """

    step: int
    before: str
    now: str = ""
    same: bool = False
    batch: str = "missing"
    found: list[str] = field(default_factory=list)
    ids: list[int] | None = None
    gradients: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    doubtful_buffers: list[str] = field(default_factory=list)
    updates: int = 0
    changed: list[str] = field(default_factory=list)
    raised_in: str = ""


def replay(capsule: Path, scratch: Path, *, anomaly: bool = False, timeout_s: float | None = None) -> Replay:
    """Make the step of a capsule again.

    Args:
        capsule: its folder, in the run folder that it belongs to.
        scratch: an empty folder.
        anomaly: also find the module that first gave a value that is not finite.
        timeout_s: how long the program may take.

    Raises:
        CheckpointError: the capsule is damaged.
        UsageError: it is none, or its program cannot be started, or does not come to the step.
    """
    states, info = read_checkpoint(capsule)
    if "error" not in info or "run" not in states:
        raise UsageError(f"{str(capsule)!r} is a checkpoint and no capsule: it says nothing of an error")
    run = capsule.absolute().parents[1]
    record, state = read_provenance(run), read_record(run)
    if not isinstance(record.get("code"), dict) or not (run / "config.yaml").is_file():
        raise UsageError(f"{str(capsule)!r} is not in the folder of its run, with the record of what made it; put it back below RUN/capsules")
    result = Replay(info["step"], f"{info['error']}: {info['message']}", ids=info["ids"], gradients=info["gradients"], doubtful=info["doubtful"])
    result.doubtful_buffers = info.get("doubtful_buffers", [])
    result.updates, result.changed, result.raised_in = info["updates"], _changed(record), _raised_in(info)
    batch = states.pop(BATCH, None)
    program = Program(command_of(record, state, str, run / "config.yaml"), scratch, timeout_s, cwd=_cwd(record))
    for search in [False, True] if anomaly else [False]:
        folder = scratch / ("search" if search else "step")
        _prepare(folder / "run", run, states, info)
        stage = Stage(
            str(folder), run_dir=str(folder / "run"), stop_after=info["step"], capsule=str(capsule.absolute()) if batch is not None else "",
            replay=True, anomaly=search,
        )  # fmt: skip
        life = program.live(stage, variables_of(record, str))
        if not (events := life.of("replayed")):
            raise UsageError(f"the program did not come to step {info['step']}; it ended with code {life.code}: {life.last_words}")
        if search:
            result.found = [*_wrong_samples(batch, info), *(str(event["found"]) for event in life.of("anomaly"))]
        else:
            result.batch = str(events[0]["batch"])
            result.now = _failure(folder / "run", info["step"])
    result.same = without_addresses(result.now) == without_addresses(result.before)
    return result


def _raised_in(info: dict[str, Any]) -> str:
    """The innermost place of the user's own in a traceback; empty for an error that is Treadle's."""
    if info["error"] == NonFiniteLoss.__name__:
        return ""
    frames = re.findall(r'File "(.+)", line (\d+), in (.+)', str(info.get("traceback", "")))
    return next((f"{file}:{line}, in {function}" for file, line, function in reversed(frames) if is_users(file)), "")


def _wrong_samples(batch: Any, info: dict[str, Any]) -> list[str]:
    """Whether the batch itself held values that are not finite, and in which samples."""
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dim()]
    ids = info["ids"] or []
    rows = {row for tensor in tensors for row in (~tensor.reshape(len(tensor), -1).isfinite()).any(dim=1).nonzero().flatten().tolist()}
    if not rows:
        return []
    are_named = all(len(tensor) == len(ids) for tensor in tensors)
    named = f", in sample {', '.join(str(ids[row]) for row in sorted(rows)[:_SHOWN])}" if are_named else ""
    return [f"batch: it holds values that are not finite itself{named}"]


def _cwd(record: dict[str, Any]) -> Path:
    folder = Path(str(record.get("cwd", "")))
    if not folder.is_absolute() or not folder.is_dir():
        raise UsageError(f"the folder that the program was started in is not here: {record.get('cwd') or '(not recorded)'}")
    return folder


def _changed(record: dict[str, Any]) -> list[str]:
    """Files of the program that are not as they were when the run was made."""
    roots = [Path(entry["root"]) for entry in record["code"].get("repositories", ())]
    files = record["code"].get("files", {})
    return [name for name, digests in files.items() if digests["sha256"] not in {_sha256(root / name) for root in roots}]


def _sha256(file: Path) -> str:
    try:
        return file_checksum(file)
    except OSError:
        return ""


def without_addresses(message: str) -> str:
    """A message without where things were in memory, which is different in each process."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x", message)


def _prepare(folder: Path, run: Path, states: dict[str, Any], info: dict[str, Any]) -> None:
    """A run folder that stands right before the step."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    before = info["step"] - 1
    counters = {**states["run"]["progress"], "epoch_size": None}
    if before:
        encoded = {name: encode(state, name) for name, state in states.items()}
        write_checkpoint(folder / "checkpoints", before, encoded, {"step": before, "value": None, "best": None, "progress": counters})
        (folder / "run.json").write_text(json.dumps({"status": "interrupted", "steps": before}), encoding="utf-8")


def _failure(folder: Path, step: int) -> str:
    """What the step failed with this time: as its own new capsule says, or the record of the run."""
    try:
        info = read_checkpoint(folder / "capsules" / f"step-{step:06d}")[1]
        return f"{info['error']}: {info['message']}"
    except CheckpointError:
        record = read_record(folder)
        return str(record.get("reason")) if record.get("status") == "failed" else ""


class Replayed:
    """A loader whose first batch is that of a capsule.

    Args:
        loader: what the program reads; None for a loop without data.
        run: the `Run`.
        capsule: the folder; empty where it holds no batch.
        report: told how the two batches compare.
    """

    def __init__(self, loader: Any, run: Any, capsule: str, report: Any) -> None:
        self._loader, self._run, self._capsule, self._report = loader, run, capsule, report

    def batches(self, *position: Any, **more: Any) -> Generator[Batch, None, None]:
        """The batch of the capsule, as it was kept, and then what the data gives."""
        first = True
        for batch in self._loader.batches(*position, **more):
            if first:
                batch.parts = self._kept(batch)
            first = False
            yield batch

    def _kept(self, batch: Batch) -> Any:
        if not self._capsule:
            self._report.add("replayed", batch="missing")
            return batch.parts
        kept = read_checkpoint(Path(self._capsule))[0][BATCH]
        try:
            same = whole_digest([leaves(part) for part in batch.parts]) == whole_digest([leaves(part) for part in kept])
        except Untold:
            same = False
        self._report.add("replayed", batch="the same" if same else "another")
        if same:  # in the structure that the program made, which may be a class of its own
            return batch.parts
        device: torch.device = self._run.device
        return [to_device(part, device) for part in kept]
