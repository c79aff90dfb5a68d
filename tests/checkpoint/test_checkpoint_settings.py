"""What an optimizer was built with: another lr in the code is seen when a run goes on, and what changes by plan is not."""

from functools import partial

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import RunChanged

SGD, ADAM = torch.optim.SGD, torch.optim.AdamW
DATA = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(24, 1)


def trainer(optimizer, folder="results/a", duration="6 steps", **given):
    settings = treadle.Config(
        run_dir=folder,
        duration=duration,
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
        checkpoint=treadle.CheckpointConfig(every="1 step"),
    )
    return treadle.Trainer(lambda: nn.Linear(3, 1), nn.MSELoss(), DATA, optimizer=optimizer, config=settings, **given)


def stopped(optimizer, **given):
    """A run that stops after three steps."""
    one = trainer(optimizer, **given)

    @one.on("step_finished", every="4 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()


def settings_of(one, name):
    return [group[name] for group in one.optimizer.param_groups]


def in_two_groups(params, lr):
    weight, bias = params
    return SGD([{"params": [weight]}, {"params": [bias]}], lr=lr)


def test_another_lr_is_refused_with_both_values():
    stopped(partial(SGD, lr=0.1, momentum=0.9))
    with pytest.raises(RunChanged) as caught:
        trainer(partial(SGD, lr=0.2, momentum=0.8)).fit()
    first, *changes, last = str(caught.value).splitlines()
    assert first == "the run was started with another optimizer"
    assert changes == ["  optimizer: lr: 0.1 -> 0.2", "  optimizer: momentum: 0.9 -> 0.8"]
    assert "give another run_dir for a new run" in last and "accept_changes=True" in last


def test_a_refusal_costs_nothing():
    stopped(partial(SGD, lr=0.1))
    with pytest.raises(RunChanged):
        trainer(partial(SGD, lr=0.2)).fit()
    went_on, whole = trainer(partial(SGD, lr=0.1)), trainer(partial(SGD, lr=0.1), "results/whole")
    assert went_on.fit().status == whole.fit().status == "finished"
    assert torch.equal(went_on.model.weight, whole.model.weight)


@pytest.mark.parametrize("optimizer", [SGD, in_two_groups], ids=["one group", "two groups"])
def test_an_accepted_lr_is_taken_over_in_every_group_and_trained_with(optimizer):
    stopped(partial(optimizer, lr=0.1))
    one, seen = trainer(partial(optimizer, lr=0.25)), []

    @one.on("step_finished")
    def look(run):
        seen.append((run.step.number, *settings_of(one, "lr")))

    assert one.fit(accept_changes=True).status == "finished"
    groups = len(one.optimizer.param_groups)
    assert seen == [(step, *[0.25] * groups) for step in (4, 5, 6)]
    again = trainer(partial(optimizer, lr=0.1))
    with pytest.raises(RunChanged, match=r"lr: 0\.25 -> 0\.1"):
        again.fit()


def with_an_lr_of_its_own(params, lr, own):
    weight, bias = params
    return SGD([{"params": [weight]}, {"params": [bias], "lr": own}], lr=lr)


def test_another_lr_of_one_group_is_refused_too():
    stopped(partial(with_an_lr_of_its_own, lr=0.1, own=0.01))
    with pytest.raises(RunChanged, match=r"0\.01 -> 0\.02"):
        trainer(partial(with_an_lr_of_its_own, lr=0.1, own=0.02)).fit()


def test_a_group_with_an_lr_of_its_own_keeps_it_where_that_of_the_others_is_changed():
    stopped(partial(with_an_lr_of_its_own, lr=0.1, own=0.01))
    one = trainer(partial(with_an_lr_of_its_own, lr=0.2, own=0.01))
    assert one.fit(accept_changes=True).status == "finished"
    assert settings_of(one, "lr") == [0.2, 0.01]


def test_an_accepted_lr_moves_the_weights_as_far_as_it_says():
    """The step after the change is lr times the gradient of the weights that were restored."""
    stopped(partial(SGD, lr=0.1))
    one, moved = trainer(partial(SGD, lr=0.5)), []

    def step(now, model, optimizer):
        before = model.weight.detach().clone()
        for inputs, targets in now:
            now.backward(nn.functional.mse_loss(model(inputs), targets))
        gradient = model.weight.grad.clone()
        now.update(optimizer)
        moved.append((before - model.weight.detach(), gradient))

    own = treadle.Trainer(one.model, nn.MSELoss(), DATA, optimizer=one.optimizer, config=one.config, step=step)
    assert own.fit(accept_changes=True).steps == 6
    assert len(moved) == 3
    for distance, gradient in moved:
        torch.testing.assert_close(distance, 0.5 * gradient)


def test_an_lr_that_a_schedule_moves_is_no_change():
    schedules = {"lr": treadle.schedules.cosine(0.1)}
    stopped(partial(SGD, lr=0.1), schedules=schedules)
    one, whole = trainer(partial(SGD, lr=0.1), schedules=schedules), trainer(partial(SGD, lr=0.1), "results/whole", schedules=schedules)
    assert one.fit().status == whole.fit().status == "finished"
    assert settings_of(one, "lr") == settings_of(whole, "lr") != [0.1]
    assert torch.equal(one.model.weight, whole.model.weight)


class Halve:
    """Halves the lr once, at step 2."""

    def __init__(self, owner):
        self.owner = owner

    def on_step_finished(self, run):
        if run.step.number == 2:
            for group in self.owner["trainer"].optimizer.param_groups:
                group["lr"] /= 2


def test_an_lr_that_a_handler_moves_is_no_change_and_stays_moved():
    owner = {}
    owner["trainer"] = first = trainer(partial(SGD, lr=0.1), handlers=[Halve(owner)])
    first.on("step_finished", every="4 steps")(lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.fit()
    owner["trainer"] = second = trainer(partial(SGD, lr=0.1), handlers=[Halve(owner)])
    assert second.fit().status == "finished"
    assert settings_of(second, "lr") == [0.05]


def test_a_tuple_of_settings_is_the_same_after_a_checkpoint_and_another_one_is_seen():
    stopped(partial(ADAM, betas=(0.8, 0.9)))
    with pytest.raises(RunChanged, match=r"betas: \[0.8, 0.9\] -> \[0.8, 0.95\]"):
        trainer(partial(ADAM, betas=(0.8, 0.95))).fit()
    one = trainer(partial(ADAM, betas=(0.8, 0.9)))
    assert one.fit().status == "finished" and settings_of(one, "betas") == [(0.8, 0.9)]


def test_an_accepted_tuple_is_a_tuple():
    stopped(partial(ADAM, betas=(0.8, 0.9)))
    one = trainer(partial(ADAM, betas=(0.7, 0.99)))
    assert one.fit(accept_changes=True).steps == 6 and settings_of(one, "betas") == [(0.7, 0.99)]


@pytest.mark.parametrize("kernel", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=str)
def test_how_the_step_is_computed_may_change(kernel):
    stopped(partial(ADAM, lr=0.01))
    assert trainer(partial(ADAM, lr=0.01, **kernel)).fit().status == "finished"


def test_each_of_several_optimizers_is_compared_under_its_name():
    def run(lr, steps):
        settings = trainer(SGD).config
        with treadle.Run(settings) as one:
            models, optimizers = one.prepare({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)}, {"a": partial(SGD, lr=0.1), "b": partial(SGD, lr=lr)})
            one.track(**{f"model-{name}": model for name, model in models.items()}, **{f"optimizer-{name}": opt for name, opt in optimizers.items()})
            for step in one.steps(DATA):
                for inputs, targets in step:
                    step.backward(nn.functional.mse_loss(models["a"](inputs) + models["b"](inputs), targets))
                for optimizer in optimizers.values():
                    step.update(optimizer)
                if step.number == steps:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(0.1, steps=4)
    with pytest.raises(RunChanged, match=r"another optimizer\n  optimizer-b: lr: 0.1 -> 0.2\n"):
        run(0.2, steps=None)


def test_an_lr_in_a_tensor_is_compared_too():
    stopped(lambda params: ADAM(params, lr=torch.tensor(0.125)))
    with pytest.raises(RunChanged, match=r"optimizer: lr: 0.125 -> 0.5\n"):
        trainer(lambda params: ADAM(params, lr=torch.tensor(0.5))).fit()


def test_groups_of_an_optimizer_that_came_ready_are_compared_too_and_fitting_twice_is_no_change():
    def ready(lr):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = SGD([{"params": [model.weight], "lr": lr}, {"params": [model.bias]}], lr=0.5)
        one = trainer(optimizer, schedules={"lr": {"group 1": treadle.schedules.cosine(0.25), "group 2": treadle.schedules.cosine(0.5)}})
        one.model = model
        return one

    first = ready(0.125)
    result = first.fit()
    assert first.fit() == result, "the schedule has moved its lr meanwhile"
    with pytest.raises(RunChanged, match=r"optimizer, group 1: lr: 0.125 -> 0.25\n"):
        ready(0.25).fit()
