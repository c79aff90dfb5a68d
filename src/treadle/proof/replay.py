"""Replay: the step of a capsule, made once more by the program that it comes from."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from treadle.checkpoint.restore import read_checkpoint
from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tracked import BATCH
from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError, UsageError
from treadle.core.structure import leaves
from treadle.data.batch import Batch, to_device
from treadle.proof.again import command_of
from treadle.proof.digest import digest_of
from treadle.proof.lives import Program
from treadle.provenance.read import read_provenance
from treadle.system.folder import read_record
from treadle.system.stage import Stage


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
        updates: updates that the step had made already when it failed.
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
    updates: int = 0


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
    run = capsule.absolute().parents[1]
    record, state = read_provenance(run), read_record(run)
    if "error" not in info or "code" not in record:
        raise UsageError(f"{str(capsule)!r} is no capsule in the folder of its run, with the record of what made it")
    command = command_of(record, state, lambda path: path, run / "config.yaml")
    result = Replay(info["step"], f"{info['error']}: {info['message']}", ids=info["ids"], gradients=info["gradients"], doubtful=info["doubtful"])
    result.updates = info["updates"]
    batch = states.pop(BATCH, None)
    for number, search in enumerate([False, True] if anomaly else [False]):
        folder = scratch / f"{number}"
        _prepare(folder / "run", run, states, info)
        cwd = Path(record["cwd"])
        stage = Stage(
            str(folder), run_dir=str(folder / "run"), stop_after=info["step"], capsule=str(capsule.absolute()) if batch is not None else "",
            replay=True, anomaly=search,
        )  # fmt: skip
        (folder / "processes").mkdir()
        life = Program(command, folder / "processes", timeout_s, cwd=cwd if cwd.is_dir() else None).live(stage)
        events = life.of("replayed")
        if not events:
            raise UsageError(f"the program did not come to step {info['step']}; it ended with code {life.code}: {life.last_words}")
        if search:
            result.found = [str(event["found"]) for event in life.of("anomaly")]
        else:
            result.batch = str(events[0]["batch"])
            result.now = _failure(folder / "run", info["step"])
    result.same = result.now == result.before
    return result


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
        same = digest_of([list(leaves(part)) for part in batch.parts]) == digest_of([list(leaves(part)) for part in kept])
        self._report.add("replayed", batch="the same" if same else "another")
        if same:  # in the structure that the program made, which may be a class of its own
            return batch.parts
        device: torch.device = self._run.device
        return [to_device(part, device) for part in kept]
