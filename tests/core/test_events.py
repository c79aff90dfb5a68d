from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from treadle.core.errors import ConfigError, UsageError
from treadle.core.events import EVENTS, Events
from treadle.core.when import Duration, Progress

RUN = SimpleNamespace(name="run")


def at(steps: int) -> Progress:
    return Progress(Duration.parse("10 steps"), steps=steps)


def fire(events: Events, event: str = "step_finished", first: int = 1, last: int = 1) -> None:
    for step in range(first, last + 1):
        events.fire(event, RUN, at(step - 1), at(step))


class Recorder:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls
        self.on_demand = False  # no method, so no handler

    def on_step_finished(self, run: Any) -> None:
        self.calls.append(f"{self.name} step")

    def on_run_finished(self, run: Any) -> None:
        self.calls.append(f"{self.name} end")


class Misspelt:
    def on_step_finished(self, run: Any) -> None: ...

    def on_epoch_finnished(self, run: Any) -> None: ...


def test_the_eight_events_are_the_documented_ones() -> None:
    assert EVENTS == (
        "run_started", "epoch_started", "step_finished", "evaluated", "checkpoint_saved", "epoch_finished", "run_finished", "run_failed",
    )  # fmt: skip


def test_handlers_are_called_with_the_run_in_registration_order() -> None:
    events, calls = Events(), []
    events.on("step_finished")(lambda run: calls.append(("first", run)))
    events.add(Recorder("second", recorded := []))
    events.on("step_finished")(lambda run: calls.append(("third", len(recorded))))
    fire(events)
    assert calls == [("first", RUN), ("third", 1)]


def test_the_decorator_gives_the_function_back() -> None:
    def handler(run: Any) -> None: ...

    assert Events().on("evaluated")(handler) is handler


def test_an_event_without_handlers_does_nothing() -> None:
    for event in EVENTS:
        fire(Events(), event)


def test_every_calls_a_handler_only_where_its_cadence_is_due() -> None:
    events, calls = Events(), []
    run = SimpleNamespace(step=0)
    events.on("step_finished", every="3 steps")(lambda run: calls.append(run.step))
    for run.step in range(1, 11):
        events.fire("step_finished", run, at(run.step - 1), at(run.step))
    assert calls == [3, 6, 9]


def test_once_calls_a_handler_the_first_time_only() -> None:
    events, calls = Events(), []
    events.on("step_finished", once=True)(lambda run: calls.append("once"))
    events.on("step_finished")(lambda run: calls.append("always"))
    fire(events, last=3)
    assert calls == ["once", "always", "always", "always"]


def test_once_with_every_waits_until_it_is_due() -> None:
    events, calls = Events(), []
    events.on("step_finished", every="2 steps", once=True)(calls.append)
    fire(events)
    assert calls == []
    fire(events, first=2, last=6)
    assert calls == [RUN]


def test_a_bad_cadence_is_refused_at_registration() -> None:
    with pytest.raises(ConfigError, match="parsecs"):
        Events().on("step_finished", every="3 parsecs")


@pytest.mark.parametrize(("typo", "nearest"), [("step_finish", "step_finished"), ("epochstarted", "epoch_started"), ("evaluate", "evaluated")])
def test_a_typo_in_an_event_is_answered_with_the_nearest_name(typo: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown event '{typo}'; did you mean '{nearest}'"):
        Events().on(typo)


def test_a_handler_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(UsageError, match="must be callable"):
        Events().on("step_finished")(3)  # type: ignore[arg-type]


def test_an_object_is_registered_for_each_of_its_methods() -> None:
    events, calls = Events(), []
    recorder = Recorder("r", calls)
    assert not events
    events.add(recorder)
    assert events
    assert events.objects == [recorder]
    fire(events)
    fire(events, "epoch_finished")
    fire(events, "run_finished")
    assert calls == ["r step", "r end"]


def test_a_misspelt_method_is_refused_with_the_nearest_name_and_nothing_is_registered() -> None:
    events = Events()
    with pytest.raises(UsageError, match=r"Misspelt\.on_epoch_finnished.*did you mean 'on_epoch_finished'"):
        events.add(Misspelt())
    assert not events
    assert events.objects == []


def test_an_object_without_a_handler_method_is_refused() -> None:
    with pytest.raises(UsageError, match=r"SimpleNamespace has no method named on_<event>.*step_finished"):
        Events().add(SimpleNamespace())


def test_a_plain_function_given_as_an_object_is_told_about_the_decorator() -> None:
    with pytest.raises(UsageError, match=r"@trainer\.on\('step_finished'\)"):
        Events().add(lambda run: None)


def raises(run: Any) -> None:
    raise run


class Raises:
    def on_step_finished(self, run: Any) -> None:
        raise run


@pytest.mark.parametrize(
    ("handler", "name"), [(raises, "raises"), (Raises().on_step_finished, "Raises.on_step_finished"), (partial(raises), "partial")]
)
def test_an_exception_arrives_unchanged_with_a_note_that_names_the_handler(handler: Any, name: str) -> None:
    events, error = Events(), KeyError("mine")
    events.on("step_finished")(handler)
    with pytest.raises(KeyError) as caught:
        events.fire("step_finished", error, at(6), at(7))
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert error.__notes__ == [f"raised by the handler {name} at step_finished, step 7"]


def test_included_handlers_come_after_the_own_ones_and_keep_their_own_once() -> None:
    own, shared, calls = Events(), Events(), []
    shared.on("step_finished", once=True)(lambda run: calls.append("shared"))
    shared.add(recorder := Recorder("r", calls))
    own.on("step_finished")(lambda run: calls.append("own"))
    own.include(shared)
    fire(own, last=2)
    assert calls == ["own", "shared", "r step", "own", "r step"]
    assert own.objects == [recorder]
    fire(shared)
    assert calls[5:] == ["shared", "r step"]


def test_a_handler_may_register_another_while_it_is_called() -> None:
    events, calls = Events(), []
    events.on("step_finished", once=True)(lambda run: events.on("step_finished")(calls.append))
    fire(events, last=2)
    assert calls == [RUN]
