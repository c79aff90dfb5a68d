"""A model that nobody trains, such as a teacher: it has no optimizer, is frozen, and stays as it is."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle

CONFIG = treadle.Config(run_dir="run", duration="3 steps", batch_size=8, log=treadle.LogConfig(console="quiet", tensorboard=False))
DATA = (torch.randn(24, 4, generator=torch.Generator().manual_seed(0)),)
SGD = partial(torch.optim.SGD, lr=0.1)


def teacher() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))


def imitate(step: treadle.Step, models: Any, optimizers: Any) -> None:
    assert list(optimizers) == ["student"] and list(models) == ["teacher", "student"]
    assert models["student"].training and not any(module.training for module in models["teacher"].modules())
    for (x,) in step:
        step.backward(nn.functional.mse_loss(models["student"](x), models["teacher"](x)))
    step.update(optimizers["student"])


def test_it_is_not_moved_and_is_in_the_checkpoint() -> None:
    still = teacher().requires_grad_(False)
    before = {key: value.clone() for key, value in still.state_dict().items()}
    models = {"teacher": still, "student": nn.Linear(4, 2)}
    moved = models["student"].weight.clone()
    result = treadle.train(models, None, DATA, step=imitate, optimizer={"student": SGD}, config=CONFIG)
    assert not torch.equal(models["student"].weight, moved)
    assert all(torch.equal(value, before[key]) for key, value in still.state_dict().items())
    loaded = treadle.load_weights(result.last, teacher(), name="model-teacher").state_dict()
    assert all(torch.equal(value, before[key]) for key, value in loaded.items())


def test_in_an_own_loop() -> None:
    with treadle.Run(CONFIG) as run:
        models, optimizers = run.prepare({"teacher": teacher().requires_grad_(False), "student": nn.Linear(4, 2)}, {"student": SGD})
        run.track(**models, optimizer=optimizers["student"])
        for step in run.steps(DATA):
            imitate(step, models, optimizers)
    assert run.result.status == "finished"


@pytest.mark.parametrize("part", [None, "0"])
def test_one_that_is_not_frozen_is_refused(part: str | None) -> None:
    loose = teacher()
    if part is not None:  # all but this
        loose.requires_grad_(False).get_submodule(part).requires_grad_(True)
    with pytest.raises(
        treadle.errors.ConfigError, match=r"the model 'teacher' has no optimizer, and is not frozen: .* model\.requires_grad_\(False\)"
    ):
        treadle.train({"teacher": loose, "student": nn.Linear(4, 2)}, None, DATA, step=imitate, optimizer={"student": SGD}, config=CONFIG)


def test_an_optimizer_without_a_model_is_refused_and_so_are_models_without_any() -> None:
    for optimizer in ({"student": SGD, "pupil": SGD}, {}, SGD):
        with pytest.raises(treadle.errors.ConfigError, match=r"several models need an optimizer each, under the same names \['student', 'teacher'\]"):
            treadle.train({"teacher": teacher(), "student": nn.Linear(4, 2)}, None, DATA, step=imitate, optimizer=optimizer, config=CONFIG)
