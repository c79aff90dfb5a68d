"""Plateau: the learning rate is lowered where a validation value no longer gets better, also one that has a schedule."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import treadle
from lives import quiet, rows, same_after_a_fall
from treadle.core.errors import ConfigError

DATA = torch.randn(24, 2, generator=torch.Generator().manual_seed(1)), torch.randn(24, 1, generator=torch.Generator().manual_seed(2))
SGD = partial(torch.optim.SGD, lr=0.1)
examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=200)


class Told:
    """What a Plateau sees of a run."""

    def __init__(self, optimizer, schedules=()):
        self.optimizers, self.schedules = {"optimizer": optimizer}, dict(schedules)
        self.progress, self.logged, self.value = SimpleNamespace(steps=0, finished=False), [], None

    def latest(self, name, step=None):
        return self.value

    def log(self, values, prefix):
        self.logged.append({f"{prefix}/{name}": value for name, value in values.items()})

    def say(self, text):
        pass


def optimizer(lr=0.1):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@examples()
@given(
    values=st.lists(st.integers(0, 6).map(float) | st.just(math.nan), min_size=1, max_size=25),
    patience=st.integers(1, 4),
    cooldown=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
    min_delta=st.sampled_from([0.0, 1.0]),
    min_lr=st.sampled_from([0.0, 0.02]),
)
def test_it_lowers_the_lr_when_torchs_does(values, patience, cooldown, mode, min_delta, min_lr):
    own, theirs = optimizer(), optimizer()
    torchs = ReduceLROnPlateau(
        theirs, mode, factor=0.5, patience=patience - 1, threshold=min_delta, threshold_mode="abs", cooldown=cooldown, min_lr=min_lr, eps=0.0
    )
    told, plateau = (
        Told(own),
        treadle.Plateau("valid/loss", factor=0.5, patience=patience, cooldown=cooldown, mode=mode, min_delta=min_delta, min_lr=min_lr),
    )
    plateau.attach(told)
    plateau.on_run_started(told)
    for value in values:
        told.value = value
        plateau.judge(told)
        torchs.step(value)
        assert own.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


def test_a_step_without_the_value_is_no_measurement():
    own = optimizer()
    told, plateau = Told(own), treadle.Plateau("valid/loss", patience=1)
    plateau.attach(told)
    plateau.on_run_started(told)
    for told.value in (1.0, None, None, None):
        plateau.judge(told)
    assert own.param_groups[0]["lr"] == 0.1 and len(told.logged) == 1


def test_no_factor_brings_a_scheduled_lr_below_its_limit_but_the_schedule_itself_may():
    told, plateau = Told(optimizer(), {"lr": lambda progress: progress}), treadle.Plateau("valid/loss", factor=0.1, patience=1, min_lr=0.2)
    plateau.attach(told)
    plateau.on_run_started(told)
    plateau.scale = 0.1
    assert [told.schedules["lr"](value) for value in (4.0, 1.0, 0.1)] == [0.4, 0.2, 0.1]


def test_every_group_keeps_its_share_and_a_tensor_stays_the_same_tensor():
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rate = torch.tensor(0.4)
    own = torch.optim.SGD([{"params": weights[:1], "lr": 0.1, "name": "body"}, {"params": weights[1:], "lr": rate, "name": "head"}], foreach=False)
    told, plateau = Told(own), treadle.Plateau("valid/loss", factor=0.5, patience=1)
    plateau.attach(told)
    plateau.on_run_started(told)
    for told.value in (1.0, 1.0):
        plateau.judge(told)
    assert own.param_groups[0]["lr"] == 0.05 and own.param_groups[1]["lr"] is rate and float(rate) == pytest.approx(0.2)
    assert told.logged[-1] == {"schedule/lr/body": 0.05, "schedule/lr/head": pytest.approx(0.2)}


# --- in a run ---


class Scripted:
    """A metric that gives a value for each evaluation, by the number of the epoch."""

    def __init__(self, values):
        self.values, self.done = values, 0

    def update(self, output, target):
        pass

    def compute(self):
        return self.values[self.done]

    def reset(self):
        pass


def trainer(folder, script=(1.0, 0.5, 0.5, 0.5, 0.5, 0.5), schedules=None, **given):
    torch.manual_seed(0)
    metric = Scripted(script)
    plateau = treadle.Plateau("valid/score", **{"factor": 0.5, "patience": 1, "cooldown": 1, **given})
    config = quiet(folder, duration=f"{len(script)} epochs", checkpoint=treadle.CheckpointConfig(every="2 steps", keep_last=1))
    one = treadle.Trainer(
        nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=SGD, metrics={"score": metric}, schedules=schedules, handlers=[plateau],
        config=config,
    )  # fmt: skip
    one.on("step_finished")(lambda run: setattr(metric, "done", max(0, run.progress.epochs - 1)))
    return one


def test_the_lr_without_a_schedule_is_the_optimizers_and_is_logged(tmp_path):
    one = trainer(tmp_path)
    one.fit()
    assert one.optimizer.param_groups[0]["lr"] == 0.1 * 0.5**2
    logged = [row["schedule/lr"] for row in rows(tmp_path) if "schedule/lr" in row]
    assert logged == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]  # lowered at the third evaluation; the fourth does not count


@pytest.mark.parametrize("level", [2, 3])
def test_a_scheduled_lr_is_the_schedules_times_the_factors(tmp_path, level):
    schedule = treadle.schedules.linear(0.2, 0.0)
    if level == 2:
        trainer(tmp_path, schedules={"lr": schedule}).fit()
    else:
        own_loop(tmp_path, {"lr": schedule})
    for row in rows(tmp_path):
        if "schedule/lr" in row:
            step = row["step"]  # an update's value is that of the steps before it
            factor = 1.0 if step <= 9 else 0.5 if step <= 15 else 0.25
            assert row["schedule/lr"] == pytest.approx(0.2 * (1 - (step - 1) / 18) * factor, rel=1e-12), step


def own_loop(folder, schedules=None):
    """The same run, written by hand."""
    torch.manual_seed(0)
    values = iter([1.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    config = quiet(folder, duration="6 epochs")
    with treadle.Run(config, schedules=schedules, handlers=[treadle.Plateau("valid/score", factor=0.5, patience=1, cooldown=1)]) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
            if run.due("1 epoch"):
                run.log({"valid/score": next(values)})
    return optimizer


def test_in_an_own_loop_without_a_schedule(tmp_path):
    assert own_loop(tmp_path).param_groups[0]["lr"] == 0.1 * 0.5**2


@pytest.mark.parametrize("schedules", [None, {"lr": treadle.schedules.cosine(0.2)}], ids=["constant", "cosine"])
@pytest.mark.parametrize("step", [5, 9, 10, 13])
def test_killed_and_gone_on_it_is_the_same_run(tmp_path, schedules, step):
    same_after_a_fall(partial(trainer, schedules=schedules), tmp_path, step)


def test_a_second_run_of_the_same_policy_begins_anew(tmp_path):
    plateau, schedules = treadle.Plateau("valid/loss", patience=1, min_delta=1e9), {"lr": treadle.schedules.constant(0.1)}
    for name in ("one", "two"):
        config = quiet(tmp_path / name)
        treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=SGD, handlers=[plateau], schedules=schedules, config=config).fit()
    first, second = (rows(tmp_path / name) for name in ("one", "two"))
    rates = [row["schedule/lr"] for row in first if "schedule/lr" in row]
    assert rates == [row["schedule/lr"] for row in second if "schedule/lr" in row] and rates[0] == 0.1 > rates[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"monitor": "train/loss"}, r"'train/loss' is measured on the training data.*such as 'valid/loss'"),
        ({"factor": 1.0}, "factor must be between 0 and 1, got 1.0"),
        ({"factor": -0.1}, "factor must be between 0 and 1"),
        ({"factor": math.nan}, "factor must be between 0 and 1"),
        ({"patience": 0}, "Plateau: patience must be at least 1"),
        ({"cooldown": -1}, "cooldown and min_lr must not be negative, got -1"),
        ({"min_lr": -0.1}, "cooldown and min_lr must not be negative, got 0 and -0.1"),
        ({"mode": "lowest"}, "Plateau: mode must be 'min' or 'max'"),
        ({"min_delta": -1.0}, "min_delta not negative"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        treadle.Plateau(**{"monitor": "valid/loss", **given})


def test_a_misspelt_monitor_is_an_error_before_the_first_step(tmp_path):
    plateau = treadle.Plateau("valid/los")
    one = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=SGD, handlers=[plateau], config=quiet(tmp_path))
    with pytest.raises(ConfigError, match=r"Plateau: no value named 'valid/los' is logged; did you mean 'valid/loss'\?"):
        one.fit()


def rates_of(folder, schedules, monitor_values=(1.0, 1.0, 1.0)):
    """The logged rates of a run with two named groups, at which each evaluation lowers the lr after the first."""
    torch.manual_seed(0)
    values = iter(monitor_values)

    def groups(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight], "name": "weights"}, {"params": [bias], "name": "biases"}], lr=0.1)

    with treadle.Run(quiet(folder, duration="3 epochs"), schedules=schedules, handlers=[treadle.Plateau("valid/x", factor=0.5, patience=1)]) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), groups)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
            if run.due("1 epoch"):
                run.log({"valid/x": next(values)})
    return [{name: value for name, value in row.items() if name.startswith("schedule/")} for row in rows(folder) if row["step"] in (2, 8)]


def test_schedules_of_groups_are_scaled_each(tmp_path):
    schedules = {"lr": {"weights": treadle.schedules.constant(0.4), "biases": treadle.schedules.constant(0.8)}}
    before, after = rates_of(tmp_path, schedules)
    assert before == {"schedule/lr/weights": 0.4, "schedule/lr/biases": 0.8}
    assert after == {"schedule/lr/weights": 0.2, "schedule/lr/biases": 0.4}


def test_a_scheduler_of_torchs_is_scaled_too(tmp_path):
    torchs = treadle.schedules.from_torch(partial(torch.optim.lr_scheduler.StepLR, step_size=100), every="1 step")
    before, after = rates_of(tmp_path, {"lr": torchs})
    assert {*before.values()} == {0.1} and {*after.values()} == {0.05}
