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
from treadle.checkpoint.restore import read_checkpoint, verify
from treadle.core.errors import ConfigError

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
        ({"patience": 0}, "patience must be at least 1.*got 0"),
        ({"min_delta": -0.1}, "min_delta not negative.*-0.1"),
        ({"mode": "maximum"}, "mode must be 'min' or 'max', got 'maximum'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        treadle.EarlyStop("valid/loss", **given)


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
