"""Events: what happens in a run, and the handlers that want to know.

Handlers are called in the order in which they were registered. An exception from a handler arrives
unchanged, with a note that names the handler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from treadle.core.errors import UsageError, did_you_mean
from treadle.core.when import Duration, Progress

EVENTS = (
    "run_started",
    "epoch_started",
    "step_finished",
    "evaluated",
    "checkpoint_saved",
    "epoch_finished",
    "run_finished",
    "run_failed",
)

Handler = Callable[[Any], object]


@dataclass(slots=True)
class _Registered:
    handler: Handler
    every: Duration | None
    once: bool
    at_end: bool

    def wants(self, before: Progress, after: Progress) -> bool:
        return self.every is None or self.every.due(before, after) or (self.at_end and after.finished)


class Events:
    """The handlers of a run, by event.

    Example:
        >>> events = Events()
        >>> @events.on("epoch_finished")
        ... def say(run): print("an epoch is over")
    """

    def __init__(self) -> None:
        self._handlers: dict[str, list[_Registered]] = {name: [] for name in EVENTS}
        self.objects: list[object] = []
        """Handlers that are objects, in the order in which they were added."""

    def on(self, event: str, *, every: str | Duration | None = None, once: bool = False, at_end: bool = False) -> Callable[[Handler], Handler]:
        """Decorate a function ``f(run)`` to be called at an event.

        Args:
            event: one of the eight names in `EVENTS`.
            every: call it only where this cadence is due, such as ``"100 steps"``.
            once: call it the first time only, in each process.
            at_end: call it also where the run's whole duration is done.

        Raises:
            UsageError: the event does not exist; the nearest name is given.
        """
        if event not in self._handlers:
            raise UsageError(f"unknown event {event!r}{did_you_mean(event, EVENTS)} events: {', '.join(EVENTS)}")
        cadence = None if every is None else Duration.parse(every)

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise UsageError(f"a handler of {event!r} must be callable as f(run), got {handler!r}")
            self._handlers[event].append(_Registered(handler, cadence, once, at_end))
            return handler

        return register

    def add(self, handler: object) -> None:
        """Register every method named ``on_<event>`` of an object.

        Raises:
            UsageError: the object has no such method, or one whose event does not exist.
        """
        if isinstance(handler, type):
            raise UsageError(f"the handler {handler.__name__} is a class; call it: {handler.__name__}(...)")
        methods = [name for name in dir(handler) if name.startswith("on_") and callable(getattr(handler, name))]
        if not methods:
            hint = "; register a plain function with @trainer.on('step_finished')" if callable(handler) else ""
            raise UsageError(f"{_name(handler)} has no method named on_<event>{hint}; events: {', '.join(EVENTS)}")
        for name in methods:
            if name.removeprefix("on_") not in EVENTS:
                known = [f"on_{event}" for event in EVENTS]
                raise UsageError(f"{_name(handler)}.{name} is no event{did_you_mean(name, known)} events: {', '.join(EVENTS)}")
        self.objects.append(handler)
        for event in EVENTS:
            if f"on_{event}" in methods:
                self.on(event)(getattr(handler, f"on_{event}"))

    def attach(self, run: Any) -> None:
        """Call ``attach(run)`` of the objects that have it: models and optimizers are there, and nothing is restored yet."""
        for handler in self.objects:
            if callable(attach := getattr(handler, "attach", None)):
                _call(attach, "attach", run, run.progress)

    def detach(self, run: Any) -> None:
        """Call ``detach(run)`` of the objects that have it: the run is over, however it ended."""
        for handler in self.objects:
            if callable(detach := getattr(handler, "detach", None)):
                _call(detach, "detach", run, run.progress)

    def __bool__(self) -> bool:
        return any(self._handlers.values())

    def include(self, other: Events) -> None:
        """Add all handlers of another, after the ones here."""
        self.objects += other.objects
        for event, handlers in other._handlers.items():
            self._handlers[event] += [replace(registered) for registered in handlers]

    def any_but(self, package: str) -> bool:
        """Whether there is a handler that is no method of an object of this package."""
        owners = [getattr(registered.handler, "__self__", None) for found in self._handlers.values() for registered in found]
        return any(not type(owner).__module__.startswith(package) for owner in owners)

    def handlers(self, event: str) -> Sequence[object]:
        """Those of an event, as they are at any time: a view that a loop can look at without asking."""
        return self._handlers[event]

    def cadences(self) -> list[tuple[str, Duration]]:
        """The cadence of every handler that has one, with the handler's name."""
        handlers = [registered for found in self._handlers.values() for registered in found]
        return [(_name(registered.handler), registered.every) for registered in handlers if registered.every is not None]

    def fire(self, event: str, run: Any, before: Progress, after: Progress) -> None:
        """Call the handlers of an event that want this moment."""
        handlers = self._handlers[event]
        if not handlers:
            return
        for registered in list(handlers):
            if registered.wants(before, after):
                if registered.once:
                    handlers.remove(registered)
                _call(registered.handler, event, run, after)


def _call(handler: Handler, event: str, run: Any, after: Progress) -> None:
    try:
        handler(run)
    except Exception as error:
        error.add_note(f"raised by the handler {_name(handler)} at {event}, step {after.steps}")
        raise


def _name(handler: object) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__
