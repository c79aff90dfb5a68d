"""Steps that people write by mistake: each is told at once, in words that say what to do, at every level."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from deaths import config
from treadle.errors import NonFiniteLoss, ObjectiveError, UsageError

SGD = partial(torch.optim.SGD, lr=0.1)
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)
Body = Callable[[treadle.Step, Any, Any], object]


def by_trainer(body: Body, **values: Any) -> None:
    treadle.train(nn.Linear(3, 1), None, (X, Y), optimizer=SGD, step=body, config=config(**{"run_dir": "run", **values}))


def by_loop(body: Body, **values: Any) -> None:
    with treadle.Run(config(**{"run_dir": "run", **values})) as run:
        model, optimizer = run.prepare(nn.Linear(3, 1), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps((X, Y)):
            body(step, model, optimizer)


LEVELS = pytest.mark.parametrize("train", [by_trainer, by_loop])


@LEVELS
def test_a_step_that_forgets_the_update_or_makes_it_by_hand(train: Any) -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        optimizer.step()

    with pytest.raises(UsageError, match=r"backward\(\) was called, update\(\) was not; call step.update\(optimizer\)"):
        train(body)


def test_a_step_that_does_everything_by_hand_is_told_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    by_trainer(body, log=treadle.LogConfig(console="plain", tensorboard=False))
    assert "made no update through step.update(optimizer)" in capsys.readouterr().err


@LEVELS
def test_a_gradient_that_was_made_by_hand_is_not_that_of_a_batch_that_was_cut(train: Any) -> None:
    """Nobody weighted the micro-batches: it would be their sum."""

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            mse_loss(model(x), y).backward()
        step.update(optimizer)

    with pytest.raises(UsageError, match=r"0 of 2 micro-batches; call step\.backward for each"):
        train(body, machine=treadle.MachineConfig(micro_batch=2))


@LEVELS
def test_a_second_update_by_one_gradient(train: Any) -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        step.update(optimizer)
        step.update(optimizer)

    with pytest.raises(UsageError, match=r"update\(\) without a gradient; call step.backward"):
        train(body)


@LEVELS
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_two_losses_of_one_forward_pass(train: Any, micro_batch: int | None) -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any, retain: bool) -> None:
        for x, y in step:
            output = model(x).tanh()
            step.backward(mse_loss(output, y), retain_graph=retain)
            step.backward(output.square().mean())
        step.update(optimizer)

    machine = treadle.MachineConfig(micro_batch=micro_batch)
    with pytest.raises(RuntimeError, match="second time") as caught:
        train(partial(body, retain=False), machine=machine)
    assert "step.backward(loss, retain_graph=True)" in "".join(caught.value.__notes__)
    train(partial(body, retain=True), machine=machine, run_dir="kept")


def test_two_losses_apart_are_the_gradient_of_their_sum() -> None:
    def apart(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            output = model(x).tanh()
            step.backward(mse_loss(output, y), retain_graph=True)
            step.backward(output.square().mean())
        step.update(optimizer)

    def together(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            output = model(x).tanh()
            step.backward(mse_loss(output, y) + output.square().mean())
        step.update(optimizer)

    found = []
    for name, body in (("apart", apart), ("together", together)):
        model = nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.fill_(0.1)
        result = treadle.train(model, None, (X, Y), optimizer=SGD, step=body, config=config(name))
        found.append((model.weight.detach(), torch.tensor(result.metrics["train/loss"])))
    torch.testing.assert_close(found[0], found[1])


def test_what_comes_from_the_step_before_is_detached_or_told() -> None:
    hidden: list[torch.Tensor] = []

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, _ in step:
            state = model(x) + (hidden[-1] if hidden else 0)
            hidden.append(state)
            step.backward(state.square().mean())
        step.update(optimizer)

    with pytest.raises(RuntimeError) as caught:
        by_loop(body)
    assert "detach() what comes from an earlier step" in "".join(caught.value.__notes__)


# --- losses that cannot be meant ---

LOSSES: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "a vector": (lambda out, y: (out - y).square(), ObjectiveError, "loss must be one number"),
    "detached": (lambda out, y: mse_loss(out, y).detach(), ObjectiveError, "gradient"),
    "NaN": (lambda out, y: mse_loss(out, y) * math.nan, NonFiniteLoss, "the loss is nan at step 1"),
    "a number": (lambda out, y: mse_loss(out, y).item(), ObjectiveError, "loss"),
    "complex": (lambda out, y: mse_loss(out, y) * 1j, ObjectiveError, "complex"),
}


@pytest.mark.parametrize(("loss", "error", "message"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_loss_that_cannot_be_meant(loss: Any, error: type[Exception], message: str, level: int) -> None:
    def objective(model: Any, batch: Any) -> Any:
        return loss(model(batch[0]), batch[1])

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for batch in step:
            step.backward(objective(model, batch))
        step.update(optimizer)

    with pytest.raises(error, match=message):
        if level == 1:
            treadle.train(nn.Linear(3, 1), objective, (X, Y), optimizer=SGD, config=config("run"))
        elif level == 2:
            by_trainer(body)
        else:
            by_loop(body)
