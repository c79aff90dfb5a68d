"""What a run calls, and never comes to anything: a function of which a call runs nothing, one that ends in StopIteration, an event without an end."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.core.callables import check_runs
from treadle.core.errors import UsageError
from treadle.core.events import EVENTS, Events

X, Y = torch.zeros(16, 3), torch.zeros(16, 1)


def trainer(objective: Any = None, **more: Any) -> treadle.Trainer:
    config = treadle.Config(run_dir="run", duration="2 epochs", batch_size=4, log=treadle.LogConfig(console="quiet", tensorboard=False))
    sgd = partial(torch.optim.SGD, lr=0.1)
    return treadle.Trainer(lambda: nn.Linear(3, 1), objective or nn.MSELoss(), (X, Y), optimizer=sgd, config=config, **more)


# --- a call runs nothing ---


def generator(run: Any, *_: Any) -> Any:
    yield run


async def asynchronous(run: Any, *_: Any) -> None: ...


async def both(run: Any, *_: Any) -> Any:
    yield run


USES = {
    "a handler": lambda function: Events().on("step_finished")(function),
    "when=": lambda function: Events().on("step_finished", when=function),
    "a method": lambda function: Events().add(type("Own", (), {"on_step_finished": function})()),
    "the step": lambda function: trainer(step=function),
    "a condition": treadle.StopWhen,
    "a partial": lambda function: check_runs(partial(function, 1), "the step"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("function", [generator, asynchronous, both], ids=lambda function: function.__name__)
def test_a_function_of_which_a_call_runs_nothing_is_refused(use: Any, function: Any) -> None:
    with pytest.raises(UsageError, match=r"a call runs nothing of it; give a plain function"):
        use(function)


def test_any_other_function_may_be_called() -> None:
    for function in (print, len, SimpleNamespace, lambda: None, partial(print, 1)):
        check_runs(function, "it")


# --- StopIteration ---


def at_its_end(run: Any) -> None:
    next(iter(()))


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "run_failed"])
def test_stop_iteration_out_of_a_handler_names_the_handler(event: str) -> None:
    one = trainer(valid=(X + 1, Y))
    one.on(event)(at_its_end)
    with pytest.raises(UsageError, match=rf"handler at_its_end, called at {event}, step \d+, raised StopIteration.*give next\(\)") as found:
        one.fit()
    assert isinstance(found.value.__cause__, StopIteration)


def test_stop_iteration_out_of_a_condition_names_it() -> None:
    one = trainer()
    one.on("step_finished", when=at_its_end)(lambda run: None)
    with pytest.raises(UsageError, match=r"when= of the handler .*, called at step_finished, step 1, raised StopIteration"):
        one.fit()
    with pytest.raises(UsageError, match=r"the handler StopWhen\.judge, called at judge, step 1, raised StopIteration"):
        trainer(handlers=[treadle.StopWhen(at_its_end)]).fit()


def test_stop_iteration_in_an_evaluation_names_it() -> None:
    calls: list[int] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            at_its_end(None)
        x, y = batch
        return nn.functional.mse_loss(model(x), y)

    with pytest.raises(UsageError, match="the handler evaluation of valid, called at step_finished, step 4, raised StopIteration"):
        trainer(valid=treadle.Evaluation((X + 1, Y), objective=objective)).fit()


def test_stop_iteration_out_of_a_schedule_is_no_bug_of_ours() -> None:
    def schedule(progress: Any) -> float:
        return 0.1 if progress.steps < 3 else next(iter(()))

    with pytest.raises(RuntimeError, match="generator raised StopIteration") as found:
        trainer(schedules={"lr": schedule}).fit()
    assert not any("raised inside Treadle" in note for note in getattr(found.value, "__notes__", []))


# --- an event without an end ---


def test_an_event_that_its_own_handlers_fire_is_refused() -> None:
    one = trainer(events=("a", "b"))
    one.on("step_finished")(lambda run: run.fire("a"))
    one.on("a")(lambda run: run.fire("b"))
    one.on("b")(lambda run: run.fire("a"))
    with pytest.raises(UsageError, match=r"'a' is fired while its own handlers are called \('a' -> 'b' -> 'a'\), which would never end"):
        one.fit()


def test_an_event_may_be_fired_again_after_a_handler_raised() -> None:
    one, calls = trainer(events=("a",)), []

    @one.on("a")
    def fails(run: treadle.Run) -> None:
        calls.append(run.progress.steps)
        raise KeyError

    @one.on("step_finished")
    def fires(run: treadle.Run) -> None:
        for _ in range(2):
            with pytest.raises(KeyError):
                run.fire("a")

    one.fit()
    assert calls == [step for step in range(1, 9) for _ in range(2)]


# --- how many things a loss is a mean over ---


@pytest.mark.parametrize("count", [-3, float("nan"), float("inf"), torch.tensor(-1.0)])
def test_a_count_that_is_none_is_refused_before_the_first_update_and_later(count: Any) -> None:
    def objective(model: nn.Module, batch: Any, number: Any = count) -> treadle.Outcome:
        x, y = batch
        return treadle.Outcome(nn.functional.mse_loss(model(x), y), count=number)

    with pytest.raises(treadle.errors.ObjectiveError, match="must not be negative or non-finite; got"):
        trainer(objective).fit()
    calls: list[int] = []

    def later(model: nn.Module, batch: Any) -> treadle.Outcome:
        calls.append(1)
        return objective(model, batch, 4 if len(calls) < 4 else count)

    with pytest.raises(treadle.errors.ObjectiveError, match="must not be negative or non-finite; got"):
        trainer(later).fit()
    assert len(calls) == 4
