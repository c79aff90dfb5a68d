"""A task: model, loss, batches and optimizer, the same for every entrant; and the ways that all workloads share to do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

import treadle

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Task:
    """One training, not begun.

    Args:
        model: with its first weights.
        loss: ``loss(output, target)``, a mean.
        batches: (input, target), once through; each is a micro-batch where `accumulate` is more than 1.
        optimizer: a callable that takes parameters.
        check: a batch on which the trained model's loss is told.
        accumulate: micro-batches in one update.
        clip: the largest norm of the gradient.
        cosine_from: the first learning rate of a cosine over the whole training; None leaves it as it is.
        data: the same for Treadle, where it is given other than as batches: (data, fields of its config).
    """

    model: nn.Module
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    batches: Iterable[Pair]
    optimizer: Callable[..., torch.optim.Optimizer]
    check: Pair
    accumulate: int = 1
    clip: float | None = None
    cosine_from: float | None = None
    data: Any = None
    config: dict[str, Any] = field(default_factory=dict)

    def final_loss(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return self.loss(self.model(self.check[0]), self.check[1]).item()

    @property
    def updates(self) -> int:
        return len(self.batches) // self.accumulate  # type: ignore[arg-type]


def by_hand(task: Task) -> Callable[[], Any]:
    """The loop of a textbook."""
    model, loss_of, optimizer = task.model, task.loss, task.optimizer(task.model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.updates) if task.cosine_from else None

    def accumulated() -> Any:
        for number, (x, y) in enumerate(task.batches, start=1):
            (loss_of(model(x), y) / task.accumulate).backward()
            if number % task.accumulate == 0:
                if task.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), task.clip)
                optimizer.step()
                if schedule:
                    schedule.step()
                optimizer.zero_grad()
        return task.final_loss

    def plain() -> Any:
        for x, y in task.batches:
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
        return task.final_loss

    return plain if (task.accumulate, task.clip, schedule) == (1, None, None) else accumulated


def config(task: Task, everything: bool) -> treadle.Config:
    """Nothing logged; or console, journal and TensorBoard."""
    quiet = treadle.LogConfig(console="quiet", tensorboard=False, every="1e9 steps", train_metrics=False)
    log = treadle.LogConfig(console="rich", tensorboard="auto") if everything else quiet
    return treadle.Config(**{"run_dir": "run", "duration": "1 epoch", "log": log, "clip": task.clip} | task.config)


def by_treadle(task: Task, everything: bool, **changes: Any) -> Callable[[], Any]:
    """Level 2, with nothing logged or with everything that a run is usually watched by."""
    trainer = treadle.Trainer(
        task.model,
        treadle.supervised(task.loss),
        treadle.Batches(task.batches) if task.data is None else task.data,
        optimizer=task.optimizer,
        schedules={"lr": treadle.schedules.cosine(task.cosine_from)} if task.cosine_from else {},
        config=config(task, everything),
        **changes,
    )

    def fit() -> Any:
        trainer.fit()
        return task.final_loss

    return fit


def by_own_loop(task: Task) -> Callable[[], Any]:
    """Level 3: the loop is written by the user."""

    def fit() -> Any:
        with treadle.Run(config(task, everything=False)) as run:
            model, optimizer = run.prepare(task.model, task.optimizer)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps(run.loader(treadle.Batches(task.batches) if task.data is None else task.data)):
                for x, y in step:
                    step.backward(task.loss(model(x), y))
                step.update(optimizer, clip=task.clip)
        return task.final_loss

    return fit


TREADLE = {
    "treadle, nothing logged": partial(by_treadle, everything=False),
    "treadle, everything": partial(by_treadle, everything=True),
    "treadle, own loop": by_own_loop,
}


class Clock:
    """A handler that times the last steps of a run, when it is warm: seconds from the end of step `first` to that of step `last`."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._began = self._ended = (0.0, 0.0)

    def on_step_finished(self, run: treadle.Run) -> None:
        number = run.progress.steps
        if number == self._first:
            self._began = time.perf_counter(), time.process_time()
        elif number == self._last:
            self._ended = time.perf_counter(), time.process_time()

    def told(self) -> dict[str, float]:
        (wall, cpu), (wall_then, cpu_then) = self._ended, self._began
        return {"wall": wall - wall_then, "cpu": cpu - cpu_then, "work": self._last - self._first}
