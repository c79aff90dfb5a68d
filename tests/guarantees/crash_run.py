"""A run whose file operations are recorded, and what becomes of it after every crash.

Small and in this process, so that it can be gone on with hundreds of times.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import treadle
from guarantees.crashes import Operation, State, crashes, recorded
from guarantees.remains import first_difference, remains
from treadle.checkpoint.restore import verify
from treadle.metrics import Accuracy
from treadle.provenance.read import read_history, read_provenance
from treadle.system.seal import broken

STEPS = 8


class Witness:
    """State of a handler, and what each step saw."""

    def __init__(self, folder: Path) -> None:
        self.file, self.seen = Path(f"{folder}.ids"), 0

    def on_step_finished(self, run: treadle.Run) -> None:
        self.seen += int(run.step.ids.sum())
        with open(self.file, "a") as file:
            print(run.step.number, *run.step.ids, file=file)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def train(folder: Path, *, background: bool = False) -> treadle.Result:
    """A run that saves every second step, keeps the last checkpoint and the best, and removes the others."""
    generator = torch.Generator().manual_seed(3)
    inputs, labels = torch.randn(40, 4, generator=generator), torch.randint(0, 2, (40,), generator=generator)
    return treadle.train(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.2), nn.Linear(3, 2)),
        nn.CrossEntropyLoss(),
        (inputs[:32], labels[:32]),
        valid=(inputs[32:], labels[32:]),
        metrics={"accuracy": Accuracy()},
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        handlers=[Witness(folder)],
        config=treadle.Config(
            run_dir=str(folder),
            duration=f"{STEPS} steps",
            batch_size=8,
            machine=treadle.MachineConfig(device="cpu"),
            evaluate=treadle.EvaluateConfig(every="2 steps"),
            checkpoint=treadle.CheckpointConfig(every="2 steps", keep_last=1, best="valid/loss", background=background),
            log=treadle.LogConfig(every="1 step", console="quiet", tensorboard=False),
        ),
    )


def record(folder: Path, *, background: bool = False) -> list[Operation]:
    """What a whole run does to its files."""
    folder.mkdir()
    with recorded(folder) as log:
        train(folder, background=background)
    return log


def check(state: State, folder: Path, whole: dict[str, Any], committed: int) -> str | None:
    """Go on after a crash; gives what is wrong, if anything.

    Args:
        state: what the crash left.
        folder: where to build it.
        whole: what the run leaves that was not interrupted.
        committed: the step of the newest checkpoint that was safe before the crash.
    """
    state.build(folder)
    # What was seen before the crash; a step that is done again must see the same.
    Path(f"{folder}.ids").write_text("".join(f"{step} {seen}\n" for step, (seen,) in whole["steps"].items()))
    steps = sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))
    if (steps and steps[-1] < committed) or (not steps and committed):
        return f"the checkpoint of step {committed} was safe, and is gone; there are {steps}"
    try:
        for path in [*(folder / "checkpoints").glob("step-*"), *_named(folder)]:
            verify(path)
        train(folder)
        for path in [*(folder / "checkpoints").glob("step-*"), *_named(folder)]:
            verify(path)
    except treadle.errors.TreadleError as error:
        return f"{type(error).__name__}: {error}"
    if left := list((folder / "checkpoints").glob(".*")):
        return f"leftovers: {left}"
    if wrong := broken(folder):
        return f"not as they are sealed: {wrong}"
    if "config" not in read_provenance(folder) or [line["event"] for line in read_history(folder)][-2:] != ["started", "ended"]:
        return "what made the run is not recorded"
    return first_difference(whole, remains(folder))


def _named(folder: Path) -> list[Path]:
    """Every checkpoint that a file of the run names as there."""
    best, run = folder / "best.json", folder / "run.json"
    names = [row["checkpoint"] for row in json.loads(best.read_text())["best"]] if best.exists() else []
    record = json.loads(run.read_text()) if run.exists() else {}
    return [folder / name for name in [*names, *filter(None, (record.get("best"), record.get("last")))]]


Wrong = str | None


def every_crash(folder: Path, log: list[Operation], whole: dict[str, Any], span: tuple[int, int] | None = None) -> Iterator[tuple[str, Wrong]]:
    """Go on after every crash within a span of operations, or of the whole run; gives which it was, and what is wrong."""
    for number, (done, kind, state) in enumerate(crashes(log, *(span or ()))):
        inside = folder / f"state-{number:04d}"
        inside.mkdir(parents=True)
        wrong = check(state, inside / "run", whole, committed(log[:done]))
        shutil.rmtree(inside)
        yield f"after {done} operations (the next: {log[done] if done < len(log) else 'none'}), {kind}", wrong


def committed(log: list[Operation]) -> int:
    """The newest step whose checkpoint has its name, and whose name is safe."""
    step, newest = 0, 0
    for operation in log:
        if operation.kind == "rename" and operation.data.startswith("checkpoints/step-"):
            newest = int(operation.data.removeprefix("checkpoints/step-"))
        elif operation == Operation("fsync", "checkpoints"):
            step = newest
    return step
