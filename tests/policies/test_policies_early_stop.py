"""EarlyStop: stops when a value no longer gets better, saved and with the reason written down."""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import treadle
from lives import quiet, same_after_a_fall
from treadle.checkpoint.restore import read_checkpoint, verify
from treadle.core.errors import ConfigError

DATA = torch.randn(24, 2, generator=torch.Generator().manual_seed(1)), torch.randn(24, 1, generator=torch.Generator().manual_seed(2))
examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=200)


class Told:
    """What EarlyStop sees of a run."""

    def __init__(self, values):
        self.values, self.reason, self.progress = iter(values), None, SimpleNamespace(steps=0)

    def latest(self, name, step=None):
        self.progress.steps += 1
        return next(self.values)

    def keep(self, label):
        self.kept = self.progress.steps

    def stop(self, reason):
        self.reason = reason


def stopped_after(values, **given):
    """Number of evaluations after which the run is stopped; None where it goes on to the end."""
    told, policy = Told(values), treadle.EarlyStop("valid/loss", **given)
    for number in range(1, len(values) + 1):
        policy.judge(told)
        if told.reason:
            return number
    return None


def by_hand(values, patience, mode, min_delta):
    best, waited = None, 0
    for number, value in enumerate(values, 1):
        gain = None if best is None else (best - value if mode == "min" else value - best)
        if not math.isnan(value) and (gain is None or gain > min_delta):
            best, waited = value, 0
        else:
            waited += 1
            if waited >= patience:
                return number
    return None


@examples()
@given(
    values=st.lists(st.integers(0, 6).map(float) | st.just(math.nan), max_size=15),
    patience=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
    min_delta=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_it_stops_after_its_patience_without_an_improvement(values, patience, mode, min_delta):
    assert stopped_after(values, patience=patience, mode=mode, min_delta=min_delta) == by_hand(values, patience, mode, min_delta)


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([1.0, 0.9, 0.8, 0.7], {"patience": 1}, None),
        ([1.0, 1.0], {"patience": 1}, 2),
        ([1.0, 2.0, 0.5, 2.0, 2.0], {"patience": 2}, 5),
        ([1.0, 2.0, 3.0], {"patience": 1, "mode": "max"}, None),
        ([1.0, 0.95, 0.91], {"patience": 2, "min_delta": 0.1}, 3),
        ([1.0, 0.95, 0.89], {"patience": 2, "min_delta": 0.1}, None),
    ],
)
def test_what_counts_as_an_improvement(values, given, expected):
    assert stopped_after(values, **given) == expected


def test_a_nan_is_never_the_best():
    assert stopped_after([math.nan, 1.0, 0.9, 0.8, 0.7], patience=2) is None
    assert stopped_after([1.0, math.nan, math.nan, 0.5], patience=2) == 3


@examples()
@given(values=st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12), cut=st.integers(0, 12), patience=st.integers(1, 4))
def test_it_goes_on_from_its_state(values, cut, patience):
    told, first, second = Told(values), treadle.EarlyStop("a", patience=patience), treadle.EarlyStop("a", patience=patience)
    for number in range(1, len(values) + 1):
        if number == cut:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        (first if number < cut or cut == 0 else second).judge(told)
        if told.reason:
            break
    assert (number if told.reason else None) == by_hand(values, patience, "min", 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"monitor": ""}, "must be a name such as 'valid/loss', got ''"),
        ({"patience": 0}, "patience must be at least 1.*got 0"),
        ({"min_delta": -0.1}, "min_delta not negative.*-0.1"),
        ({"mode": "maximum"}, "mode must be 'min' or 'max', got 'maximum'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        treadle.EarlyStop(**{"monitor": "valid/loss", **given})


# --- in a run ---


class Scripted:
    """A metric that gives the values it was told, one for each evaluation."""

    def __init__(self, values):
        self.values = iter(values)

    def update(self, output, target):
        pass

    def compute(self):
        return next(self.values)

    def reset(self):
        pass


def trainer(folder, script, monitor="valid/score", best="valid/score", **given):
    torch.manual_seed(0)
    data = torch.randn(8, 2), torch.randn(8, 1)
    config = treadle.Config(
        run_dir=str(folder),
        duration="20 epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(best=best, mode="max", keep_last=1),
        log=treadle.LogConfig(console="quiet", tensorboard=False, train_metrics=False),
    )
    return treadle.Trainer(
        nn.Linear(2, 1),
        nn.MSELoss(),
        data,
        valid=data,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        metrics={"score": Scripted(script)},
        handlers=[treadle.EarlyStop(monitor, **{"patience": 3, "mode": "max", **given})],
        config=config,
    )


def test_a_run_is_stopped_with_its_reason_and_its_last_and_best_checkpoint(tmp_path):
    one = trainer(tmp_path, [0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    result = one.fit()
    reason = "valid/score has not improved on 0.9 for 3 measurements"
    assert (result.status, result.steps, result.epochs) == (f"stopped: {reason}", 10, 5)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["reason"], record["steps"]) == ("stopped", reason, 10)
    assert (result.best.name, result.last.name) == ("step-000004", "step-000010")
    for path in (result.best, result.last):
        verify(path)
    weights = read_checkpoint(result.last)[0]["model"]
    assert all(torch.equal(weights[key], value) for key, value in one.model.state_dict().items())
    assert [row["valid/score"] for row in treadle.read_journal(tmp_path) if "valid/score" in row] == [0.1, 0.9, 0.5, 0.4, 0.3]


def test_its_patience_survives_a_resume(tmp_path):
    script = [0.1, 0.9, 0.5, 0.4, 0.3, 0.2]
    one = trainer(tmp_path, script)

    @one.on("epoch_started")
    def fall_over(run):
        if run.progress.epochs == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    result = trainer(tmp_path, script[4:]).fit()
    assert result.status == "stopped: valid/score has not improved on 0.9 for 3 measurements" and result.epochs == 5


def test_a_stopped_run_does_not_go_on_by_itself(tmp_path):
    first = trainer(tmp_path, [0.1, 0.0, 0.0, 0.0]).fit()
    again = trainer(tmp_path, [0.0]).fit()
    assert again == first and again.status == "stopped: valid/score has not improved on 0.1 for 3 measurements"


def test_a_misspelt_monitor_is_an_error_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"EarlyStop.*'valid/scores'.*did you mean 'valid/score'"):
        trainer(tmp_path, [0.1], monitor="valid/scores").fit()
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 0


def test_an_evaluation_of_something_else_does_not_use_up_patience(tmp_path):
    """Only evaluations that measured the value say whether it got better."""
    one = trainer(tmp_path, [0.1, 0.2, 0.3, 0.4], best=None, patience=1)
    one.on("step_finished", every="1 step")(lambda run: run.log(run.evaluate(one.model, one.objective, one.data), prefix="probe"))
    one.on("epoch_finished", every="4 epochs")(lambda run: run.stop("enough"))
    assert one.fit().status == "stopped: enough"


# --- the checkpoint of its best ---


def test_the_checkpoint_of_its_best_is_kept_though_nobody_asked_for_the_best(tmp_path):
    one = trainer(tmp_path, [0.1, 0.9, 0.5, 0.4, 0.3], best=None)
    weights = {}
    one.on("evaluated")(lambda run: weights.update({run.progress.steps: {k: v.clone() for k, v in one.model.state_dict().items()}}))
    result = one.fit()
    assert result.best is None and {label: place.name for label, place in result.kept.items()} == {"valid/score": "step-000004"}
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000010"]
    assert json.loads((tmp_path / "run.json").read_text())["kept"] == {"valid/score": "checkpoints/step-000004"}
    saved = treadle.load_weights(result.kept["valid/score"], nn.Linear(2, 1)).state_dict()
    assert all(torch.equal(saved[key], value) for key, value in weights[4].items())


def test_what_is_kept_is_named_again_when_the_run_is_over_and_called_again(tmp_path):
    first = trainer(tmp_path, [0.1, 0.9, 0.5, 0.4, 0.3], best=None).fit()
    assert trainer(tmp_path, [0.0], best=None).fit().kept == first.kept != {}


def test_a_value_of_a_handler_counts_at_the_step_at_which_it_is_logged(tmp_path):
    """Also where the handler is registered after it, and evaluates nothing."""
    config = quiet(tmp_path, checkpoint=treadle.CheckpointConfig(every="1 epoch", keep_last=1))
    stop = treadle.EarlyStop("train/probe", patience=2, mode="max")
    one = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, optimizer=torch.optim.SGD, handlers=[stop], config=config)
    values = {3: 1.0, 6: 2.0, 9: 1.5, 12: 1.0}
    one.on("step_finished", every="3 steps")(lambda run: run.log({"train/probe": values[run.progress.steps]}))
    result = one.fit()
    assert (result.status, result.steps) == ("stopped: train/probe has not improved on 2 for 2 measurements", 12)
    assert {label: place.name for label, place in result.kept.items()} == {"train/probe": "step-000006"}


def test_the_training_loss_is_measured_at_every_row_of_the_log(tmp_path):
    config = quiet(tmp_path, duration="8 epochs")
    stop = treadle.EarlyStop("train/loss", patience=2, min_delta=1e9)
    result = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, optimizer=torch.optim.SGD, handlers=[stop], config=config).fit()
    assert result.steps == 6 and result.kept["train/loss"].name == "step-000002"
    losses = [row["train/loss"] for row in treadle.read_journal(tmp_path) if "train/loss" in row]
    assert result.status == f"stopped: train/loss has not improved on {losses[0]:.6g} for 2 measurements"


def test_in_an_own_loop(tmp_path):
    with treadle.Run(quiet(tmp_path), handlers=[treadle.EarlyStop("valid/loss", patience=2)]) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), torch.optim.SGD)
        run.track(model=model, optimizer=optimizer)
        values = iter([3.0, 1.0, 2.0, 2.0])
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
            if run.due("2 steps"):
                run.log({"valid/loss": next(values)})
    assert run.result.status == "stopped: valid/loss has not improved on 1 for 2 measurements"
    assert run.result.kept["valid/loss"].name == "step-000004"


def test_a_value_that_never_comes_is_told_with_the_nearest_name(tmp_path, capsys):
    log = treadle.LogConfig(every="2 steps", console="plain", tensorboard=False)
    with treadle.Run(quiet(tmp_path, log=log), handlers=[treadle.EarlyStop("train/los")]) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), torch.optim.SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
    assert "warning: EarlyStop: no value named 'train/los' was logged; did you mean 'train/loss'?" in capsys.readouterr().err


def test_a_trainer_that_is_fitted_again_elsewhere_begins_with_all_its_patience(tmp_path):
    stop = treadle.EarlyStop("valid/loss", patience=1, min_delta=1e9)
    for name in ("one", "two"):
        trainer = treadle.Trainer(
            nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=torch.optim.SGD, handlers=[stop], config=quiet(tmp_path / name)
        )
        assert trainer.fit().epochs == 2


@pytest.mark.parametrize("step", [2, 5, 6, 8])
def test_killed_and_gone_on_it_keeps_and_stops_the_same(tmp_path, step):
    def make(folder):
        torch.manual_seed(0)
        config = quiet(folder, duration="9 epochs", evaluate=treadle.EvaluateConfig(every="2 steps"))
        stop = treadle.EarlyStop("valid/loss", patience=3, min_delta=0.05)
        return treadle.Trainer(
            nn.Linear(2, 1), nn.MSELoss(), DATA, valid=DATA, optimizer=partial(torch.optim.SGD, lr=0.05), handlers=[stop], config=config
        )

    result = same_after_a_fall(make, tmp_path, step)
    assert result.status.startswith("stopped: valid/loss has not improved") and result.steps > 9
