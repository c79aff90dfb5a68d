"""What `treadle explain` tells, held to what is called in real runs: every call, in its order, at its step."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.core.events import Registration, name_of
from treadle.core.when import Duration
from treadle.explain.timeline import Timeline
from treadle.explain.walk import BODY, CHECKPOINT, ROW, Plan, walk
from treadle.loop import Loop
from treadle.metrics import Accuracy

X, Y = torch.randn(22, 6, generator=torch.Generator().manual_seed(1)), torch.arange(22) % 3
Told = tuple[int, str]
OUTSIDE = ("run_started", "run_finished")


class Watch:
    """A handler with a method for everything that happens between the run's two ends."""

    def on_epoch_started(self, run: treadle.Run) -> None: ...

    def on_step_finished(self, run: treadle.Run) -> None: ...

    def on_evaluated(self, run: treadle.Run) -> None: ...

    def on_epoch_finished(self, run: treadle.Run) -> None: ...

    def on_checkpoint_saved(self, run: treadle.Run) -> None: ...

    def judge(self, run: treadle.Run) -> None: ...

    def on_run_finished(self, run: treadle.Run) -> None: ...


def step(step: Any, model: Any, optimizer: Any) -> None:
    for x, y in step:
        step.backward(nn.functional.cross_entropy(model(x), y))
    step.update(optimizer)


def trainer(data: Any = (X, Y), parts: Any = None, **more: Any) -> treadle.Trainer:
    quiet = treadle.LogConfig(console="quiet", tensorboard=False, every=more.pop("log_every", "3 steps"))
    every = {"evaluate": treadle.EvaluateConfig(every=more.pop("evaluate", "1 epoch"))}
    every["checkpoint"] = treadle.CheckpointConfig(every=more.pop("save", "5 steps"))  # type: ignore[assignment]
    config = treadle.Config(run_dir="results/a", **{"duration": "3 epochs", "batch_size": 4, "log": quiet, **every, **more})
    sgd = partial(torch.optim.SGD, lr=0.1)
    parts = {"valid": (X, Y), "metrics": {"accuracy": Accuracy()}, **(parts or {})}
    one = treadle.Trainer(lambda: nn.Linear(6, 3), nn.CrossEntropyLoss(), data, optimizer=sgd, config=config, handlers=[Watch()], **parts)
    for event, conditions in [
        ("step_finished", {"every": "4 steps"}),
        ("step_finished", {"every": "2 steps", "first": "1.5 epochs"}),
        ("step_finished", {"every": "7 steps", "once": True}),
        ("step_finished", {"first": "3 steps"}),
        ("epoch_started", {"every": "2 epochs"}),
        ("epoch_finished", {"every": "2 epochs"}),
        ("evaluated", {"once": True}),
        ("evaluated", {"first": "1 epoch"}),
        ("checkpoint_saved", {"every": "10 steps"}),
        ("step_finished", {}),
    ]:
        if data is not None:
            one.on(event, **conditions)(lambda run: None)
    return one


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What happens in a real run, as it does."""
    found: list[Told] = []
    due, row, save = Registration.due, Loop._log_window, Loop._save

    def seen(self: Registration, before: Any, after: Any) -> bool:
        wanted = due(self, before, after)
        if wanted and self.event not in OUTSIDE:
            found.append((after.steps, f"{self.event} {name_of(self.handler)}"))
        return wanted

    def seen_row(self: Loop) -> None:
        found.append((self.progress.steps, ROW))
        row(self)

    def seen_save(self: Loop, *arguments: Any, **more: Any) -> None:
        if self.progress.steps:
            found.append((self.progress.steps, CHECKPOINT))
        save(self, *arguments, **more)

    monkeypatch.setattr(Registration, "due", seen)
    monkeypatch.setattr(Loop, "_log_window", seen_row)
    monkeypatch.setattr(Loop, "_save", seen_save)
    return found


def told(plan: Plan) -> Iterator[Told]:
    """What is told of the run, epoch by epoch."""
    epoch = 1
    while True:
        try:
            for call in walk(plan, epoch):
                yield call.step, call.what if isinstance(call.what, str) else f"{call.what.event} {name_of(call.what.handler)}"
        except treadle.errors.UsageError:
            return
        epoch += 1


KINDS: dict[str, dict[str, Any]] = {
    "epochs": {},
    "an epoch that is cut short": {"duration": "15 steps"},
    "less than an epoch": {"duration": "4 steps", "evaluate": None},
    "samples": {"duration": "50 samples", "log_every": "9 samples", "evaluate": "13 samples", "save": "25 samples"},
    "parts of epochs": {"duration": "2.5 epochs", "evaluate": "0.5 epochs", "save": "0.3 epochs", "log_every": "0.4 epochs"},
    "drop_last": {"drop_last": True, "save": "1 epoch"},
    "one step an epoch": {"batch_size": 32, "duration": "5 epochs"},
    "endless": {"data": treadle.data.Infinite((X, Y), batches_per_epoch=4), "duration": "4 epochs"},
    "buckets": {"data": treadle.data.bucket((X, Y), range(len(X)), max_tokens=2 * len(X)), "duration": "4 epochs"},
    "batches": {"data": treadle.Batches([(X[:4], Y[:4]), (X[4:5], Y[4:5]), (X[5:12], Y[5:12])]), "duration": "4 epochs"},
    "nothing to evaluate": {"parts": {"valid": None, "metrics": None}},
    "debug": {"debug": "6 steps"},
    "overfit": {"debug": "overfit"},
    "an own step": {"parts": {"step": step, "metrics": None, "valid": None}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_is_what_happens(kind: str, happened: list[Told]) -> None:
    foretold = [call for call in told(trainer(**KINDS[kind])._plan()) if call[1] != BODY]
    happened.clear()
    assert trainer(**KINDS[kind]).fit().status == "finished"
    assert happened == foretold
    assert len({what for _, what in foretold}) > 5


def test_the_body_is_told_once_a_step_between_what_begins_and_what_follows() -> None:
    calls = list(told(trainer()._plan()))
    assert [step for step, what in calls if what == BODY] == list(range(1, 19))
    assert calls[:4] == [(1, "epoch_started Watch.on_epoch_started"), (1, calls[1][1]), (1, BODY), (1, "step_finished Watch.on_step_finished")]


@pytest.mark.parametrize("epoch", [None, "5 steps"])
def test_a_loop_without_data_is_one_stretch_or_has_epochs_of_its_own(epoch: str | None, happened: list[Told]) -> None:
    log = treadle.LogConfig(console="quiet", tensorboard=False, every="3 steps")
    config = treadle.Config(run_dir="results/a", duration="1 epoch", checkpoint=treadle.CheckpointConfig(every="5 steps"), log=log)
    with treadle.Run(config) as run:
        run.track(weight=nn.Linear(1, 1))
        run.on("step_finished", every="4 steps", first="9 steps")(lambda run: None)
        run.on("epoch_started")(lambda run: None)
        run.on("epoch_finished", every="2 epochs" if epoch else None)(lambda run: None)
        plan = Plan(config, run.events, None, Duration.parse("12 steps"), {}, epoch_steps=5 if epoch else None)
        foretold = [call for call in told(plan) if call[1] != BODY]
        happened.clear()
        for _ in run.steps(total="12 steps", epoch=epoch):
            pass
    assert happened == foretold
    assert foretold[-2:] == [(12, ROW), (12, CHECKPOINT)]
    assert sum("epoch_started" in what for _, what in foretold) == (3 if epoch else 1)


def test_another_order_would_be_seen(happened: list[Told]) -> None:
    """The comparison itself can fail."""
    plan = trainer()._plan()
    plan.events._handlers["step_finished"].reverse()
    foretold = [call for call in told(plan) if call[1] != BODY]
    happened.clear()
    trainer().fit()
    assert happened != foretold and sorted(happened) == sorted(foretold)


def test_values_of_schedules_are_those_of_the_run() -> None:
    schedules = {"lr": treadle.schedules.cosine(0.1, warmup="3 steps"), "momentum": lambda progress: progress.steps / 100}
    parts = {"schedules": schedules}
    told = Timeline.of(trainer(parts=parts)._plan(), epoch=2).schedules
    real: dict[int, Any] = {}
    one = trainer(parts=parts)
    one.on("step_finished")(lambda run: real.update({run.step.number: dict(run.step.values)}))
    one.fit()
    assert {name: (first, last) for name, first, last, _ in told} == {name: (real[7][name], real[12][name]) for name in schedules}
