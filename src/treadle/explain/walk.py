"""The walk: the calls of an epoch in their order, asked of the handlers' own registrations, and nothing is trained.

It says in the loop's words what `treadle.loop.Loop` does; a test holds it to what is called in real runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from treadle.config.schema import Config
from treadle.core.errors import UsageError
from treadle.core.events import JUDGE, Events, Registration
from treadle.core.when import Duration, Progress
from treadle.data.loader import Loader

BODY, ROW, CHECKPOINT = "body", "row", "checkpoint"
"""What the loop does besides calling handlers."""
Moment = tuple[Progress, Progress]


@dataclass(frozen=True)
class Plan:
    """What a run is made of, as far as its timeline goes.

    Args:
        config: the run's.
        events: its handlers, in the order in which they are called.
        loader: its training data; None for a loop without data.
        duration: how long it is.
        schedules: values that change, by name.
        body: the function that is the body of the loop; None where the loop is the user's own.
        epoch_steps: how many steps make an epoch in a loop without data; None where it has none.
    """

    config: Config
    events: Events
    loader: Loader | None
    duration: Duration
    schedules: Mapping[str, Any]
    body: Any = None
    epoch_steps: int | None = None

    @property
    def start(self) -> Progress:
        """Where the run begins."""
        loader = self.loader
        lengths = (loader.epoch_size, loader.epoch_steps, loader.epoch_samples) if loader else 3 * (self.epoch_steps,)
        return Progress(self.duration, *lengths)

    @property
    def is_known(self) -> bool:
        """Whether the data says how many steps an epoch has; a loop without data and without epochs is one stretch."""
        return self.loader is None or self.loader.epoch_steps is not None

    @property
    def counts_samples(self) -> bool:
        """Whether it is known, before they are read, how many samples the batches hold."""
        return self.loader is None or self.loader.is_even


@dataclass(frozen=True)
class Call:
    """One thing that happens.

    Args:
        step: in which step, from 1.
        what: BODY, ROW, CHECKPOINT or the handler that is called.
    """

    step: int
    what: str | Registration


def moments(plan: Plan, epoch: int) -> Iterator[Moment]:
    """The progress before and after each step of an epoch, up to the end of the run.

    Args:
        plan: one whose epochs are known.
        epoch: from 1.

    Raises:
        UsageError: the run is over before it.
    """
    before = _beginning(plan, epoch)
    if before.finished or (plan.loader is None and plan.epoch_steps is None and epoch > 1):
        raise UsageError(f"there is no epoch {epoch}: the run has a duration of {plan.duration}")
    for samples, positions, last in _batches(plan):
        after = before.advanced(samples, positions, last)
        yield before, after
        if last or after.finished:
            return
        before = after


def walk(plan: Plan, epoch: int = 1) -> Iterator[Call]:
    """What happens in an epoch, call by call. A predicate of a handler (``when=``) is taken to agree.

    Args:
        plan: one whose epochs are known.
        epoch: from 1.

    Raises:
        UsageError: the run is over before this epoch.
    """
    called = _called_before(plan, epoch)
    for before, after in moments(plan, epoch):
        yield from _step(plan, before, after, called)


def _step(plan: Plan, before: Progress, after: Progress, called: set[Registration]) -> Iterator[Call]:
    """The order of `Loop._take` and `Loop._finish_step`."""
    step, ends_epoch = after.steps, after.epochs > before.epochs
    if before.into_epoch == 0:
        yield from _fired(plan, "epoch_started", before, after, called)
    yield Call(step, BODY)
    yield from _fired(plan, "step_finished", before, after, called)
    if ends_epoch:
        yield from _fired(plan, "epoch_finished", before, after, called)
    config = plan.config
    has_row = Duration.parse(config.log.every).due(before, after)
    if has_row:
        yield Call(step, ROW)
    yield from _fired(plan, JUDGE, before, after, called)
    if after.finished and not has_row:
        yield Call(step, ROW)
    if after.finished or Duration.parse(config.checkpoint.every).due(before, after):
        yield Call(step, CHECKPOINT)
        yield from _fired(plan, "checkpoint_saved", before, after, called)


def _fired(plan: Plan, event: str, before: Progress, after: Progress, called: set[Registration]) -> Iterator[Call]:
    """The order of `Loop._fire`: after an evaluation those who wait for one."""
    evaluated = False
    for registered in plan.events.handlers(event):
        if registered in called or not registered.due(before, after):
            continue
        if registered.once and registered.when is None:  # else it may come later as well
            called.add(registered)
        evaluated = evaluated or registered.evaluates
        yield Call(after.steps, registered)
    if evaluated:
        yield from _fired(plan, "evaluated", before, after, called)


def _called_before(plan: Plan, epoch: int) -> set[Registration]:
    """Handlers with ``once=True`` whose one time has come in an epoch before."""
    called: set[Registration] = set()
    if any(registered.once for registered in plan.events.registrations()):
        for earlier in range(1, epoch):
            for before, after in moments(plan, earlier):
                for _ in _step(plan, before, after, called):
                    pass
    return called


def _beginning(plan: Plan, epoch: int) -> Progress:
    found, done = plan.start, epoch - 1
    found.epochs, found.steps, found.samples = done, done * (found.epoch_steps or 0), done * (found.epoch_samples or 0)
    return found


def _batches(plan: Plan) -> Iterator[tuple[int, int, bool]]:
    """Samples and positions of each batch of an epoch, and whether it is the last one."""
    if plan.loader is not None:
        return plan.loader.outline()
    return ((1, 1, number == plan.epoch_steps) for number in count(1))
