"""StopWhen and TimeBudget: a run that ends early, saved, for a reason of one's own."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from lives import Killed, killed_at, quiet, rows, same_after_a_fall
from treadle.checkpoint.restore import verify
from treadle.core.errors import ConfigError

DATA = torch.randn(24, 2, generator=torch.Generator().manual_seed(1)), torch.randn(24, 1, generator=torch.Generator().manual_seed(2))


def trainer(folder, *handlers, **given):
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=0.05)
    return treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=sgd, handlers=handlers, config=quiet(folder, **given))


# --- StopWhen ---


def test_a_condition_stops_the_run_saved_and_with_its_reason(tmp_path):
    result = trainer(tmp_path, treadle.StopWhen(lambda run: run.progress.steps >= 5, reason="five are enough")).fit()
    assert (result.status, result.steps) == ("stopped: five are enough", 5)
    verify(result.last)
    assert result.last.name == "step-000005"


@pytest.mark.parametrize(("every", "steps"), [("1 step", 4), ("3 steps", 6), ("1 epoch", 6)])
def test_it_is_asked_at_its_cadence(tmp_path, every, steps):
    asked = []

    def far_enough(run):
        asked.append(run.progress.steps)
        return run.progress.steps >= 4

    assert trainer(tmp_path, treadle.StopWhen(far_enough, every=every)).fit().status == "stopped: far_enough holds"
    assert asked[-1] == steps and len(asked) == {"1 step": 4, "3 steps": 2, "1 epoch": 2}[every]


@pytest.mark.parametrize("name", ["valid/loss", "train/loss", "train/epoch_loss", "train/late"])
def test_it_sees_what_this_very_step_logs(tmp_path, name):
    seen = {}
    one = trainer(
        tmp_path, treadle.StopWhen(lambda run: seen.update({run.progress.steps: run.latest(name, step=run.progress.steps)}), every="6 steps")
    )
    one.on("epoch_finished")(lambda run: run.log({"train/late": float(run.progress.steps)}))
    one.fit()
    assert list(seen) == [6, 12]
    logged = {row["step"]: row[name] for row in treadle.read_journal(tmp_path) if name in row}
    assert seen == {step: logged[step] for step in (6, 12)}


def test_a_value_that_is_not_there_yet_has_a_default(tmp_path):
    stop = treadle.StopWhen(lambda run: run.latest("valid/loss", default=9.0) < 8.0, every="1 step")
    assert trainer(tmp_path, stop).fit().steps == 3  # the end of the first epoch


def test_an_exception_of_the_condition_arrives_unchanged(tmp_path):
    def broken(run):
        raise Killed("mine")

    with pytest.raises(Killed, match="mine") as caught:
        trainer(tmp_path, treadle.StopWhen(broken)).fit()
    assert any("StopWhen.judge at judge, step 1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("step", [2, 3, 11])
def test_killed_and_gone_on_it_stops_at_the_same_step(tmp_path, step):
    def make(folder):
        return trainer(folder, treadle.StopWhen(lambda run: run.latest("train/loss") < 0.5, every="4 steps", reason="low"), duration="20 epochs")

    assert same_after_a_fall(make, tmp_path, step).status == "stopped: low"


def test_in_an_own_loop(tmp_path):
    with treadle.Run(quiet(tmp_path), handlers=[treadle.StopWhen(lambda run: True, every="5 steps")]) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), torch.optim.SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
    assert (run.result.status, run.result.steps) == ("stopped: the condition of StopWhen holds", 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"condition": 0.1}, r"must be callable as condition\(run\), got 0.1"),
        ({"condition": nn.Linear}, "must be callable as condition"),
        ({"every": "10"}, "'10' is not a number of steps, samples or epochs"),
        ({"every": "10 stpes"}, "unknown unit 'stpes'"),
        ({"reason": None}, "reason must be a text, got None"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        treadle.StopWhen(**{"condition": all, **given})


def test_a_cadence_that_cannot_be_told_is_refused_before_the_first_step(tmp_path):
    with (
        treadle.Run(
            quiet(tmp_path, duration="9 steps", checkpoint=treadle.CheckpointConfig(every="3 steps")),
            handlers=[treadle.StopWhen(all, every="1 epoch")],
        ) as run,
        pytest.raises(ConfigError, match=re.escape("StopWhen: '1 epoch' never comes in a loop without data")),
    ):
        run.steps()


# --- TimeBudget ---


class Clock:
    """One second for each look at it, from anywhere on."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        self.now += 1.0
        return self.now


def test_a_run_is_stopped_saved_when_its_time_is_used_up(tmp_path):
    # A look at the start, and one at each step.
    result = trainer(tmp_path, treadle.TimeBudget("9 seconds", clock=Clock())).fit()
    assert (result.status, result.steps) == ("stopped: the time budget of 9 seconds is used up", 9)
    assert result.last.name == "step-000009"


def test_the_time_of_all_processes_counts(tmp_path):
    first = trainer(tmp_path, treadle.TimeBudget("9 seconds", clock=Clock()))
    first.on("step_finished")(lambda run: run.progress.steps == 3 and run._loop.stop("interrupted", "by hand"))
    assert first.fit().status == "interrupted: by hand"
    budget = treadle.TimeBudget("9 seconds", clock=Clock(5e6))
    result = trainer(tmp_path, budget).fit()
    assert result.status == "stopped: the time budget of 9 seconds is used up"
    assert 3 < result.steps <= 9 and 9 <= budget.used < 13


def test_steps_that_were_lost_cost_nothing_twice(tmp_path):
    killed_at(trainer(tmp_path, treadle.TimeBudget(100, clock=Clock())), 5)
    budget = treadle.TimeBudget(100, clock=Clock())
    budget.attach(None)
    one = trainer(tmp_path, budget)
    one.on("run_started")(lambda run: used.append(budget._before))
    used: list[float] = []
    one.fit()
    assert used == [3.0]  # of the checkpoint of step 3: a look at each step


def test_but_for_its_clock_the_run_is_the_same(tmp_path):
    """The steps that are made are the run's, however long they take."""
    whole = trainer(tmp_path / "whole").fit()
    limited = trainer(tmp_path / "limited", treadle.TimeBudget("8 seconds", clock=Clock())).fit()
    assert 3 < limited.steps < whole.steps
    same = [row for row in rows(whole.run_dir) if row["step"] < limited.steps]
    assert rows(limited.run_dir)[: len(same)] == same


def test_a_run_that_was_just_finished_is_finished(tmp_path):
    assert trainer(tmp_path, treadle.TimeBudget(1, clock=Clock()), duration="1 step").fit().status == "finished"


@pytest.mark.parametrize("budget", ["2", "2 weeks", 0, -1, float("nan"), float("inf"), None])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(ConfigError):
        treadle.TimeBudget(budget)
