"""Level 3: a run is a folder, tracked state and a clock. The loop is yours.

`Run.steps` yields one `Step` per optimizer update. When the body ends and the generator goes on, everything of that
step has happened: that is the one safe point, where the step is counted, handlers are called, values are logged,
checkpoints taken, signals answered and the progress bar moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from treadle.checkpoint.store import Checkpoints
from treadle.config.schema import run_config
from treadle.core.errors import CheckpointError, ConfigError, RunChanged, UsageError, did_you_mean
from treadle.core.events import Events
from treadle.core.mix import mix
from treadle.core.schedules import Schedule
from treadle.core.when import Duration, Progress, parse_seconds
from treadle.data.batch import Batch
from treadle.data.loader import Loader
from treadle.evaluation import Models, evaluate, evaluation_loader
from treadle.log.log import Log, default_writers
from treadle.log.pace import Pace
from treadle.log.writer import Writer
from treadle.metrics.group import Group
from treadle.metrics.means import Means
from treadle.step.objective import as_objective, keywords
from treadle.step.step import Step
from treadle.system.device import deterministic_kernels, pick_device
from treadle.system.folder import RunFolder
from treadle.system.precision import Precision
from treadle.system.seed import get_rng_state, seed, set_rng_state
from treadle.system.signals import StopRequest
from treadle.system.wrap import compiled, prepare, unwrapped

TRAINING = 21
"""What the seed of the training stream is for: it does not depend on how many numbers building the model drew."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        status: "finished", "stopped: <reason>" or "interrupted: <signal or time limit>".
        steps: optimizer steps done.
        epochs: epochs finished.
        metrics: the newest value of every logged number, such as ``"valid/accuracy"``.
        best: folder of the best checkpoint, None where config.checkpoint.best is not set.
        last: folder of the newest checkpoint.
        run_dir: the run folder.
    """

    status: str
    steps: int
    epochs: int
    metrics: dict[str, float]
    best: Path | None
    last: Path | None
    run_dir: Path


class Run:
    """One run, as a context.

    Args:
        config: a `treadle.Config`, or an own config that inherits from it or holds one.
        schedules: values that change, by name: see `treadle.schedules`. A name that is a field of an optimizer's
            groups is set by `Step.update`; every value is in ``step.values``.
        handlers: objects with methods named ``on_<event>``.
        writers: further views of the journal.
        accept_changes: go on in a folder whose run was started with another config, or is over.
        origin: what made the run, ``file:function``; kept in `run.json` for the command line.

    Raises:
        ConfigError, RunFolderError: on entering, see there.

    Example:
        >>> with Run(config) as run:  # doctest: +SKIP
        ...     model, opt = run.prepare(LeNet5(), partial(torch.optim.SGD, lr=0.01))
        ...     run.track(model=model, optimizer=opt)
        ...     for step in run.steps(run.loader(train_set)):
        ...         for x, y in step:
        ...             step.backward(nn.functional.cross_entropy(model(x), y))
        ...         step.update(opt)
    """

    def __init__(
        self,
        config: Any,
        *,
        schedules: Mapping[str, Schedule] | None = None,
        handlers: Sequence[object] = (),
        writers: Sequence[Writer] = (),
        accept_changes: bool = False,
        origin: str = "",
    ) -> None:
        self.tree, self.config = config, run_config(config)
        self.dir = Path(self.config.run_dir)
        self.events = Events()
        for handler in handlers:
            self.events.add(handler)
        self._schedules = dict(schedules or {})
        self._accept_changes, self._origin = accept_changes, origin
        self._folder = RunFolder(self.dir)
        self._checkpoints = Checkpoints(self.dir, self.config.checkpoint)
        self._log = Log(self.dir, [*default_writers(self.config.log), *writers])
        self._means = Means()
        self._stop_request = StopRequest()
        self._stack = ExitStack()
        self._tracked: dict[str, Any] = {}
        self._prepared: list[Any] = []
        self._evaluation: dict[int, tuple[Any, Loader]] = {}
        self._begun = self._inside = self._evaluated = self._over = False
        self._status, self._reason = "running", ""
        self.progress = Progress(Duration.parse(self.config.duration))
        self._next = self.progress

    # --- the context ---

    def __enter__(self) -> Run:
        self.device = pick_device(self.config.machine.device)
        self._folder.open(self.tree, self._accept_changes)
        try:
            machine = self.config.machine
            self.precision = Precision(machine.precision, self.device)
            self.step = Step(self._means.add, self.precision)
            self._stack.enter_context(deterministic_kernels(machine.deterministic))
            self._stack.enter_context(self._stop_request.listening())
            seed(self.config.seed)
        except BaseException:
            self._stack.close()
            self._folder.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None and self._begun and not self._over:
                self._leave()
            elif error is not None and self._begun:
                self._fail(error)
        finally:
            if self._begun:
                self._steps.close()
            self._log.close()
            self._stack.close()
            self._folder.close()

    # --- what the loop needs ---

    def prepare(self, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Put models on the device, and build their optimizers.

        Args:
            model: a module, or several by name.
            optimizer: a callable that takes parameters, such as ``partial(torch.optim.SGD, lr=0.01)``, or an optimizer;
                for several models, one for each under the same names.

        Returns:
            model and optimizer, in the shape in which they were given.

        Raises:
            ObjectiveError: there is nothing to train, or the optimizer has none of the model's parameters.
            ConfigError: `optimizer` gives no optimizer, or the names do not fit.
        """
        model, optimizer = prepare(model, optimizer, self.device, self.say)
        self._prepared += [*_values(model), *_values(optimizer)]
        return (compiled(model) if self.config.machine.compile else model), optimizer

    def loader(self, data: Any) -> Loader:
        """A dataset as batches of this run: its order, its device, its workers. See `treadle.data.sources` for what data may be."""
        config, machine = self.config, self.config.machine
        loader = Loader(
            data,
            batch_size=config.batch_size,
            micro_batch=machine.micro_batch,
            sampler=config.data.sampler,
            seed=config.seed,
            drop_last=config.drop_last,
            workers=machine.workers,
            device=self.device,
            resident=machine.resident,
        )
        for note in loader.notes:
            self.say(note)
        return loader

    def track(self, **objects: Any) -> None:
        """Make objects part of every checkpoint, under these names. They are restored when `steps` begins.

        Args:
            objects: anything with ``state_dict()`` and ``load_state_dict(state)``.

        Raises:
            UsageError: an object has no such methods, a name is taken, or the loop has begun.
        """
        for name, item in objects.items():
            lacking = [method for method in ("state_dict", "load_state_dict") if not callable(getattr(item, method, None))]
            if self._begun or lacking or name in (*self._tracked, "run"):
                why = "the loop has begun" if self._begun else f"it has no {lacking[0]}()" if lacking else "the name is taken"
                raise UsageError(f"cannot track {name!r} ({type(item).__name__}): {why}")
            self._tracked[name] = unwrapped(item)

    def steps(self, data: Any = None, *, total: str | None = None) -> Iterator[Step]:
        """The clock: one `Step` per optimizer update, until the run's duration is done or somebody stops it.

        Args:
            data: a `Loader` of this run, or a dataset; None for loops without data, whose steps hold one None.
            total: length of the run in place of config.duration, such as ``"1000 steps"``.

        Raises:
            UsageError: a second loop, or a prepared model that is not tracked and would not survive.
            ConfigError: the length cannot be told for this data.
        """
        if self._begun:
            raise UsageError("run.steps() was called before; a run has one loop")
        loader = data if isinstance(data, Loader) or data is None else self.loader(data)
        self._begin(loader, Duration.parse(total or self.config.duration))
        self._steps = self._loop(self._endless() if loader is None else loader.batches(self.progress.epochs, self.progress.into_epoch))
        return self._steps

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of the forward pass, for loops that do not iterate over the step."""
        return self.precision.autocast()

    # --- what the body may ask ---

    def due(self, every: str | Duration) -> bool:
        """Whether a cadence such as ``"1 epoch"`` or ``"100 steps"`` is reached by the current step."""
        return Duration.parse(every).due(self.progress if self._inside else self._before, self._next)

    def log(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Log values under the current step. Tensors stay on their device until a row is due.

        Args:
            values: numbers or scalar tensors by name.
            prefix: put before each name, as in ``prefix/name``.
        """
        step = self.step.number if self._inside else self.progress.steps
        self._log.add(self._next, step, {f"{prefix}/{name}" if prefix else name: value for name, value in values.items()})

    def latest(self, name: str) -> Any:
        """The newest logged value of a name; None where there is none."""
        return self._log.fetch(name)

    def evaluate(self, model: Models, objective: Any, data: Any, metrics: Mapping[str, Any] | Group | None = None) -> dict[str, Any]:
        """Loss and metrics over a whole dataset; weights, modes, counters and random generators stay as they are.

        Args:
            model: one model, or several by name.
            objective: a loss module, or ``objective(model, batch) -> Tensor | Outcome``.
            data: a dataset; it is read in its own order.
            metrics: objects with ``update(output, target)``, ``compute()`` and ``reset()``, by name.

        Returns:
            ``{"loss": ..., **metrics}``: exact means over samples (or over what the objective counts).
        """
        objective = as_objective(objective)
        group = metrics if isinstance(metrics, Group) else Group(metrics or {}, self.device)
        self._evaluated = True
        values = {name: self.step.values[name] for name in self.schedules_for(objective) if name in self.step.values}
        return evaluate(model, objective, self.evaluation_loader(data), group, self.precision, values)

    def evaluation_loader(self, data: Any) -> Loader:
        """A dataset in its own order, for evaluation; made once for each dataset."""
        if id(data) not in self._evaluation:
            self._evaluation[id(data)] = (data, evaluation_loader(data, self.config, self.device))
        return self._evaluation[id(data)][1]

    def schedules_for(self, objective: Any) -> list[str]:
        """Names of the schedules that an objective takes as keywords."""
        taken = keywords(objective) if self._schedules else set()
        return [name for name in self._schedules if taken is None or name in taken]

    def stop(self, reason: str) -> None:
        """End the run at the next safe point, saved; the reason is in `Result.status` and in `run.json`."""
        self._end_with("stopped", reason)

    def say(self, text: str) -> None:
        """Show a line on the console."""
        self._log.say(text)

    @property
    def result(self) -> Result:
        """How the run stands, or how it ended."""
        status = f"{self._status}: {self._reason}" if self._reason else self._status
        numbers = {
            name: float(value)
            for name, (value, _) in self._log.latest.items()
            if isinstance(value, (int, float)) and not name.startswith(("time/", "throughput/"))
        }
        return Result(status, self.progress.steps, self.progress.epochs, numbers, self._checkpoints.best, self._checkpoints.last, self.dir)

    # --- the loop ---

    def _loop(self, batches: Iterator[Batch]) -> Iterator[Step]:
        step = self.step
        try:
            while self._status == "running" and not self.progress.finished:
                self._take(next(batches))
                self._inside = True
                yield step
                if self._inside:
                    self._finish_step()
            self._end()
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _take(self, batch: Batch) -> None:
        """Begin a step."""
        progress = self.progress
        self._pace.data_arrived(begins_epoch=progress.into_epoch == 0)
        values = {name: schedule(progress) for name, schedule in self._schedules.items()} if self._schedules else {}
        self.step.begin(progress.steps + 1, batch, values)
        self._before, self._next = progress, progress.advanced(self.step.samples, batch.positions, batch.ends_epoch)
        if progress.into_epoch == 0:
            self.events.fire("epoch_started", self, progress, progress)

    def _finish_step(self) -> None:
        """The safe point. The order is: count, handlers (evaluation among them), log, best, checkpoint, progress bar."""
        self.step.finish()
        before, after = self.progress, self._next
        self.progress, self._inside = after, False
        ends_epoch = after.epochs > before.epochs
        if ends_epoch:
            self._log_epoch()
        self.events.fire("step_finished", self, before, after)
        if self._evaluated:
            self._evaluated = False
            self._check_best()
            self.events.fire("evaluated", self, before, after)
        if ends_epoch:
            self.events.fire("epoch_finished", self, before, after)
        self._answer_requests()
        ending = after.finished or self._status != "running"
        if ending or self._log_every.due(before, after):
            self._log_window()
        best = self._best_value()
        if ending or self._save_every.due(before, after) or self._checkpoints.improves(best):
            self._save(best, must=ending)
        if self._pace.step_ended() or ending:
            self._tick()

    # --- beginning and ending ---

    def _begin(self, loader: Loader | None, duration: Duration) -> None:
        config = self.config
        self._log_every, self._save_every = Duration.parse(config.log.every), Duration.parse(config.checkpoint.every)
        size, steps = (loader.epoch_size, loader.epoch_steps) if loader else (None, None)
        self.progress = self._next = self._before = Progress(duration, size, steps)
        for length in (duration, self._log_every, self._save_every):
            if length.needs_epoch_size() and size is None or (loader is None and duration.unit != "steps"):
                raise ConfigError(f"'{length}' cannot be told for {'a loop without data' if loader is None else 'data without a length'}; give it in steps")
        if untracked := [item for item in self._prepared if all(item is not other for other in self._tracked.values())]:
            names = ", ".join(type(item).__name__ for item in untracked)
            raise UsageError(f"prepared but not tracked, so it would not survive: {names}; call run.track(model=model, optimizer=optimizer) before run.steps")
        self._track_own()
        anew = self._folder.record().get("status") == "failed" and not self._folder.record().get("steps")
        states = None if anew else self._checkpoints.restore(self.say)
        for item in self._tracked.values():
            if isinstance(item, nn.Module):
                item.train()
        self._begun = True
        self._deadline = _deadline(config.time_limit)
        if states is None:
            seed(mix(config.seed, TRAINING) >> 1)
            self._log.open(0)
            self._record("running")
            self._save(None, must=True)
        else:
            self._restore(states)
            self._record("running")
            self.say(f"continuing {self.dir} after step {self.progress.steps}")
        self._pace = Pace(self.progress)
        self.events.fire("run_started", self, self.progress, self.progress)

    def _track_own(self) -> None:
        """Track the handlers that have state, each under its class's name, and the loss scaler."""
        for handler in self.events.objects:
            if callable(getattr(handler, "state_dict", None)):
                name, number = type(handler).__name__, 2
                while name in self._tracked:
                    name, number = f"{type(handler).__name__}-{number}", number + 1
                self.track(**{name: handler})
        if self.precision.scaler is not None:
            self.track(scaler=self.precision.scaler)

    def _leave(self) -> None:
        """The body was left by a break: its last step counts, and the run ends there."""
        if self._inside:
            self.stop(f"the loop was left at step {self.step.number}")
            self._finish_step()
        elif self._status == "running" and not self.progress.finished:
            self.stop(f"the loop was left after step {self.progress.steps}")
            self._save(None, must=True)
        self._end()

    def _end(self) -> None:
        """The run is over, as planned or as asked."""
        self._over = True
        if self._status == "running":
            self._status = "finished"
        self._record(self._status)
        self.events.fire("run_finished", self, self.progress, self.progress)
        self._tick()

    def _fail(self, error: BaseException) -> None:
        """Something raised: say so in the folder; the last checkpoint stays as it is."""
        if not self._over:
            self._status = "failed" if isinstance(error, Exception) else "interrupted"
            self._reason = f"{type(error).__name__}: {error}"
            self._record(self._status)
        if isinstance(error, Exception):
            try:
                self.events.fire("run_failed", self, self.progress, self.progress)
            except Exception as second:
                error.add_note(f"and a handler of run_failed raised {type(second).__name__}: {second}")

    def _end_with(self, status: str, reason: str) -> None:
        if self._status == "running":
            self._status, self._reason = status, reason

    def _answer_requests(self) -> None:
        if self._stop_request.signal is not None:
            self._end_with("interrupted", self._stop_request.name)
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self._end_with("interrupted", "time limit")

    # --- logging ---

    def _log_epoch(self) -> None:
        means = {f"train/epoch_{name}": value for name, value in self._means.epoch().items()}
        self.log({**means, **self._pace.epoch()})

    def _log_window(self) -> None:
        """A row: means of the loss and its companions since the last one, schedules, times."""
        row = {f"train/{name}": value for name, value in self._means.window().items()}
        row |= {f"schedule/{name}": value for name, value in self.step.values.items()}
        row |= self._pace.window(self.progress)
        if self.device.type == "cuda":
            row["memory/peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.log(row)
        self._log.flush()

    def _tick(self) -> None:
        self._log.tick(self.progress, self._means.last, self._pace.seconds_left(self.progress))

    # --- checkpoints ---

    def _best_value(self) -> float | None:
        name = self.config.checkpoint.best
        return None if name is None else self._log.fetch(name, self.progress.steps)

    def _check_best(self) -> None:
        name = self.config.checkpoint.best
        if name is not None and name not in self._log.names():
            raise ConfigError(f"checkpoint.best: no value named {name!r} is logged{did_you_mean(name, self._log.names())}")

    def _save(self, best: float | None, must: bool) -> None:
        """Save a checkpoint. One that cannot be written is reported and the run goes on, unless it must be there."""
        if self._checkpoints.has(self.progress.steps):
            return
        self._means.fetch()  # a loss that is not finite is seen here at the latest, so it never reaches a checkpoint
        length = self._log.sync()
        states = {name: item.state_dict() for name, item in self._tracked.items()}
        states["run"] = self._state(length)
        try:
            self._checkpoints.save(self.progress.steps, states, best)
        except CheckpointError as error:
            if must:
                raise
            self.say(f"warning: {error}; the run goes on")
            return
        self._record(self._status)
        self.events.fire("checkpoint_saved", self, self._before, self.progress)

    def _state(self, journal_length: int) -> dict[str, Any]:
        progress = self.progress
        counters = {name: getattr(progress, name) for name in ("steps", "samples", "epochs", "into_epoch")}
        return {"progress": counters, "journal": journal_length, "means": self._means.state_dict(), "rng": get_rng_state()}

    def _restore(self, states: dict[str, Any]) -> None:
        own = states.pop("run")
        if set(states) != set(self._tracked) and not self._accept_changes:
            raise RunChanged(f"the checkpoint in {self.dir} holds {sorted(states)}, this run tracks {sorted(self._tracked)}; say accept_changes to go on")
        for name, item in self._tracked.items():
            if name in states:
                item.load_state_dict(states[name])
        for name, value in own["progress"].items():
            setattr(self.progress, name, value)
        self._next = self._before = self.progress
        self._means.load_state_dict(own["means"])
        self._log.open(own["journal"])
        set_rng_state(own["rng"])

    def _record(self, status: str) -> None:
        progress = self.progress
        self._folder.write_record(
            {
                "status": status,
                "reason": self._reason,
                "steps": progress.steps,
                "samples": progress.samples,
                "epochs": progress.epochs,
                "duration": str(progress.duration),
                "origin": self._origin,
                "best": _relative(self._checkpoints.best, self.dir),
                "last": _relative(self._checkpoints.last, self.dir),
            }
        )

    @staticmethod
    def _endless() -> Iterator[Batch]:
        """Steps without data: one part that is None, and no epochs."""
        while True:
            yield Batch([None], [1], 1, False)


def _deadline(limit: str | float | None) -> float | None:
    return None if limit is None else time.monotonic() + parse_seconds(limit)


def _values(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, Mapping) else [item]


def _relative(path: Path | None, folder: Path) -> str | None:
    return None if path is None else str(path.relative_to(folder))
