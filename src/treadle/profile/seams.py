"""Seams: the public methods between which a step's time is told apart, wrapped from outside while a program is profiled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from treadle.checkpoint.store import Checkpoints
from treadle.checkpoint.tracked import Tracked
from treadle.core.events import Events
from treadle.data import ahead, loader
from treadle.data.ahead import SideStream
from treadle.data.batch import Batch, to_device
from treadle.data.loader import Loader
from treadle.data.prepare import prepared
from treadle.log.log import Log
from treadle.metrics.group import Group
from treadle.profile.phases import (
    BACKWARD,
    CHECKPOINT,
    EVALUATION,
    FORWARD,
    HANDLERS,
    LOGGING,
    METRICS,
    OPTIMIZER,
    OTHER,
    PREPARING,
    TRANSFER,
    WAIT,
    Clock,
)
from treadle.step.step import Step

SEAMS: tuple[tuple[Any, str, str], ...] = (
    (Step, "backward", BACKWARD),
    (Step, "update", OPTIMIZER),
    (SideStream, "begin", TRANSFER),
    (SideStream, "finish", TRANSFER),
    (Group, "update", METRICS),
    (Group, "compute", METRICS),
    (Log, "add", LOGGING),
    (Log, "flush", LOGGING),
    (Log, "tick", LOGGING),
    (Log, "say", LOGGING),
    (Checkpoints, "take_apart", CHECKPOINT),
    (Checkpoints, "begin", CHECKPOINT),
    (Checkpoints, "settle", CHECKPOINT),
    (Tracked, "states", CHECKPOINT),
    (Tracked, "check_finite", CHECKPOINT),
    (Events, "fire", HANDLERS),
)
"""Class, method, and the phase that its time belongs to."""


@contextmanager
def seams(clock: Clock, run: Any, turn: Callable[[], object], loaded: Callable[[Loader], object]) -> Iterator[Counter[str]]:
    """Wrap the seams of a run in this thread; afterwards everything is as it was.

    Args:
        clock: told which phase begins and ends.
        run: the `Run`. Its body begins where `Step.begin` ends, and ends where `Step.finish` begins.
        turn: called once a step, before its body.
        loaded: told of the loader that a batch is waited for.

    Yields:
        how often each of them was called.
    """
    calls = Counter[str]()
    with ExitStack() as stack:

        def put(home: Any, name: str, wrapped: Any) -> None:
            stack.enter_context(patch.object(home, name, wrapped))

        for home, name, phase in (*SEAMS, (type(run), "evaluate", EVALUATION)):
            put(home, name, timed(getattr(home, name), f"{home.__name__}.{name}", phase, clock, calls))
        failures = run._loop._failures  # what it remembers of the moment before the body is no part of the body
        put(failures, "mark", timed(failures.mark, "mark", OTHER, clock, calls))
        for module in (ahead, loader):
            put(module, "to_device", timed(to_device, "to_device", TRANSFER, clock, calls))
        put(loader, "prepared", lambda batches, prepare, *more: prepared(batches, timed(prepare, "prepare", PREPARING, clock, calls), *more))
        put(Loader, "batches", _waited(Loader.batches, clock, loaded))
        put(Step, "begin", _begun(Step.begin, clock, run, turn))
        put(Step, "finish", _finished(Step.finish, clock, run))
        yield calls


def timed(function: Callable[..., Any], name: str, phase: str, clock: Clock, calls: Counter[str]) -> Callable[..., Any]:
    """A function whose time belongs to a phase, and whose calls are counted, in this thread."""
    enter, leave, thread, here = clock.enter, clock.leave, threading.get_ident, threading.get_ident()

    @wraps(function)
    def call(*arguments: Any, **more: Any) -> Any:
        if thread() != here:  # what other threads do is done beside the steps
            return function(*arguments, **more)
        calls[name] += 1
        enter(phase)
        try:
            return function(*arguments, **more)
        finally:
            leave()

    return call


def _waited(batches: Callable[..., Any], clock: Clock, loaded: Callable[[Loader], object]) -> Callable[..., Any]:
    @wraps(batches)
    def call(self: Loader, *arguments: Any, **more: Any) -> Generator[Batch, None, None]:
        inner = batches(self, *arguments, **more)
        try:
            while True:
                clock.enter(WAIT)
                try:
                    if clock.top == WAIT:
                        loaded(self)
                    batch = next(inner, None)
                finally:
                    clock.leave()
                if batch is None:
                    return
                yield batch
        finally:
            inner.close()

    return call


def _begun(begin: Callable[..., Any], clock: Clock, run: Any, turn: Callable[[], object]) -> Callable[..., Any]:
    @wraps(begin)
    def call(self: Step, *arguments: Any, **more: Any) -> Any:
        begin(self, *arguments, **more)
        if self is run.step:
            turn()
            clock.base(FORWARD)

    return call


def _finished(finish: Callable[..., Any], clock: Clock, run: Any) -> Callable[..., Any]:
    @wraps(finish)
    def call(self: Step) -> Any:
        if self is run.step:
            clock.base(OTHER)
        finish(self)

    return call
