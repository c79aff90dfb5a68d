"""The one loop. Three levels, and this is under all of them.

A generator yields one `Step` per optimizer update. When the body ends and the generator goes on, everything of that
step has happened: `_finish_step` is the one safe point.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from typing import Any

from treadle.checkpoint.store import Checkpoints
from treadle.checkpoint.tracked import RUN, SCALER, Tracked
from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError, ConfigError, RunFinished
from treadle.core.events import JUDGE, Events
from treadle.core.mix import mix
from treadle.core.when import Duration, Progress, parse_seconds
from treadle.data.batch import Batch, endless
from treadle.data.loader import Loader
from treadle.failure.capsule import Failures
from treadle.failure.halving import Halving
from treadle.home import Home, facts
from treadle.log.pace import Pace
from treadle.metrics.means import Means
from treadle.preflight import check_lengths, epoch_of_steps, heading, never_logged
from treadle.rows import window_row
from treadle.step.binding import bound
from treadle.step.step import Step
from treadle.system.averaged import end_training
from treadle.system.precision import Precision
from treadle.system.seed import get_rng_state, preserved_rng, seed, set_rng_state
from treadle.system.signals import StopRequest

TRAINING = 21
"""What the seed of the training stream is for: it does not depend on how many numbers building the model drew."""

Steps = Generator[Step, None, None]
Batches = Generator[Batch, None, None]


class Loop:
    """Everything that happens between two steps.

    Args:
        run: what handlers are called with.
        home: where the run lives: its config, its folder, its log.
        schedules: values that change, by name.
        precision: the number format of the forward pass.
    """

    def __init__(self, run: Any, home: Home, schedules: dict[str, Any], precision: Precision) -> None:
        self._run, self._home, self._schedules = run, home, schedules
        config, folder, log = self._config, self._folder, self._log = home.config, home.folder, home.log
        self._device = precision.device
        self._means = Means()
        self.events: Events = run.events
        self._listeners, self._judges = run.events.handlers("step_finished"), run.events.handlers(JUDGE)
        self.tracked = Tracked()
        self._failures = Failures(run, folder.path, config, self.tracked, lambda rng: self._states(0, rng, Means().state_dict(), self._mark_before))
        self.step = Step(self._means.add, precision, self._failures.refuse, self._means.doubt, ask=config.skip_non_finite > 0, run=run)
        halves = config.machine.micro_batch == "auto"
        self.halving = Halving(self.step, self._means, self._failures, self.tracked, log.say) if halves else None
        self.checkpoints = Checkpoints(folder.path, config.checkpoint, log.say)
        self.before = self.progress = self.after = Progress(Duration.parse(config.duration))
        self.begun = self.inside = self.over = self.evaluated = False
        self.status, self.reason = "running", ""
        self.accepted: list[str] = []
        """What is different from the state so far, and was accepted."""
        self._mark: dict[str, Any] | None = None
        """Where a stream is; other data is where the progress says."""
        self._mark_before: dict[str, Any] | None = None
        self._log_every, self._save_every = Duration.parse(config.log.every), Duration.parse(config.checkpoint.every)
        self._best = config.checkpoint.best
        self._stop = StopRequest(None if config.time_limit is None else parse_seconds(config.time_limit))
        self._listening = ExitStack()
        self._steps: Steps | None = None

    # --- a step ---

    def steps(self, loader: Loader | None) -> Steps:
        """The generator of steps, from where the run is."""
        now = self.progress
        batches = endless(now.epoch_steps, now.into_epoch) if loader is None else loader.batches(now.epochs, now.into_epoch, mark=self._mark)
        self._steps = self._generate(batches)
        return self._steps

    def _generate(self, batches: Batches) -> Steps:
        try:
            goes_on = self.status == "running" and not self.progress.finished
            while goes_on:
                self._take(next(batches))
                self.inside = True
                yield self.step
                goes_on = self._finish_step() if self.inside else self.status == "running"
            if not self.over:
                self._end()
        finally:
            batches.close()

    def _take(self, batch: Batch) -> None:
        """Begin a step."""
        progress = self.progress
        begins_epoch = progress.into_epoch == 0
        self._pace.data_arrived(begins_epoch)
        values = {name: schedule(progress) for name, schedule in self._schedules.items()} if self._schedules else {}
        if self._mark is None and batch.mark is not None:
            encode(batch.mark["state"], "the data")  # what cannot be saved is seen now, and not at the first checkpoint
        self._mark_before, self._mark = self._mark, batch.mark
        if self.halving is not None:
            batch = self.halving.begin(batch)
        self.step.begin(progress.steps + 1, batch, values)
        self.before, self.after = progress, progress.advanced(self.step.samples, batch.positions, batch.ends_epoch)
        if begins_epoch:
            self._fire("epoch_started")
        self._failures.mark()

    def _finish_step(self) -> bool:
        """The safe point, in this order: count, handlers (evaluation is the last), log, judges, best, checkpoint, bar. Says whether to go on."""
        self.step.finish()
        if self.step.refused:  # what the forward pass did to BatchNorm's statistics is taken back, too
            self._failures.take_back()
        self._pace.body_ended()
        before, after = self.before, self.after
        self.progress, self.inside = after, False
        ends_epoch = after.epochs > before.epochs
        if ends_epoch:
            self._run.log({f"train/epoch_{name}": value for name, value in self._means.epoch().items()} | self._pace.epoch())
        if self._listeners or self.evaluated:  # by the body: who wants to know is told at this step
            self._fire("step_finished")
        if ends_epoch:
            self._fire("epoch_finished")
        if logs := self._log_every.due(before, after):
            self._log_window()
        if self._judges:
            self.events.fire(JUDGE, self._run, before, after)
        finished = after.finished
        if not finished and (reason := self._stop.reason):
            self.stop("interrupted", reason)
        ending = finished or self.status != "running"
        # An interrupted run goes on later, and then has the very rows that it would have had.
        if logs or (ending and self.status != "interrupted"):
            if not logs:
                self._log_window()
            self._log.flush()
        if self.checkpoints.written:
            self.checkpoints.settle()
        best = None if self._best is None else self._best_value(self._best)
        if ending or self._save_every.due(before, after) or self.checkpoints.asked or (best is not None and self.checkpoints.improves(best)):
            self._save(best, must=ending)
        if self._pace.step_ended() or ending:
            self.tick()
            if not (ending or self.events.handlers("checkpoint_saved")):
                self.checkpoints.prepare(after, self.tracked.tensors)
        return not ending

    # --- beginning and ending ---

    def begin(self, loader: Loader | None, duration: Duration, accept_changes: bool, epoch: Duration | None = None) -> None:
        """Start anew, or go on from the newest checkpoint that is whole. `epoch`: that of a loop without data, in steps.

        Raises:
            ConfigError: a length cannot be told for this data.
            CheckpointError: there are checkpoints, and none of them is whole; or the first one cannot be written.
            RunChanged: other objects are tracked than were, or an optimizer was built with other values.
            RunFinished: the run is over, and its checkpoints are gone.
        """
        lengths = (loader.epoch_size, loader.epoch_steps, loader.epoch_samples) if loader else 3 * [epoch_of_steps(epoch)]
        self.before = self.progress = self.after = Progress(duration, *lengths)
        check_lengths(self.progress, self._config, self.events.cadences(), loader, epoch)
        self.events.tell("attach", self._run)
        self.step.names, self._schedules = bound(self._schedules, self.tracked.optimizers(), self.progress, self._run._taken)
        self._run.schedules = self._schedules
        self.events.tell("prepare", self._run)
        self.tracked.add_handlers(self.events.objects)
        if self.step.scaler is not None:
            self.tracked.add(SCALER, self.step.scaler)
        states = None if self._folder.fresh else self.checkpoints.restore()
        if states is not None:
            self._restore(states, accept_changes)
        self._pace = Pace(self.progress)
        if self._folder.done and states is None:
            raise RunFinished(f"the run in {self._config.run_dir!r} is over, and its checkpoints are gone; give another run_dir for a new run")
        if self.over:
            end_training(self.tracked.objects())
            self._log.say(
                f"{self._config.run_dir} is {self.status} already, at step {self.progress.steps:,}: nothing to train; another run_dir trains anew"
            )
            return
        self._failures.begin()
        self._folder.save_config(self._home.given)
        self._listening.enter_context(self._stop.listening())
        self.begun = True
        if states is None:
            if not self._folder.fresh:
                self._log.say(f"warning: the run in {self._config.run_dir!r} has no checkpoint any more; it begins anew")
            seed(mix(self._config.seed, TRAINING))
            self._log.open(0)
            self._save(None, must=True)  # what cannot be saved is seen now, and not after the first epoch
        self.checkpoints.tidy()
        for note in [*self._folder.notes, loader.way_back(self.progress.into_epoch, self._mark) if loader else ""]:
            if note:
                self._log.say(note)
        self._log.say(heading(self.tracked, self.progress, self._device, self._config.run_dir))
        self.tick()
        if states is not None:
            self.record()
        with preserved_rng():  # it fires again when the run goes on
            self._fire("run_started")
        self.events.begun = True

    def stop(self, status: str, reason: str) -> None:
        """End at the next safe point; the first reason counts."""
        if self.status == "running":
            self.status, self.reason = status, reason

    def leave(self) -> None:
        """The body was left by a break: its last step counts, and the run ends there."""
        if self.over:
            return
        if self.inside:
            self.stop("stopped", f"the loop was left at step {self.step.number}")
            self._finish_step()
        else:
            steps = self.progress.steps
            self.stop("interrupted", f"the loop was left after step {steps}" if steps else "the loop was not begun")
        self._end()

    def fail(self, error: BaseException) -> None:
        """Something raised: say so in the folder; the last checkpoint stays as it is, and one that is being written is written to its end."""
        if self.inside:
            self._failures.failed(error)
        if isinstance(error, KeyboardInterrupt):  # who asked twice does not wait for it
            self.checkpoints.cancel()
        try:
            self.checkpoints.settle()
        except Exception as second:
            error.add_note(f"and writing a checkpoint raised {type(second).__name__}: {second}")
        if not self.over:
            self.status = "failed" if isinstance(error, Exception) else "interrupted"
            self.reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            self.record()
        if isinstance(error, Exception):
            try:
                self._fire("run_failed")
            except Exception as second:
                error.add_note(f"and a handler of run_failed raised {type(second).__name__}: {second}")

    def close(self) -> None:
        """Let go of workers and signals."""
        with ExitStack() as ending:
            if self._steps is not None:
                ending.callback(self._steps.close)
            ending.callback(self.checkpoints.close)
            ending.callback(self._listening.close)
            ending.callback(self.events.tell, "detach", self._run)

    def _end(self) -> None:
        """The run is over, as planned or as asked."""
        self.checkpoints.settle()  # nothing is on its way when the last word is written
        self.over = True
        self._listening.close()
        if self.status == "running":
            self.status = "finished"
        if self.status == "finished" and (doubt := never_logged("checkpoint.best", self._config.checkpoint.best, self._log.names())):
            self._log.say(doubt)
        end_training(self.tracked.objects())  # whoever takes the model from here on takes the weights to use
        self._fire("run_finished")
        self.record()  # the last word: where a handler raised, or the process died, it is called again
        self.tick()

    # --- logging ---

    def _log_window(self) -> None:
        self._failures.check_parameters()
        self._run.log(window_row(self._means, self._log, self._pace, self.step, self.progress, self.checkpoints.spent(), self._device))

    def watch(self, done: int, of: int | None) -> None:
        """Show how far an evaluation is: it is no step, and may take as long as an epoch."""
        if self.begun and self._pace.ticks():
            self.tick(f"evaluating {done:,}" + (f"/{of:,}" if of else ""))

    def tick(self, doing: str = "") -> None:
        """Move the progress bar."""
        self._log.tick(self.progress, self._means.last, self._pace.seconds_left(self.progress), doing)

    def _fire(self, event: str) -> None:
        self.events.fire(event, self._run, self.before, self.after)
        if self.evaluated:  # by one of its handlers
            self.events.fire("evaluated", self._run, self.before, self.after)
            self.evaluated = False  # theirs are told to nobody

    # --- checkpoints ---

    def _best_value(self, name: str) -> float | None:
        value = self._log.fetch(name, self.progress.steps)
        if value is not None and not isinstance(value, (int, float)):
            raise ConfigError(f"checkpoint.best: {name!r} is no single number, so it has no best: {value!r}")
        return value

    def _save(self, best: float | None, must: bool) -> None:
        """Save a checkpoint of this step, if there is none yet; training goes on while it is written, unless it must be there.

        Raises:
            CheckpointError: a state cannot be stored; or, where it must be there, it cannot be written.
            NonFiniteLoss: a loss or a weight is not finite.
        """
        if self.checkpoints.has(self.progress.steps):
            return
        began = time.perf_counter()
        self._failures.check_parameters()
        self.checkpoints.settle()  # one at a time
        self._means.fetch()  # a loss that is not finite is seen here at the latest, so it never reaches a checkpoint
        # Those who want to know shall find it on the disk, and always at the same step. Of the first one, before the run has started, none is told.
        has_listener = self.progress.steps > 0 and bool(self.events.handlers("checkpoint_saved"))
        wait = must or has_listener or not self._config.checkpoint.background
        journal = self._settled_journal(must)
        if journal is None:
            self.tracked.check_finite(self.progress.steps, self.checkpoints.last)  # at this step, whatever the disk does
        else:
            states = self._states(journal, get_rng_state(), self._means.state_dict(), self._mark)
            encoded, finite = self.checkpoints.take_apart(states, self.tracked.weights(), wait)
            self.tracked.check_finite(self.progress.steps, self.checkpoints.last, finite)
            self.checkpoints.begin(self.progress, encoded, best, before=self._log.sync, after=partial(self._write_record, self._facts()))
        written = journal is not None and (not wait or self.checkpoints.settle(must))
        self._pace.stalled(time.perf_counter() - began)
        if has_listener and written:
            with preserved_rng():  # the checkpoint holds the generators as they are now
                self._fire("checkpoint_saved")

    def _settled_journal(self, must: bool) -> int | None:
        """How long the journal is, with every row so far; None where they cannot be written."""
        try:
            return self._log.settled()
        except OSError as error:
            missing = CheckpointError(f"metrics.jsonl of {self._config.run_dir!r} cannot be written: {error.strerror}")
            self.checkpoints.not_saved(self.progress.steps, missing, must)
            return None

    def _write_record(self, facts: dict[str, Any]) -> None:
        """Write `run.json`: facts, and where the checkpoints are."""
        self._folder.write_record({**facts, **self.checkpoints.places})

    def _states(self, journal: int, rng: dict[str, Any], means: dict[str, Any], mark: dict[str, Any] | None) -> dict[str, Any]:
        """Everything that is in a checkpoint."""
        own = {
            "progress": self.progress.state_dict(),
            "ended": [self.status, self.reason] if self.status == "stopped" else None,
            "values": dict(self.step.values),
            "journal": journal,
            "gone": self.events.gone(),
            "skipped": self._failures.skipped,
            "settings": self.tracked.settings(),
            "stream": mark,
            "micro_batch": self.halving and self.halving.limit,
            "means": means,
            "rng": rng,
        }
        return {**self.tracked.states(), RUN: own}

    def _restore(self, states: dict[str, Any], accept_changes: bool) -> None:
        own = states.pop(RUN)
        self.tracked.load(states, accept_changes)
        self.accepted = self.tracked.compare(own.get("settings", {}), accept_changes)
        self.progress.load_state_dict(own["progress"])
        if own["ended"] is not None and not accept_changes:  # killed between its last checkpoint and its last word
            self.status, self.reason = own["ended"]
        self.events.restore(own.get("gone", ()))
        self.step.values, self._mark, self._failures.skipped = own["values"], own.get("stream"), own.get("skipped", 0)
        if self.halving is not None:
            self.halving.limit = own.get("micro_batch")
        self._means.load_state_dict(own["means"])
        # From an older checkpoint, where the last is damaged, a run that was over comes to the same end once more.
        if self._folder.done and (self.progress.finished or self.status != "running"):
            self.begun = self.over = True
            self.status = "finished" if self.status == "running" else self.status
        self._log.open(None if self.over else own["journal"])
        set_rng_state(own["rng"])

    def _facts(self) -> dict[str, Any]:
        """What `run.json` says of this moment."""
        return facts(self.status, self.reason, self.progress, self.step.values)

    def record(self) -> None:
        """Say in `run.json` how things are."""
        self._home.note({**self._facts(), **self.checkpoints.places}, is_over=self.over)
