"""Events of a run: who is told, and at which step."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
def test_an_evaluation_in_the_body_is_told_at_its_own_step(tmp_path, others):
    told: list[int] = []
    log = treadle.LogConfig(tensorboard=False)
    with treadle.Run(treadle.Config(run_dir=str(tmp_path / "run"), duration="2 epochs", batch_size=8, log=log)) as run:
        model, optimizer = run.prepare(nn.Linear(6, 3), partial(torch.optim.SGD, lr=0.1))
        run.track(model=model, optimizer=optimizer)
        run.on("evaluated")(lambda run: told.append(run.progress.steps))
        if others:
            run.on("step_finished")(lambda run: None)
        for step in run.steps((X, Y)):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(optimizer)
            if step.number in (2, 4):
                run.evaluate(model, nn.CrossEntropyLoss(), (X, Y))
    assert told == [2, 4]


# --- once, first and off, where a run goes on ---


class Killed(BaseException):
    """Stands for the end of a process."""


def config(run_dir: str = "results/a", **more: Any) -> treadle.Config:
    quiet = treadle.LogConfig(console="quiet", tensorboard=False)
    every = treadle.CheckpointConfig(every="2 steps")
    return treadle.Config(run_dir=run_dir, **{"duration": "4 epochs", "batch_size": 8, "log": quiet, "checkpoint": every, **more})


def watched(calls: list[str], dies_at: int = 0, **more: Any) -> treadle.Trainer:
    """What every process of a run registers."""
    trainer = treadle.Trainer(
        lambda: nn.Linear(6, 3), nn.CrossEntropyLoss(), (X, Y), optimizer=partial(torch.optim.SGD, lr=0.1), config=config(**more)
    )
    log = lambda name: lambda run: calls.append(f"{name} {run.progress.steps}")  # noqa: E731

    trainer.on("step_finished", every="3 steps", once=True)(log("once"))
    trainer.on("step_finished", first="5 steps")(log("first"))
    trainer.on("epoch_finished", when=lambda run: run.progress.epochs == 3, once=True)(log("when"))

    @trainer.on("step_finished", every="4 steps")
    def thrice(run: treadle.Run) -> None:
        calls.append(f"off {run.progress.steps}")
        run.off(thrice)

    @trainer.on("step_finished")
    def dies(run: treadle.Run) -> None:
        if run.progress.steps == dies_at:
            raise Killed

    return trainer


WHOLE = ["first 1", "first 2", "once 3", "first 3", "first 4", "off 4", "first 5", "when 9"]


def test_conditions_of_an_undisturbed_run() -> None:
    calls: list[str] = []
    watched(calls).fit()
    assert calls == WHOLE


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_run_that_goes_on_calls_what_the_whole_run_calls(dies_at: int) -> None:
    """What was called after the checkpoint that it goes on from is called again, as its steps are made again."""
    before: list[str] = []
    with pytest.raises(Killed):
        watched(before, dies_at).fit()
    kept = [call for call in before if int(call.split()[1]) <= (dies_at - 1) // 2 * 2]
    after: list[str] = []
    assert watched(after).fit().status == "finished"
    assert kept + after == WHOLE


def test_once_is_once_in_a_second_fit_that_goes_on_and_again_in_another_run() -> None:
    calls: list[int] = []
    trainer = watched([], run_dir="results/{n}")
    trainer.on("step_finished", every="2 steps", once=True)(lambda run: calls.append(run.progress.steps))
    trainer.on("step_finished", every="5 steps", once=True)(lambda run: run._loop.stop("interrupted", "as by a signal"))
    assert trainer.fit().status == "interrupted: as by a signal"
    assert trainer.fit().status == "finished"
    assert calls == [2]
    again = trainer.fit()  # the first is over, so this is another run
    assert again.run_dir.name == "002" and again.status == "interrupted: as by a signal"
    assert calls == [2, 2]


def test_a_trainer_that_is_told_in_the_middle_of_its_fit_obeys_at_once() -> None:
    calls: list[str] = []
    trainer = watched([])

    def early(run: treadle.Run) -> None:
        calls.append(f"early {run.progress.steps}")
        if run.progress.steps == 2:
            trainer.off(early)
            trainer.on("step_finished", every="5 steps")(lambda run: calls.append(f"late {run.progress.steps}"))

    trainer.on("step_finished")(early)
    trainer.fit()
    assert calls == ["early 1", "early 2", "late 5", "late 10"]


# --- events of one's own, at each level ---


def step_and_fire(step: Any, model: Any, optimizer: Any) -> None:
    for x, y in step:
        step.backward(nn.functional.cross_entropy(model(x), y))
    step.update(optimizer)
    step.run.fire("updated")


class Told:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_updated(self, run: treadle.Run) -> None:
        self.steps.append(run.step.number)
        run.log({"own/told": 1.0})


PARTS: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.1), "events": ("updated",), "step": step_and_fire}


def test_an_own_event_of_an_own_step_at_the_first_two_levels() -> None:
    one, two, third = Told(), Told(), []
    treadle.train(nn.Linear(6, 3), None, (X, Y), handlers=[one], config=config(duration="5 steps"), **PARTS)
    trainer = treadle.Trainer(nn.Linear(6, 3), None, (X, Y), handlers=[two], config=config("results/b", duration="5 steps"), **PARTS)
    trainer.on("updated", every="2 steps")(lambda run: third.append(run.step.number))
    trainer.fit()
    assert one.steps == two.steps == [1, 2, 3, 4, 5] and third == [2, 4]
    assert next(iter(treadle.read_journal("results/b")))["own/told"] == 1.0


def test_an_own_event_of_an_own_loop_from_the_body_and_from_a_handler() -> None:
    calls: list[str] = []
    with treadle.Run(config(duration="2 steps"), events=("updated", "seen"), handlers=[told := Told()]) as run:
        with pytest.raises(treadle.errors.UsageError, match="cannot fire 'updated': the loop has not begun"):
            run.fire("updated")
        model, optimizer = run.prepare(nn.Linear(6, 3), partial(torch.optim.SGD, lr=0.1))
        run.track(model=model, optimizer=optimizer)
        run.on("step_finished")(lambda run: run.fire("seen"))
        run.on("seen")(lambda run: calls.append(f"seen {run.progress.steps}"))
        for step in run.steps((X, Y)):
            step_and_fire(step, model, optimizer)
    assert told.steps == [1, 2] and calls == ["seen 1", "seen 2"]


@pytest.mark.parametrize(("name", "message"), [("evaluated", "is fired by the run itself"), ("udpated", "did you mean 'updated'")])
def test_only_what_was_declared_can_be_fired(name: str, message: str) -> None:
    def step(step: Any, model: Any, optimizer: Any) -> None:
        step.run.fire(name)

    with pytest.raises(treadle.errors.UsageError, match=message):
        treadle.train(nn.Linear(6, 3), None, (X, Y), config=config(), **{**PARTS, "step": step})


def test_an_exception_in_a_handler_of_an_own_event_arrives_unchanged_and_names_both() -> None:
    error = KeyError("mine")

    def fails(run: treadle.Run) -> None:
        raise error

    trainer = treadle.Trainer(nn.Linear(6, 3), None, (X, Y), config=config(), **PARTS)
    trainer.on("updated")(fails)
    with pytest.raises(KeyError) as caught:
        trainer.fit()
    assert caught.value is error
    assert any("fails at updated, step 1" in note for note in error.__notes__)
