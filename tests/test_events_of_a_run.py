"""Events of a run: who is told, and at which step."""

from functools import partial

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
