"""Own frames between the user's call and the user's function: at most three."""

import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle

PACKAGE = str(Path(treadle.__file__).parent)
PARTS: dict[str, Any] = {
    "optimizer": partial(torch.optim.SGD, lr=0.1),
    "config": treadle.Config(run_dir="run", duration="2 steps", log=treadle.LogConfig(console="quiet", tensorboard=False)),
}
DATA = (torch.ones(64, 2), torch.ones(64, 1))


class Counting:
    """An objective that counts the frames of the package above it; the first call is the check before the start."""

    def __init__(self) -> None:
        self.frames: list[int] = []

    def __call__(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.frames.append(sum(frame.filename.startswith(PACKAGE) for frame in traceback.extract_stack()))
        return nn.functional.mse_loss(model(batch[0]), batch[1])


def test_from_train_to_the_objective() -> None:
    objective = Counting()
    treadle.train(nn.Linear(2, 1), objective, DATA, **PARTS)
    assert objective.frames[-1] == 3


def test_from_fit_to_the_objective() -> None:
    objective = Counting()
    treadle.Trainer(nn.Linear(2, 1), objective, DATA, **PARTS).fit()
    assert objective.frames[-1] == 2


def test_from_fit_to_an_own_step() -> None:
    frames: list[int] = []

    def step(step: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        frames.append(sum(frame.filename.startswith(PACKAGE) for frame in traceback.extract_stack()))
        for x, y in step:
            step.backward(nn.functional.mse_loss(model(x), y))
        step.update(optimizer)

    treadle.Trainer(nn.Linear(2, 1), None, DATA, step=step, **PARTS).fit()
    assert frames == [1, 1]


def test_an_own_loop_has_no_frame_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    with treadle.Run(PARTS["config"]) as run:
        model, opt = run.prepare(nn.Linear(2, 1), PARTS["optimizer"])
        run.track(model=model, optimizer=opt)
        for step in run.steps(DATA):
            frames = sum(frame.filename.startswith(PACKAGE) for frame in traceback.extract_stack())
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(opt)
    assert frames == 0
