"""When a handler is called: cadence, beginning, predicate and once together; taking it off; events of one's own."""

from types import SimpleNamespace
from typing import Any

import pytest

from treadle.core.errors import ConfigError, UsageError
from treadle.core.events import EVENTS, JUDGE, Events
from treadle.core.when import Duration, Progress

EPOCH = 4
"""Steps of an epoch, of 2 samples each."""


def at(steps: int) -> Progress:
    sizes = {"epoch_size": 2 * EPOCH, "epoch_steps": EPOCH, "epoch_samples": 2 * EPOCH}
    place = {"steps": steps, "samples": 2 * steps, "epochs": steps // EPOCH, "into_epoch": 2 * (steps % EPOCH)}
    return Progress(Duration.parse("5 epochs"), **sizes, **place)


def called(event: str = "step_finished", last: int = 20, events: Events | None = None, **conditions: Any) -> list[int]:
    """Steps of a run of 20 at which a handler with these conditions is called."""
    events, run, steps = events or Events(), SimpleNamespace(step=0), []
    events.on(event, **conditions)(lambda run: steps.append(run.step))
    for run.step in range(1, last + 1):
        if event != "epoch_started" or run.step % EPOCH == 1:
            events.fire(event, run, at(run.step - 1), at(run.step))
    return steps


@pytest.mark.parametrize(
    ("first", "steps"),
    [("3 steps", 3), ("7 samples", 3), ("8 samples", 4), ("1 epoch", 4), ("2 epochs", 8), ("1.5 epochs", 6), (Duration.parse("1 step"), 1)],
)
def test_first_is_the_beginning_of_the_run_and_no_more(first: Any, steps: int) -> None:
    assert called(first=first) == list(range(1, steps + 1))


def test_first_asks_where_the_run_is_and_not_how_often_it_was_called() -> None:
    events, calls = Events(), []
    events.on("step_finished", first="10 steps")(calls.append)
    for step in range(9, 14):  # as after a resume from step 8
        events.fire("step_finished", step, at(step - 1), at(step))
    assert calls == [9, 10]


def test_first_of_an_epoch_of_unknown_length() -> None:
    first = Duration.parse("2 epochs")
    places = [(1, 5), (2, 0), (2, 1), (3, 0)]
    assert [first.covers(Progress(first, epochs=epochs, into_epoch=into)) for epochs, into in places] == [True, True, False, False]


def test_all_conditions_must_agree() -> None:
    assert called(every="2 steps", first="10 steps", when=lambda run: run.step > 4) == [6, 8, 10]
    assert called(every="2 steps", first="10 steps", when=lambda run: run.step > 4, once=True) == [6]
    assert called(first="3 steps", when=lambda run: False) == []


def test_when_is_asked_last_and_only_where_the_others_agree() -> None:
    asked: list[int] = []
    called(every="5 steps", first="10 steps", when=lambda run: asked.append(run.step))
    assert asked == [5, 10]


def test_when_that_raises_is_named_with_its_handler() -> None:
    def handler(run: Any) -> None: ...

    events, error = Events(), KeyError("mine")

    def asks(run: Any) -> bool:
        raise error

    events.on("step_finished", when=asks)(handler)
    with pytest.raises(KeyError) as caught:
        events.fire("step_finished", None, at(2), at(3))
    assert caught.value is error
    assert error.__notes__[0].startswith("raised by when= of the handler ") and error.__notes__[0].endswith("handler at step_finished, step 3")


def test_every_at_the_start_of_epochs_counts_their_beginnings() -> None:
    assert called("epoch_started", every="2 epochs") == [1, 9, 17]
    assert called("epoch_started", every="2 epochs", first="2 epochs") == [1]
    assert called("epoch_started") == [1, 5, 9, 13, 17]


@pytest.mark.parametrize(
    ("event", "conditions", "message"),
    [
        ("run_started", {"every": "1 epoch"}, "run_started has no cadence, so every='1 epoch' means nothing"),
        ("run_failed", {"every": "10 steps"}, "run_failed has no cadence"),
        ("epoch_started", {"every": "100 steps"}, "epoch_started comes once an epoch: every='100 steps' must be a whole number of epochs"),
        ("epoch_started", {"every": "0.5 epochs"}, "whole number of epochs"),
        ("step_finished", {"when": True}, r"when= of a handler of 'step_finished' must be callable as when\(run\), got True"),
        ("step_finished", {"first": "10 parsecs"}, "unknown unit 'parsecs'"),
        ("step_finished", {"first": 10}, "10 is not a number of steps"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(event: str, conditions: Any, message: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=message):
        Events().on(event, **conditions)


def test_lengths_of_both_kinds_are_told_for_the_check_of_lengths() -> None:
    events = Events()
    events.on("step_finished", every="2 steps", first="1.5 epochs")(print)
    assert events.cadences() == [("print", Duration.parse("2 steps")), ("print", Duration.parse("1.5 epochs"))]


# --- taken off ---


class Both:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def on_step_finished(self, run: Any) -> None:
        self.calls.append("step")

    def on_epoch_finished(self, run: Any) -> None:
        self.calls.append("epoch")


def fire(events: Events, *names: str) -> None:
    for name in names or ("step_finished",):
        events.fire(name, None, at(0), at(1))


def test_a_handler_that_is_off_is_called_no_more() -> None:
    events, calls = Events(), []

    def one(run: Any) -> None:
        calls.append("one")

    events.on("step_finished")(one)
    events.on("step_finished")(lambda run: calls.append("two"))
    fire(events)
    events.off(one)
    events.off(one)  # again
    fire(events)
    assert calls == ["one", "two", "two"]


def test_an_object_goes_with_all_its_methods_and_its_state_stays() -> None:
    events, calls = Events(), []
    events.add(both := Both(calls))
    events.add(other := Both(calls))
    events.off(both)
    fire(events, "step_finished", "epoch_finished")
    assert calls == ["step", "epoch"]
    events.off(other.on_epoch_finished)
    fire(events, "step_finished", "epoch_finished")
    assert calls == ["step", "epoch", "step"]
    assert events.objects == [both, other]


def test_a_handler_may_take_itself_and_one_after_it_off() -> None:
    events, calls = Events(), []

    def first(run: Any) -> None:
        calls.append("first")
        events.off(first)
        events.off(last)

    def last(run: Any) -> None:
        calls.append("last")

    events.on("step_finished")(first)
    events.on("step_finished")(lambda run: calls.append("between"))
    events.on("step_finished")(last)
    fire(events)
    fire(events)
    assert calls == ["first", "between", "between"]


def test_what_was_never_registered_cannot_be_off() -> None:
    def watch(run: Any) -> None: ...

    def watcher(run: Any) -> None: ...

    watch.__qualname__, watcher.__qualname__ = "watch", "watcher"
    events = Events()
    events.on("step_finished")(watch)
    with pytest.raises(UsageError, match="watcher is no handler that could be taken off; did you mean 'watch'"):
        events.off(watcher)


def test_the_view_of_an_event_is_empty_when_all_are_off() -> None:
    """The loop looks at it, and fires nothing where nobody listens."""
    events = Events()
    view = events.handlers("step_finished")
    events.on("step_finished", once=True)(print)
    assert len(view) == 1
    fire(events)
    assert not view


# --- what is kept in a checkpoint ---


def watched(calls: list[str]) -> Events:
    """The same handlers as in every process of a run."""
    events = Events()

    def twice(run: Any) -> None:
        calls.append("twice")

    for _ in range(2):
        events.on("step_finished", once=True)(twice)
    events.on("step_finished", every="2 steps", once=True)(lambda run: calls.append("even"))
    return events


def test_once_is_once_also_in_another_process() -> None:
    calls: list[str] = []
    one = watched(calls)
    one.fire("step_finished", None, at(0), at(1))
    assert calls == ["twice", "twice"]
    two = watched(calls)
    two.restore(one.gone())
    two.fire("step_finished", None, at(1), at(2))
    assert calls == ["twice", "twice", "even"]
    three = watched(calls)
    three.restore(two.gone())
    assert not three
    assert three.gone() == two.gone() and len(two.gone()) == 3


def test_a_handler_that_is_registered_after_the_restoring_and_is_gone_stays_so() -> None:
    def handler(run: Any) -> None: ...

    one, two = Events(), Events()
    one.on("run_started")(handler)
    one.off(handler)
    two.restore(one.gone())
    assert two.on("run_started")(handler) is handler
    assert not two


def test_handlers_that_come_while_the_run_goes_on_are_not_remembered() -> None:
    """Where it goes on in another process, they are registered by then, or not at all."""
    events = Events()
    events.begun = True
    events.on("step_finished", once=True)(lambda run: None)
    fire(events)
    assert not events and events.gone() == []


def test_who_includes_hears_of_later_handlers_and_of_those_that_are_off() -> None:
    """A trainer's handlers and the copies in its run."""
    shared, own, calls = Events(), Events(), []

    def early(run: Any) -> None:
        calls.append("early")

    shared.on("step_finished")(early)
    own.include(shared)
    shared.on("step_finished")(lambda run: calls.append("late"))
    fire(own)
    shared.off(early)
    fire(own)
    assert calls == ["early", "late", "late"]


def test_an_object_that_is_off_judges_no_more_here_and_where_the_run_goes_on() -> None:
    class Judge:
        def judge(self, run: Any) -> None:
            calls.append(run)

    calls: list[Any] = []
    judge, one, two = Judge(), Events(), Events()
    one.add(judge)
    two.include(one)
    two.fire(JUDGE, "a", at(0), at(1))
    one.off(judge)
    two.fire(JUDGE, "b", at(1), at(2))
    three = Events()
    three.add(judge)
    three.restore(two.gone())
    three.fire(JUDGE, "c", at(2), at(3))
    assert calls == ["a"]
    assert JUDGE not in one.names and one.own == []


def test_an_inherited_method_has_the_name_of_its_objects_class() -> None:
    class Base:
        def on_run_started(self, run: Any) -> None:
            raise ValueError("mine")

    class Child(Base): ...

    events = Events()
    events.add(Child())
    with pytest.raises(ValueError, match="mine") as caught:
        events.fire("run_started", None, at(0), at(0))
    assert any("Child.on_run_started at run_started" in note for note in caught.value.__notes__)


# --- events of one's own ---


def test_an_own_event_is_as_the_others() -> None:
    events, calls = Events(("generator_updated",)), []

    class Watch:
        def on_generator_updated(self, run: Any) -> None:
            calls.append("object")

    events.on("generator_updated", every="2 steps")(lambda run: calls.append("function"))
    events.add(Watch())
    for step in (1, 2):
        events.check_own("generator_updated")
        events.fire("generator_updated", None, at(step - 1), at(step))
    assert calls == ["object", "function", "object"]
    assert events.own == ["generator_updated"]


def test_own_events_come_with_the_handlers() -> None:
    shared, own = Events(("mine",)), Events()
    own.include(shared)
    assert own.own == ["mine"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Events(("generator_updated",)).on("generator_update"), "unknown event 'generator_update'; did you mean 'generator_updated'"),
        (lambda: Events(("generator_updated",)).check_own("generatr"), "unknown event 'generatr'; did you mean 'generator_updated'"),
        (lambda: Events().check_own("mine"), r"one of your own is declared first: events=\('my_event',\)"),
        (lambda: Events().check_own("step_finished"), "'step_finished' is fired by the run itself"),
        (lambda: Events("mine"), r"a sequence of names, such as events=\('mine',\); got the text 'mine'"),
        (lambda: Events(("two words",)), "'two words' must be a name as Python has them"),
        (lambda: Events((3,)), "the event 3 must be a name"),  # type: ignore[arg-type]
    ],
)
def test_own_events_that_cannot_be(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize("name", (*EVENTS, JUDGE))
def test_an_own_event_cannot_take_the_name_of_a_built_in_one(name: str) -> None:
    with pytest.raises(UsageError, match="is one of the run's own; give yours another name"):
        Events((name,))
