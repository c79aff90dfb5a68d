"""One update: in the right order, once for each optimizer, and never with a loss that is not finite."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle
from treadle.core.errors import NonFiniteLoss, ObjectiveError, UsageError

SGD = partial(torch.optim.SGD, lr=0.1)


def config(tmp_path, duration="4 steps", **given):
    given.setdefault("machine", treadle.MachineConfig(device="cpu"))
    log = treadle.LogConfig(console="quiet", tensorboard=False, every="1 step")
    return treadle.Config(run_dir=str(tmp_path / "run"), duration=duration, batch_size=4, log=log, **given)


def data(samples=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, generator=generator), torch.randn(samples, 1, generator=generator)


def loop(tmp_path, body):
    """Run a body of a level 3 loop; it gets run, step, model and optimizer."""
    with treadle.Run(config(tmp_path)) as run:
        model, optimizer = run.prepare(nn.Linear(3, 1), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(data()):
            body(run, step, model, optimizer)


def backward(step, model, loss=F.mse_loss):
    for x, y in step:
        step.backward(loss(model(x), y))


def test_an_update_without_a_backward_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"step 1: update\(\) without a gradient.*step.backward"):
        loop(tmp_path, lambda run, step, model, optimizer: step.update(optimizer))


def test_a_second_update_without_a_backward_is_an_error(tmp_path):
    def body(run, step, model, optimizer):
        backward(step, model)
        step.update(optimizer)
        step.update(optimizer)

    with pytest.raises(UsageError, match="without a gradient"):
        loop(tmp_path, body)


def test_a_backward_without_an_update_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"step 1: backward\(\) was called, update\(\) was not"):
        loop(tmp_path, lambda run, step, model, optimizer: backward(step, model))


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda output, target: (output - target).square(), id="vector"),
        pytest.param(lambda output, target: F.mse_loss(output, target).detach(), id="detached"),
        pytest.param(lambda output, target: F.mse_loss(output, target).item(), id="number"),
    ],
)
@pytest.mark.parametrize("level", ["loop", "trainer", "outcome"])
def test_a_loss_without_one_number_and_a_gradient_is_an_error(tmp_path, loss, level):
    def objective(model, batch):
        value = loss(model(batch[0]), batch[1])
        return treadle.Outcome(value) if level == "outcome" else value

    with pytest.raises(ObjectiveError, match="loss"):
        if level == "loop":
            loop(tmp_path, lambda run, step, model, optimizer: backward(step, model, loss))
        else:
            treadle.train(nn.Linear(3, 1), objective, data(), optimizer=SGD, config=config(tmp_path))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(tmp_path, bad, micro_batch):
    model, kept, calls = nn.Linear(3, 1), [], []
    run_config = config(tmp_path, machine=treadle.MachineConfig(device="cpu", micro_batch=micro_batch))

    def objective(model, batch):
        calls.append(len(batch[0]))
        # The first call is the preflight's; then the last micro-batch of step 3 is bad.
        loss = F.mse_loss(model(batch[0]), batch[1])
        return loss * bad if sum(calls[1:]) == 12 else loss

    trainer = treadle.Trainer(model, objective, data(), optimizer=SGD, config=run_config)
    trainer.on("step_finished")(lambda run: kept.append([p.detach().clone() for p in model.parameters()]))
    with pytest.raises(NonFiniteLoss, match="step 3"):
        trainer.fit()
    assert len(kept) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept[-1], model.parameters(), strict=True))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed" and "NonFiniteLoss" in record["reason"]


OPTIMIZERS = {
    "sgd": SGD,
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "nesterov foreach": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "adamw": torch.optim.AdamW,
    "adamw foreach": partial(torch.optim.AdamW, foreach=True),
    "maximize foreach": partial(torch.optim.Adam, foreach=True, maximize=True, weight_decay=0.1),
}


@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_grad_norm_is_the_norm_before_clipping_whatever_the_optimizer_does(tmp_path, optimizer, clip):
    model, expected, found = nn.Linear(3, 1), [], []

    def my_step(step, model, optimizer):
        for x, y in step:
            loss = F.mse_loss(model(x), y)
            grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            expected.append(float(torch.cat([g.flatten() for g in grads]).norm()))
            step.backward(loss)
        step.update(optimizer, clip=clip)

    trainer = treadle.Trainer(model, None, data(), optimizer=optimizer, step=my_step, config=config(tmp_path))
    trainer.on("step_finished")(lambda run: found.append(float(run.step.grad_norm)))
    trainer.fit()
    assert found == pytest.approx(expected, rel=1e-5)


def bce(output, value):
    return F.binary_cross_entropy_with_logits(output, torch.full_like(output, value))


def gan_step(step, model, optimizer):
    for noise, real in step:
        step.backward(bce(model["D"](real), 1.0) + bce(model["D"](model["G"](noise).detach()), 0.0))
    step.update(optimizer["D"])
    for noise, _ in step:
        step.backward(bce(model["D"](model["G"](noise)), 1.0))
    step.update(optimizer["G"])


def networks():
    torch.manual_seed(0)
    return {"G": nn.Linear(3, 1).double(), "D": nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()}


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_two_optimizers_in_one_step_do_what_the_hand_written_loop_does(tmp_path, micro_batch):
    noise, real = (part.double() for part in data(samples=16))
    models = networks()
    run_config = config(
        tmp_path,
        duration="2 epochs",
        data=treadle.DataConfig(sampler="sequential"),
        machine=treadle.MachineConfig(device="cpu", micro_batch=micro_batch),
    )
    result = treadle.train(models, None, (noise, real), optimizer={"G": SGD, "D": SGD}, step=gan_step, config=run_config)
    assert result.steps == 8

    hand = networks()
    optimizers = {name: SGD(model.parameters()) for name, model in hand.items()}
    for _ in range(2):
        for z, r in zip(noise.split(4), real.split(4), strict=True):
            optimizers["D"].zero_grad()
            (bce(hand["D"](r), 1.0) + bce(hand["D"](hand["G"](z).detach()), 0.0)).backward()
            optimizers["D"].step()
            optimizers["G"].zero_grad()
            bce(hand["D"](hand["G"](z)), 1.0).backward()
            optimizers["G"].step()
    for name in models:
        torch.testing.assert_close(list(models[name].parameters()), list(hand[name].parameters()), rtol=1e-9, atol=1e-12)


def test_a_step_with_two_optimizers_counts_once_and_its_samples_once(tmp_path):
    models = networks()
    pair = tuple(part.double() for part in data())
    result = treadle.train(models, None, pair, optimizer={"G": SGD, "D": SGD}, step=gan_step, config=config(tmp_path))
    assert [(row["step"], row["samples"]) for row in treadle.read_journal(result.run_dir)] == [(1, 4), (2, 8), (3, 12), (4, 16)]


def test_a_parameter_that_is_logged_has_the_value_of_its_step(tmp_path):
    """Values wait for their row; a parameter goes on moving while it waits."""
    model, expected = nn.Linear(1, 1, bias=False), []
    run_config = treadle.Config(
        run_dir=str(tmp_path / "run"),
        duration="6 steps",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="3 steps"),
    )

    def objective(model, batch):
        weight = model.weight.squeeze()
        expected.append(weight.item())
        return treadle.Outcome(F.mse_loss(model(batch[0][:, :1]), batch[1]), logs={"weight": weight})

    treadle.train(model, objective, data(), optimizer=SGD, config=run_config)
    steps = expected[1:]  # the first is the preflight's
    rows = [row["train/weight"] for row in treadle.read_journal(tmp_path / "run") if "train/weight" in row]
    assert rows == pytest.approx([sum(steps[:3]) / 3, sum(steps[3:]) / 3], rel=1e-6)
