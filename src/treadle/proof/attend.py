"""What attends a run in a directed process: it stops it, ends its life, and writes down each step."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from treadle.core.when import Duration
from treadle.proof.digest import Untold, digest_of, whole_digest
from treadle.system.seed import get_rng_state
from treadle.system.stage import Explained, Kill, Stage

WITNESS = "witness.jsonl"
"""In a run folder: a line for each step that a process did."""
_FIRST_STEP_S = 0.02
"""How long a step is taken to be before one was seen."""


def attend(run: Any, stage: Stage) -> None:
    """Add to a run what its stage asks for.

    Args:
        run: the `Run`, whose folder is open.
        stage: what the process was told.
    """
    name = stage.name(run.dir)
    report = Report(stage.report, name)
    report.add("entered")
    if stage.profile is not None:
        from treadle.profile.profiler import Profiler

        run._stack.enter_context(Profiler(run, stage.profile, sys.exit).watching())
        return
    if stage.explain is not None:
        run.steps = partial(_explained, run, stage.explain)
        return
    attendant = Attendant(stage, report)
    run.events.on("run_started")(attendant.begin)
    if stage.anomaly:
        from treadle.proof.anomaly import Anomaly

        run.events.on("run_started")(lambda run: Anomaly(run._loop.tracked.models(), lambda words: report.add("anomaly", found=words)) and None)
    if stage.witness:
        witness = Witness(run)
        run.events.on("step_finished")(witness.see)
    if stage.inspect is not None and stage.inspect.run in ("", name):
        from treadle.proof.inspector import Inspector

        Inspector(run, stage.inspect, report).join()
    run.events.on("step_finished")(attendant.watch)
    if stage.kill is not None and stage.kill.run in ("", name):
        Killer(run, stage.kill, report).join()


def _explained(run: Any, wish: Explained, data: Any = None, *, total: str | None = None, epoch: str | None = None) -> Any:
    """In place of `Run.steps`: write down what would happen, and end the process."""
    from treadle.data.loader import Loader
    from treadle.explain.timeline import Timeline
    from treadle.explain.walk import Plan

    loader = data if isinstance(data, Loader) or data is None else run.loader(data)
    trainer: Any = sys._getframe(1).f_locals.get("self")
    body = trainer._step if type(trainer).__module__ == "treadle.trainer" else None
    duration = Duration.parse(run.config.duration if total is None or run.config.debug else total)
    steps = None if epoch is None else int(Duration.parse(epoch).value)
    plan = Plan(run.config, run.events, loader, duration, run.schedules, body, steps)
    Path(wish.path).write_text(json.dumps(Timeline.of(plan, wish.epoch).to_json()), encoding="utf-8")
    sys.exit(0)


def replayed(run: Any, stage: Stage, loader: Any) -> Any:
    """The data of a run that makes the step of a capsule again."""
    report = Report(stage.report, stage.name(run.dir))
    if loader is None:
        report.add("replayed", batch="the same")
        return None
    from treadle.proof.replay import Replayed

    return Replayed(loader, run, stage.capsule, report)


class Report:
    """Lines about what happens to runs, for who directs the process.

    Args:
        path: the file; None for nobody who wants to know.
        run: the run's name.
    """

    def __init__(self, path: str | None, run: str) -> None:
        self._path, self._run = path, run

    def add(self, event: str, **facts: Any) -> None:
        """Add a line."""
        if self._path is not None:
            add_line(Path(self._path), {"event": event, "run": self._run, **facts})

    def die(self, step: int, how: str) -> None:
        """Say so, and end this process at once."""
        self.add("killed", step=step, how=how)
        os.kill(os.getpid(), signal.SIGKILL)


def add_line(path: Path, value: dict[str, Any]) -> None:
    """Add a JSON object to a file by one system call, so that no kill tears it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, json.dumps(value).encode() + b"\n")
    finally:
        os.close(handle)


class Attendant:
    """Says where a run begins, and stops it where it shall end.

    Args:
        stage: what the process was told.
        report: where to say so.
    """

    def __init__(self, stage: Stage, report: Report) -> None:
        self._stage, self._report = stage, report

    def begin(self, run: Any) -> None:
        """The run has begun, or goes on."""
        gpu = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else None
        own = "treadle.trainer" in {frame.f_globals.get("__name__") for frame in stack()}
        machine = {"device": str(run.device), "gpu": gpu, "threads": torch.get_num_threads(), "deterministic": run.config.machine.deterministic}
        versions = {"python": sys.version.split()[0], "torch": torch.__version__}
        models = run._loop.tracked.models().values()
        parameters = sum(p.numel() for model in models for p in model.parameters())
        self._report.add("began", step=run.progress.steps, trainer=own, parameters=parameters, seed=run.config.seed, **machine, **versions)
        self._stop(run)

    def watch(self, run: Any) -> None:
        """A step is done."""
        self._stop(run)

    def _stop(self, run: Any) -> None:
        limit = self._stage.stop_after
        if limit is not None and run.progress.steps >= limit and not run.progress.finished:
            run._loop.stop("interrupted" if self._stage.interrupt else "stopped", f"step {limit} of a directed run")


def stack() -> list[FrameType]:
    """The frames that led here, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


class Witness:
    """Writes down each step: which samples, what was in them, the losses, the weights and the random generators after it.

    Args:
        run: the `Run`.
    """

    def __init__(self, run: Any) -> None:
        self._path = run.dir / WITNESS
        self._losses: list[str] = []
        backward = run.step.backward

        def seen(loss: Any, *more: Any, **options: Any) -> None:
            value = getattr(loss, "loss", loss)
            if isinstance(value, torch.Tensor) and value.numel() == 1:
                self._losses.append(repr(value.item()))
            backward(loss, *more, **options)

        run.step.backward = seen

    def see(self, run: Any) -> None:
        """A step is done."""
        losses, self._losses = self._losses, []
        parts, models = list(run.step), run._loop.tracked.models().values()
        untold: dict[str, str] = {}

        def told(what: str, value: Any) -> str | None:
            try:
                return None if value is None else whole_digest(value)
            except Untold as why:
                untold[what] = str(why)
                return None

        add_line(
            self._path,
            {
                "step": run.step.number,
                "samples": run.step.samples,
                "ids": told("ids", run.step.ids),
                "batch": told("batch", None if parts == [None] else parts),
                "loss": losses,
                "weights": told("weights", [[value for value in model.state_dict().values() if isinstance(value, torch.Tensor)] for model in models]),
                "random": digest_of(get_rng_state()),
                "untold": untold,
            },
        )


class Killer:
    """Ends the process where it was told.

    Args:
        run: the `Run`.
        kill: where.
        report: told before.
    """

    def __init__(self, run: Any, kill: Kill, report: Report) -> None:
        self._run, self._kill, self._report = run, kill, report
        self._last, self._took, self._saving, self._left = time.monotonic(), _FIRST_STEP_S, False, kill.call

    def join(self) -> None:
        """Take the place from where it strikes."""
        if self._kill.kind == "in save":
            self._watch_files()
        elif self._kill.kind == "in step":
            self._run.events.on("run_started")(lambda run: self._aim(run))
            self._run.events.on("step_finished")(lambda run: self._aim(run))
        else:
            self._run.events.on("step_finished")(lambda run: self._strike(run))

    def _strike(self, run: Any) -> None:
        if run.progress.steps >= self._kill.number:
            self._report.die(run.progress.steps, "after the step, before it was saved")

    def _aim(self, run: Any) -> None:
        """The next step begins soon: let a thread wait for its middle."""
        now = time.monotonic()
        self._took, self._last = now - self._last, now
        if run.progress.steps == self._kill.number - 1:
            threading.Thread(target=self._wait, args=(min(self._took, 60.0) * self._kill.share,), daemon=True).start()

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)
        if not self._run._loop.over:
            self._report.die(self._run.progress.steps, f"at a moment in step {self._kill.number}")

    def _watch_files(self) -> None:
        """Count the file operations of a save."""
        from treadle.checkpoint import save, store
        from treadle.system import files

        write = save.write_checkpoint

        def watched(parent: Path, step: int, *arguments: Any, **more: Any) -> Path:
            self._saving = self._saving or step >= self._kill.number
            return write(parent, step, *arguments, **more)

        store.write_checkpoint = watched  # type: ignore[attr-defined]
        files.os = _Counted(os, self._count)  # type: ignore[attr-defined,assignment]

    def _count(self, name: str) -> None:
        if self._saving:
            self._left -= 1
            if self._left == 0:
                self._report.die(self._run.progress.steps, f"in a save, before file operation {self._kill.call} ({name})")


class _Counted:
    """A module whose calls that change files are counted."""

    def __init__(self, module: Any, count: Any) -> None:
        self._module, self._note = module, count

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name not in ("open", "write", "fsync", "replace"):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            self._note(name)
            return found(*arguments, **more)

        return call
