"""Level 3: a run is a folder, tracked state and a clock. The loop is yours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
from torch import nn
from torch.optim import Optimizer

from treadle.config.asked import accepts_changes
from treadle.config.schema import Config
from treadle.core.bug import add_report_note
from treadle.core.errors import UsageError
from treadle.core.events import Conditions, Events, Handler
from treadle.core.result import Result
from treadle.core.schedules.named import Scheduled, checked
from treadle.core.when import Duration, Progress
from treadle.data.check import check
from treadle.data.loader import Loader, training_loader
from treadle.debug import Debug, as_debugged
from treadle.evaluation import Models, evaluate, evaluation_loader
from treadle.home import Home
from treadle.log.writer import Writer
from treadle.loop import Loop
from treadle.metrics.group import Group
from treadle.readers import Readers
from treadle.step.objective import Supervised, accepted, as_objective
from treadle.step.step import Step
from treadle.system.compiler import compiled_for_own_loop
from treadle.system.device import deterministic_kernels, pick_device
from treadle.system.precision import Precision
from treadle.system.prepared import Prepared
from treadle.system.seed import preserved_rng, seed
from treadle.system.stage import current_stage
from treadle.system.wrap import prepare, unwrapped

T = TypeVar("T")


class Run:
    """One run, as a context.

    Args:
        config: a `treadle.Config`, or an own config that inherits from it or holds one.
        schedules: values that change, by name: see `treadle.schedules`. A name that is a field of an optimizer's
            groups is set by `Step.update`, for some of them where it is given by their names; every value is in ``step.values``.
        handlers: objects with methods named ``on_<event>``.
        writers: further views of the journal.
        events: names of events of your own, which `fire` tells the handlers of.
        accept_changes: go on in a folder whose run was started with another config, or is over.
        origin: what made the run, ``file:function``; kept in `run.json` for the command line.

    Raises:
        ConfigError, RunFolderError: on entering, see there.

    Example:
        >>> import torch, treadle
        >>> config = treadle.Config(run_dir=f"{tmp}/own-loop", duration="2 epochs", log=treadle.LogConfig(console="quiet"))
        >>> with Run(config) as run:
        ...     model, opt = run.prepare(torch.nn.Linear(2, 3), torch.optim.SGD)
        ...     run.track(model=model, optimizer=opt)
        ...     for step in run.steps((torch.zeros(100, 2), torch.zeros(100, dtype=torch.int64))):
        ...         for x, y in step:
        ...             step.backward(torch.nn.functional.cross_entropy(model(x), y))
        ...         step.update(opt)
        >>> run.result.status, run.result.steps
        ('finished', 8)
    """

    def __init__(
        self,
        config: Any,
        *,
        schedules: Mapping[str, Scheduled] | None = None,
        handlers: Sequence[object] = (),
        writers: Sequence[Writer] = (),
        events: Sequence[str] = (),
        accept_changes: bool = False,
        origin: str = "",
    ) -> None:
        self._stage = current_stage()
        self._accept_changes = accept_changes or accepts_changes(config)
        asked = as_debugged(config)
        asked = asked if self._stage is None else self._stage.directed(asked)
        self._home = Home(asked, writers, origin, self._accept_changes)
        self.events = Events(events)
        if self.config.debug is not None:
            self.events.add(Debug(self.config.debug))
        for handler in handlers:
            self.events.add(handler)
        self.schedules = checked(schedules or {})
        self._stack = ExitStack()
        self._prepared = Prepared()
        self._taken: set[str] = set()  # schedules that a Trainer knows to be taken by somebody

    # --- the context ---

    def __enter__(self) -> Run:
        machine = self.config.machine
        self.device = pick_device(machine.device)
        self.precision = Precision(machine.precision, self.device)
        self._home.open()
        self._loop = Loop(self, self._home, self.schedules, self.precision)
        self._readers = Readers(self.config, self.device, self._loop.halving)
        self._stack.enter_context(preserved_rng())
        self._stack.enter_context(deterministic_kernels(machine.deterministic))
        self._stack.enter_context(self.precision.products())
        seed(self.config.seed)
        if self._stage is not None:
            from treadle.proof.attend import attend

            attend(self, self._stage)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                add_report_note(error, self.dir)  # before it has any other note
            if self._loop.begun and error is None:
                self._loop.leave()
            elif self._loop.begun and error is not None:
                self._loop.fail(error)
            if self._home.record is not None:
                self._home.record.end(self._loop.status, self.progress.steps)
        finally:
            with ExitStack() as ending:  # each of these, whatever comes of the others; the last one first
                for close in (self._home.folder.close, self._stack.close, self._home.log.close, self._loop.close):
                    ending.callback(close)

    @property
    def config(self) -> Config:
        """The config that holds, with the run's number in its run_dir."""
        return self._home.config

    @property
    def dir(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir)

    # --- what the loop needs ---

    def prepare(self, model: Any, optimizer: Any, *, shared: bool = False) -> tuple[Any, Any]:
        """Put models on the device, and build their optimizers.

        Args:
            model: a module, or several by name.
            optimizer: a callable that takes parameters, such as ``partial(torch.optim.SGD, lr=0.01)``, or an optimizer;
                for several models, one for each under the same names; for one model also several by name, each as
                ``(callable, rule)``, see `Trainer`.
            shared: whether parameters may belong to another optimizer of this run, too.

        Returns:
            model and optimizer, in the shape in which they were given.

        Raises:
            ObjectiveError: there is nothing to train, or the optimizer has none of the model's parameters.
            ConfigError: `optimizer` gives no optimizer, the names do not fit, or two optimizers move the same parameters.
        """
        model, optimizer = self._placed(model, optimizer, shared)
        return compiled_for_own_loop(model, self.config.machine, self.device, self.say), optimizer

    def _placed(self, model: Any, optimizer: Any, shared: bool = False) -> tuple[Any, Any]:
        """As `prepare`, but the model is not compiled: a Trainer chooses by itself which form its step takes."""
        model, optimizer = prepare(model, optimizer, self.device, self.say, self._stack if self.config.machine.channels_last else None)
        self.step.adopt(self._prepared.add(model, optimizer, shared))
        return model, optimizer

    def loader(self, data: Any) -> Loader:
        """A dataset as batches of this run: its order, its device, its workers. See `treadle.data.sources` for what data may be."""
        loader = training_loader(data, self.config, self.device)
        for note in loader.notes:
            self.say(note)
        return loader

    def check_data(self, **splits: Any) -> None:
        """Look, before the loop begins, which data this is, and for items of one split that are in another too.

        Items are read for it: a dataset that counts how often it is asked counts these as well. Random generators, the
        process's and those in a dataset's attributes, are put back. A warning names the first items of each pair of splits;
        ``config.data.leaks`` may refuse to train, or not look, and ``config.data.leaks_limit`` is the time for it. A run that
        goes on with the same data does not look again, and one that is over reads nothing.

        Args:
            splits: datasets, or loaders of this run, by name, those that are trained on first:
                ``run.check_data(train=data, valid=valid_set)``. None is left out.

        Raises:
            UsageError: the loop has begun.
            DataError: there are such items, and ``config.data.leaks`` is "refuse"; or something is no data.
        """
        if self._loop.begun:
            raise UsageError("cannot check the data: the loop has begun; call run.check_data before run.steps")
        if self._home.folder.done:
            return
        here = torch.device("cpu")  # where it is: a look moves nothing to an accelerator
        given = {name: data for name, data in splits.items() if data is not None}
        loaders = {name: data if isinstance(data, Loader) else evaluation_loader(data, self.config, here) for name, data in given.items()}
        seen = self._home.folder.path / "provenance" / "leaks.json"
        self._home.fingerprints = check(loaders, self.config.data, self.config.seed, seen, self.say)

    def track(self, **objects: Any) -> None:
        """Make objects part of every checkpoint, under these names. They are restored when `steps` begins.

        Args:
            objects: anything with ``state_dict()`` and ``load_state_dict(state)``, and generators: `torch.Generator`,
                `numpy.random.Generator`, `random.Random`.

        Raises:
            UsageError: an object has no such methods, a name is taken, or the loop has begun.
        """
        if self._loop.begun:
            raise UsageError(f"cannot track {', '.join(objects)}: the loop has begun; call run.track before run.steps")
        for name, item in objects.items():
            self._loop.tracked.add(name, unwrapped(item))

    def steps(self, data: Any = None, *, total: str | None = None, epoch: str | None = None) -> Iterator[Step]:
        """The clock: one `Step` per optimizer update, until the run's duration is done or somebody stops it.

        Args:
            data: a `Loader` of this run, or a dataset; None for loops without data, whose steps hold one None.
            total: length of the run in place of config.duration, such as ``"1000 steps"``.
            epoch: how many steps make an epoch in a loop without data, such as ``"100 steps"``; without it there is none, and
                every cadence has to be in steps.

        Raises:
            UsageError: a second loop, or a prepared model that is not tracked and would not survive.
            ConfigError: a length cannot be told for this data; or `epoch` is no number of steps, or the data has epochs of its own.
            CheckpointError: the state cannot be saved, or no checkpoint is whole.
            RunChanged, RunFinished: other objects are tracked than were; or the run is over, and its checkpoints are gone.
        """
        if self._loop.begun:
            raise UsageError("run.steps() was called before; a run has one loop")
        self._prepared.check_tracked(self._loop.tracked.objects())
        loader = data if isinstance(data, Loader) or data is None else self.loader(data)
        self._home.recorded(loader, self.device, self.say)
        self._prepared.begin()
        length = self.config.duration if total is None or self.config.debug else total
        epoch_length = None if epoch is None else Duration.parse(epoch)
        self._loop.begin(loader, Duration.parse(length), self._accept_changes, epoch_length)
        if (record := self._home.record) is not None:
            record.begin(self.progress.steps, self._home.folder.fresh, self._loop.accepted)
            self._home.folder.files |= record.sums()
            self._loop.record()
        if self._stage is not None and self._stage.replay:
            from treadle.proof.attend import replayed

            loader = replayed(self, self._stage, loader)
        return self._loop.steps(loader)

    def on(self, event: str, **conditions: Unpack[Conditions]) -> Callable[[Handler], Handler]:
        """Decorate a function ``f(run)`` to be called at an event, with the conditions of `Trainer.on`."""
        return self.events.on(event, **conditions)

    def off(self, handler: object) -> None:
        """Call a handler no more, see `Trainer.off`."""
        self.events.off(handler)

    def fire(self, event: str) -> None:
        """Call the handlers of an event of your own, now: in the body of a step, or in a handler.

        Args:
            event: a name that was declared with ``events=(...)``.

        Raises:
            UsageError: it was not, it is one of the run's own, or the loop has not begun.
        """
        self.events.check_own(event)
        if not self._loop.begun:
            raise UsageError(f"cannot fire {event!r}: the loop has not begun")
        self.events.fire(event, self, self._loop.before, self._loop.after)

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of the forward pass, for loops that do not iterate over the step."""
        return self.precision.autocast()

    # --- what the body may ask ---

    @property
    def models(self) -> dict[str, nn.Module]:
        """The tracked models, by name: ``"model"``, or ``"model-G"`` of several that a Trainer was given."""
        return self._loop.tracked.models()

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The tracked optimizers, by name."""
        return self._loop.tracked.optimizers()

    @property
    def step(self) -> Step:
        """The current step."""
        return self._loop.step

    @property
    def progress(self) -> Progress:
        """Steps, samples and epochs that are done; in the body the current step is not."""
        return self._loop.progress

    def due(self, every: str | Duration) -> bool:
        """Whether a cadence such as ``"1 epoch"`` or ``"100 steps"`` is reached by the current step."""
        return Duration.parse(every).due(self._loop.before, self._loop.after)

    def log(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Log values under the current step. Tensors stay on their device until a row is due.

        Args:
            values: numbers or scalar tensors by name.
            prefix: put before each name, as in ``prefix/name``.
        """
        self._home.log.add(self._loop.after, {f"{prefix}/{name}" if prefix else name: value for name, value in values.items()})

    def latest(self, name: str, step: int | None = None, default: Any = None) -> Any:
        """The newest logged value of a name, or only that of a step; `default` where there is none."""
        value = self._home.log.fetch(name, step)
        return default if value is None else value

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
        if isinstance(objective, Supervised):
            objective.to(self.device)
        group = metrics if isinstance(metrics, Group) else Group(metrics or {}, self.device)
        self._loop.evaluated = self._loop.begun and not self._loop.over
        values, loop = accepted(objective, self.step.values), self._loop
        try:
            return self._readers.over(data, lambda loader: evaluate(model, objective, loader, group, self.precision, values, loop.watch))
        finally:
            if loop.over:  # no step follows that would move the bar
                loop.tick()

    def stop(self, reason: str) -> None:
        """End the run at the next safe point, saved; the reason is in `Result.status` and in `run.json`."""
        self._loop.stop("stopped", reason)

    def keep(self, label: str) -> None:
        """Save a checkpoint of this step, and keep it until the label is given to another one. Its place is in `Result.kept`.

        Raises:
            UsageError: no step is being done, or its checkpoint was saved before.
        """
        self._loop.checkpoints.ask(label, self._loop.after.steps if self._loop.begun else None)

    def say(self, text: str) -> None:
        """Show a line on the console."""
        self._home.log.say(text)

    def attempt(self, body: Callable[..., Any], *args: Any) -> Any:
        """Call the body of a step. With ``machine.micro_batch="auto"``, one that does not fit into memory is called again, with smaller parts.

        An own loop that wants this has its body in a function: ``for step in run.steps(data): run.attempt(body, step)``.

        Args:
            body: called as ``body(*args)``; whatever it does besides the step, it may do more than once.
            args: passed on.

        Returns:
            what the body returned.
        """
        return body(*args) if self._loop.halving is None else self._loop.halving.attempt(body, *args)

    @property
    def result(self) -> Result:
        """How the run stands, or how it ended; waits for a checkpoint that is being written, since it names where that is."""
        loop, checkpoints = self._loop, self._loop.checkpoints
        checkpoints.settle()
        status = f"{loop.status}: {loop.reason}" if loop.reason else loop.status
        steps, epochs, numbers = loop.progress.steps, loop.progress.epochs, self._home.log.numbers()
        return Result(status, steps, epochs, numbers, checkpoints.best, checkpoints.last, self.dir, checkpoints.kept)
