"""Events: what happens in a run, and the handlers that want to know.

Handlers are called in the order in which they were registered. An exception from a handler arrives
unchanged, with a note that names the handler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, TypedDict

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
JUDGE = "judge"
"""No event, but called like one: the method of an object that decides when all values of a step are logged, and nothing of it is saved."""
_ONE_MOMENT = ("run_started", "run_finished", "run_failed")

Handler = Callable[[Any], object]
Predicate = Callable[[Any], object]


class Conditions(TypedDict, total=False):
    """When a handler is called: see `Events.on`."""

    every: str | Duration | None
    once: bool
    first: str | Duration | None
    when: Predicate | None


@dataclass(slots=True, eq=False)
class Registration:
    """A handler of an event, and when it is called: see `Events.on`.

    Args:
        at_end: also where the run's whole duration is done.
        evaluates: whether it evaluates wherever it is called, so that `evaluated` follows.
        key: what it is called in a checkpoint; empty for one that came while the run went on.
    """

    event: str
    handler: Handler
    every: Duration | None = None
    once: bool = False
    first: Duration | None = None
    when: Predicate | None = None
    at_end: bool = False
    evaluates: bool = False
    key: str = ""

    def due(self, before: Progress, after: Progress) -> bool:
        """Whether its cadence wants this moment; what `when` says is asked apart."""
        if self.first is not None and not self.first.covers(after):
            return False
        every = self.every
        if every is None:
            return True
        if self.event == "epoch_started":  # no multiple is reached by a beginning: it lies on one
            return before.epochs % int(every.value) == 0
        return every.due(before, after) or (self.at_end and after.finished)

    def belongs_to(self, handler: object) -> bool:
        """Whether it calls this function, or a method of this object."""
        own = self.handler
        return own is handler or getattr(own, "__self__", None) is handler or (isinstance(handler, MethodType) and own == handler)


class Events:
    """The handlers of a run, by event.

    Args:
        own: names of further events, which the user fires.

    Raises:
        UsageError: a name cannot be one of an event.

    Example:
        >>> events = Events()
        >>> @events.on("epoch_finished")
        ... def say(run): print("an epoch is over")
    """

    def __init__(self, own: Sequence[str] = ()) -> None:
        self._handlers: dict[str, list[Registration]] = {name: [] for name in (*EVENTS, *_checked(own), JUDGE)}
        self._counts: Counter[str] = Counter()
        self._gone: set[str] = set()
        """Keys of those that are called no more in this run."""
        self._copy: Events | None = None
        """Who included these handlers last, and is told of new ones and of those that are off."""
        self.begun = False
        """Whether handlers that come from now on are not there when the run goes on in another process."""
        self.objects: list[object] = []
        """Handlers that are objects, in the order in which they were added."""

    def on(
        self,
        event: str,
        *,
        every: str | Duration | None = None,
        once: bool = False,
        first: str | Duration | None = None,
        when: Predicate | None = None,
        at_end: bool = False,
        evaluates: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Decorate a function ``f(run)`` to be called at an event. Where several conditions are given, all of them must agree.

        Args:
            event: one of the eight names in `EVENTS`, or one that was declared.
            every: call it only where this cadence is due, such as ``"100 steps"``; at epoch_started ``"3 epochs"`` are the epochs 1, 4, 7.
            once: call it the first time only, in the whole run: also when it goes on in another process.
            first: call it only during the first so much of the run, such as ``"100 steps"``.
            when: call it only where ``when(run)`` is true, asked last, at the moment itself.
            at_end: call it also where the run's whole duration is done.
            evaluates: it evaluates wherever it is called.

        Raises:
            UsageError: the event does not exist, and the nearest name is given; or it has no such cadence.
            ConfigError: a length cannot be read.
        """
        self._check_name(event)
        cadence, beginning = (None if length is None else Duration.parse(length) for length in (every, first))
        _check_cadence(event, cadence)
        if when is not None and not callable(when):
            raise UsageError(f"when= of a handler of {event!r} must be callable as when(run), got {when!r}")

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise UsageError(f"a handler of {event!r} must be callable as f(run), got {handler!r}")
            self._add(Registration(event, handler, cadence, once, beginning, when, at_end, evaluates))
            return handler

        return register

    def add(self, handler: object) -> None:
        """Register every method named ``on_<event>`` of an object, and its method ``judge``.

        Raises:
            UsageError: the object has no such method, or one whose event does not exist.
        """
        if isinstance(handler, type):
            raise UsageError(f"the handler {handler.__name__} is a class; call it: {handler.__name__}(...)")
        methods = {name.removeprefix("on_"): name for name in dir(handler) if name.startswith("on_") and callable(getattr(handler, name))}
        known = ", ".join(self.names)
        for event, method in methods.items():
            if event not in self.names:
                near = did_you_mean(method, [f"on_{name}" for name in self.names])
                raise UsageError(f"{name_of(handler)}.{method} is no event{near}; events: {known}")
        if callable(getattr(handler, JUDGE, None)):
            methods[JUDGE] = JUDGE
        if not methods:
            hint = "; register a plain function with @trainer.on('step_finished')" if callable(handler) else ""
            raise UsageError(f"{name_of(handler)} has no method named on_<event>{hint}; events: {known}")
        self.objects.append(handler)
        for event in self._handlers:
            if event in methods:
                self._add(Registration(event, getattr(handler, methods[event])))

    def off(self, handler: object) -> None:
        """Call a handler no more: a function, or an object with all its methods. It stays off when the run goes on in another process.

        The state of an object stays part of the checkpoints, so that they fit.

        Raises:
            UsageError: it is not registered.
        """
        known = {name.partition(" ")[2] for name in self._counts}  # one that is off already may be taken off again
        if name_of(handler) not in known and not any(one is handler for one in self.objects):
            raise UsageError(f"{name_of(handler)} is no handler that could be taken off{did_you_mean(name_of(handler), known)}")
        self._drop(handler)

    def tell(self, what: str, run: Any) -> None:
        """Call a method of the objects that have it, outside of any event.

        Args:
            what: ``attach``: models and optimizers are there, and a schedule may still become another one; ``prepare``: schedules know
                their groups, and nothing is restored yet; ``detach``: the run is over, however it ended.
            run: what it is called with.
        """
        for handler in self.objects:
            if callable(method := getattr(handler, what, None)):
                _call(method, run, Registration(what, method), run.progress)

    def __bool__(self) -> bool:
        return any(self._handlers.values())

    def include(self, other: Events) -> None:
        """Add all events and handlers of another, after the ones here; also those that come later, and off those that go."""
        self.objects += other.objects
        for event, handlers in other._handlers.items():
            self._handlers.setdefault(event, [])
            for registered in handlers:
                self._add(replace(registered))
        other._copy = self

    def any_but(self, package: str) -> bool:
        """Whether there is a handler that is no method of an object of this package."""
        owners = [getattr(registered.handler, "__self__", None) for registered in self.registrations()]
        return any(not type(owner).__module__.startswith(package) for owner in owners)

    def handlers(self, event: str) -> Sequence[Registration]:
        """Those of an event, or of `JUDGE`, as they are at any time: a view that a loop can look at without asking."""
        return self._handlers[event]

    def registrations(self) -> list[Registration]:
        """All of them."""
        return [registered for found in self._handlers.values() for registered in found]

    @property
    def names(self) -> list[str]:
        """The events, the user's own after those of every run."""
        return [name for name in self._handlers if name != JUDGE]

    @property
    def own(self) -> list[str]:
        """The events that the user declared."""
        return [name for name in self.names if name not in EVENTS]

    def cadences(self) -> list[tuple[str, Duration]]:
        """Every length that a handler has, with the handler's name."""
        lengths = [(name_of(one.handler), length) for one in self.registrations() for length in (one.every, one.first)]
        own = [(name_of(handler), every) for handler in self.objects if isinstance(every := getattr(handler, "every", None), Duration)]
        return [(name, length) for name, length in lengths if length is not None] + own

    def fire(self, event: str, run: Any, before: Progress, after: Progress) -> None:
        """Call the handlers of an event, or of `JUDGE`, that want this moment."""
        handlers = self._handlers[event]
        if not handlers:
            return
        for registered in list(handlers):
            if registered not in handlers or not registered.due(before, after):  # one before it may have taken it off
                continue
            if registered.when is not None and not _call(registered.when, run, registered, after):
                continue
            if registered.once:
                self._retire(registered)
            _call(registered.handler, run, registered, after)

    def check_own(self, event: str) -> None:
        """Raise unless an event is the user's to fire.

        Raises:
            UsageError: it is one of the run's, or was not declared.
        """
        if event in EVENTS:
            raise UsageError(f"{event!r} is fired by the run itself; fire an event of your own, declared with events=('my_event',)")
        self._check_name(event)

    # --- what is in a checkpoint ---

    def gone(self) -> list[str]:
        """Which handlers are called no more in this run: those with ``once=True`` that were, and those that are off."""
        return sorted(self._gone)

    def restore(self, gone: Iterable[str]) -> None:
        """Put back what `gone` gave."""
        self._gone.update(gone)
        for handlers in self._handlers.values():
            handlers[:] = [registered for registered in handlers if registered.key not in self._gone]

    # --- inside ---

    def _add(self, registered: Registration) -> None:
        name = f"{registered.event} {name_of(registered.handler)}"
        self._counts[name] += 1
        registered.key = "" if self.begun else f"{name} {self._counts[name]}"
        if registered.key not in self._gone:
            self._handlers[registered.event].append(registered)
        if self._copy is not None:
            self._copy._add(replace(registered))

    def _drop(self, handler: object) -> None:
        for registered in self.registrations():
            if registered.belongs_to(handler):
                self._retire(registered)
        if self._copy is not None:
            self._copy._drop(handler)

    def _retire(self, registered: Registration) -> None:
        self._handlers[registered.event].remove(registered)
        if registered.key:
            self._gone.add(registered.key)

    def _check_name(self, event: str) -> None:
        if event not in self.names:
            hint = "" if self.own else "; one of your own is declared first: events=('my_event',)"
            near = did_you_mean(str(event), self.names)
            near = near if "did you mean" in near else ""
            raise UsageError(f"unknown event {event!r}{near}; events: {', '.join(self.names)}{hint}")


def name_of(handler: object) -> str:
    """What a handler is called in a message; a method by the class of its object, also where it is inherited."""
    if isinstance(handler, MethodType) and not isinstance(handler.__self__, type):
        return f"{type(handler.__self__).__qualname__}.{handler.__name__}"
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__


def _call(function: Callable[[Any], object], run: Any, registered: Registration, after: Progress) -> object:
    try:
        return function(run)
    except Exception as error:
        part = "the handler" if function is registered.handler else "when= of the handler"
        error.add_note(f"raised by {part} {name_of(registered.handler)} at {registered.event}, step {after.steps}")
        raise


def _checked(names: Sequence[str]) -> Sequence[str]:
    if isinstance(names, str):
        raise UsageError(f"events must be a sequence of names, such as events=({names!r},); got the text {names!r}")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise UsageError(f"the event {name!r} must be a name as Python has them, such as 'generator_updated'")
        if name in (*EVENTS, JUDGE):
            raise UsageError(f"the event {name!r} is one of the run's own; give yours another name")
    return names


def _check_cadence(event: str, every: Duration | None) -> None:
    if every is None:
        return
    if event in _ONE_MOMENT:
        raise UsageError(f"{event} has no cadence, so every='{every}' means nothing there; leave it out, or take another event")
    if event == "epoch_started" and (every.unit != "epochs" or every.value.denominator != 1):
        raise UsageError(f"epoch_started comes once an epoch: every='{every}' must be a whole number of epochs there")
