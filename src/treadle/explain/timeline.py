"""The timeline of an epoch: a row for everything that happens, in its order, with the steps at which it does."""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from treadle.core.events import JUDGE, Registration, name_of
from treadle.core.schedules.named import FromTorch, parts_of
from treadle.core.when import Duration, Progress
from treadle.explain.walk import BODY, CHECKPOINT, ROW, Plan, moments, walk

Steps = dict[str | Registration, list[int]]


@dataclass(frozen=True)
class Row:
    """One thing that happens.

    Args:
        moment: the event, or what the loop does.
        what: the handler, ``module:name``, or a few words.
        cadence: its conditions, in words.
        steps: the steps at which it happens in this epoch; None where nobody knows beforehand.
        note: what else there is to say of when it happens.
        where: file and line of the handler.
    """

    moment: str
    what: str
    cadence: str = ""
    steps: list[int] | None = None
    note: str = ""
    where: str = ""


@dataclass(frozen=True)
class Timeline:
    """What happens in an epoch, and at the run's two ends.

    Args:
        title: which epoch, and how long it is.
        notes: what a reader should know about it.
        rows: in their order.
        schedules: name, value at the first step, value at the last, and what it is.
    """

    title: str
    notes: list[str]
    rows: list[Row]
    schedules: list[tuple[str, float | None, float | None, str]]

    @classmethod
    def of(cls, plan: Plan, epoch: int = 1) -> Timeline:
        """That of a run's epoch.

        Args:
            plan: what the run is made of.
            epoch: from 1.

        Raises:
            UsageError: the run is over before this epoch.
        """
        steps: Steps | None = None
        stretch: Stretch | None = None
        if plan.is_known:
            steps = defaultdict(list)
            for call in walk(plan, epoch):
                steps[call.what].append(call.step)
            stretch = _stretch(plan, epoch)
        return cls(_title(plan, epoch, stretch), _notes(plan, stretch), _rows(plan, steps, stretch), _schedules(plan, stretch))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "rows": [vars(row) for row in self.rows]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Timeline:
        """What `to_json` gave."""
        return cls(**{**values, "rows": [Row(**row) for row in values["rows"]]})


Stretch = tuple[Progress, Progress, Progress]
"""Where the run is before an epoch's first step, before its last one, and after that."""


def _stretch(plan: Plan, epoch: int) -> Stretch:
    first: Progress | None = None
    for before, after in moments(plan, epoch):
        first, last, end = first or before, before, after
    assert first is not None, "an epoch has a step"
    return first, last, end


# --- the rows, in the order of the loop ---


def _rows(plan: Plan, steps: Steps | None, stretch: Stretch | None) -> list[Row]:
    config = plan.config

    def handlers(event: str) -> list[Row]:
        return [_handler_row(plan, registered, steps) for registered in plan.events.handlers(event)]

    def own(moment: str, what: str, cadence: str, note: str = "", where: str = "") -> Row:
        return Row(moment, what, cadence, None if steps is None else steps[moment], note, where)

    best = f"and where {config.checkpoint.best} is among the best {config.checkpoint.keep_best}" if config.checkpoint.best else ""
    over = [] if stretch is None or stretch[2].finished else ["not in this epoch"]
    body, where = (named(plan.body), place_of(plan.body)) if plan.body is not None else ("the body of your own loop", "")
    return [
        Row("run begins", "checkpoint of step 0", note="in a new run"),
        *(Row("run_started", named(one.handler), _cadence(one), None, "again where the run goes on", place_of(one.handler))
          for one in plan.events.handlers("run_started")),
        *handlers("epoch_started"),
        own(BODY, body, "each step", where=where),
        *(row for event in plan.events.own for row in handlers(event)),
        *handlers("step_finished"),
        *handlers("evaluated"),
        *handlers("epoch_finished"),
        own(ROW, "a row of metrics.jsonl", f"every {Duration.parse(config.log.every)}, and at the end"),
        *handlers(JUDGE),
        own(CHECKPOINT, "a checkpoint", f"every {Duration.parse(config.checkpoint.every)}, and at the end", best),
        *handlers("checkpoint_saved"),
        *(Row("run_finished", named(one.handler), _cadence(one), None, "; ".join(["when the run is over", *over]), place_of(one.handler))
          for one in plan.events.handlers("run_finished")),
        *handlers("run_failed"),
    ]  # fmt: skip


def _handler_row(plan: Plan, registered: Registration, steps: Steps | None) -> Row:
    """A handler; of which it is not known beforehand where it is called, the row says on what that depends."""
    event, note = registered.event, ""
    found = None if steps is None else steps[registered]
    lengths = [length for length in (registered.every, registered.first) if length is not None]
    if event == "run_failed":
        found, note = None, "where an exception ends the run"
    elif event in plan.events.own:
        found, note = None, f"where run.fire({event!r}) says so"
    elif any(length.unit == "samples" for length in lengths) and not plan.counts_samples:
        found, note = None, "depends on how many samples the batches hold"
    elif event == "evaluated":
        note = "and where a handler evaluates" if found else "where a handler or the body evaluates"
    elif event == "checkpoint_saved" and plan.config.checkpoint.best:
        note = f"and where {plan.config.checkpoint.best} makes one"
    if registered.when is not None and found is not None:
        note = "; ".join(filter(None, ["the first of these where when= agrees" if registered.once else "if when= agrees", note]))
    return Row(event, named(registered.handler), _cadence(registered), found, note, place_of(registered.handler))


def _cadence(registered: Registration) -> str:
    """The conditions of a handler in words."""
    words = [f"every {registered.every}" if registered.every is not None else ""]
    words += [f"in the first {registered.first}" if registered.first is not None else ""]
    words += [f"when={named(registered.when)}" if registered.when is not None else ""]
    words += ["once in the run" if registered.once else "", "and at the end" if registered.at_end else ""]
    return ", ".join(filter(None, [*words, _own_cadence(registered.handler)])) or "each time"


def _own_cadence(handler: Any) -> str:
    """Of a method of an object that keeps a cadence of its own: it is called more often, and acts then."""
    every = getattr(getattr(handler, "__self__", None), "every", None)
    return f"acts every {every}" if isinstance(every, Duration) else ""


# --- around them ---


def _title(plan: Plan, epoch: int, stretch: Stretch | None) -> str:
    if stretch is None:
        return f"an epoch of unknown length, of a run of {plan.duration}"
    before, _, after = stretch
    span = f"steps {before.steps + 1:,} to {after.steps:,}"
    if plan.loader is None:
        return f"a run of {plan.duration} without data: {span}" + (f", epoch {epoch:,}" if plan.epoch_steps else "")
    size = f"{after.samples - before.samples:,} samples in batches of {plan.loader.batch_size:,}" if plan.counts_samples else "batches as they come"
    return f"epoch {epoch:,} of a run of {plan.duration}: {span}, {size}"


def _notes(plan: Plan, stretch: Stretch | None) -> list[str]:
    notes = []
    if stretch is None:
        notes.append("this data does not say how long it is, so no steps can be told beforehand; the order and the conditions are those of the run")
    elif stretch[2].finished:
        notes.append(f"the run ends in it, at step {stretch[2].steps:,}")
    if plan.config.time_limit is not None:
        notes.append(f"time_limit: after {plan.config.time_limit} the run stops at the next step, saved")
    return notes


def _schedules(plan: Plan, stretch: Stretch | None) -> list[tuple[str, float | None, float | None, str]]:
    """The value of each schedule for the first step, taken before it, and for the last."""
    first, last = (plan.start, None) if stretch is None else stretch[:2]
    found: list[tuple[str, float | None, float | None, str]] = []
    for name, schedule in parts_of(plan.schedules):
        if isinstance(schedule, FromTorch):  # it has values when there is an optimizer
            found.append((name, None, None, f"{named(schedule.make)}, every {schedule.every}"))
        else:
            found.append((name, float(schedule(first)), None if last is None else float(schedule(last)), _of_schedule(schedule)))
    return found


def _of_schedule(schedule: Any) -> str:
    function = getattr(schedule, "function", schedule)
    return named(function) if inspect.isroutine(function) else str(schedule)


def named(function: Any) -> str:
    """A function as ``module:name``; of a partial one, what is inside."""
    while isinstance(function, partial):
        function = function.func
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}:{name_of(owner)}"


def place_of(function: Any) -> str:
    """File and line of a function, the file relative to this folder or to the package's; empty where there is none."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function) and callable(function):
        function = type(function).__call__
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    path = Path(code.co_filename)
    short = next((path.relative_to(place) for place in (Path.cwd(), _PACKAGES) if path.is_relative_to(place)), path)
    return f"{short}:{code.co_firstlineno}"


_PACKAGES = Path(__file__).parents[2]
"""The folder that the package lies in."""
