"""Level 2 as its users meet it: models by name, predictions, evaluations, own steps, folders that were used before."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle import errors
from treadle.metrics import Accuracy

SGD = partial(torch.optim.SGD, lr=0.1)
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()
QUIET = treadle.LogConfig(console="quiet", tensorboard=False)


def config(**values: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": "run", "duration": "2 epochs", "batch_size": 8, "log": QUIET, **values})


def trainer(**given: Any) -> treadle.Trainer:
    parts = {"model": lambda: nn.Linear(3, 2), "objective": nn.CrossEntropyLoss(), "data": (X, Y), "optimizer": SGD, "config": config(), **given}
    return treadle.Trainer(parts.pop("model"), parts.pop("objective"), parts.pop("data"), **parts)


def valid_steps() -> list[int]:
    return [row["step"] for row in treadle.read_journal("run") if "valid/loss" in row]


@pytest.mark.parametrize(
    ("every", "duration", "steps"),
    [("1 epoch", "2 epochs", [5, 10]), ("1 epoch", "8 steps", [5, 8]), (None, "8 steps", [8]), ("3 steps", "8 steps", [3, 6, 8])],
)
def test_the_validation_data_is_evaluated_by_its_cadence_and_at_the_end(every: str | None, duration: str, steps: list[int]) -> None:
    trainer(valid=(X, Y), config=config(duration=duration, evaluate=treadle.EvaluateConfig(every=every))).fit()
    assert valid_steps() == steps


def test_models_by_name_are_built_under_the_seed_each_by_its_callable() -> None:
    def build() -> dict[str, torch.Tensor]:
        torch.rand(3)
        one = trainer(model={"a": lambda: nn.Linear(3, 2), "b": lambda: nn.Linear(2, 2)}, step=lambda step, model, optimizer: None)
        return {f"{name}.{key}": value for name, model in one.model.items() for key, value in model.state_dict().items()}

    first, second = build(), build()
    assert first.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_predict_takes_data_without_targets_and_asks_an_own_objective_for_its_output() -> None:
    one = trainer()
    expected = one.model(X).detach()
    for data in [(X, Y), (X,), X, {"input": X}]:
        torch.testing.assert_close(one.predict(data), expected)

    def objective(model: nn.Module, batch: Any) -> treadle.Outcome:
        scores = model(batch["pixels"])
        return treadle.Outcome(nn.functional.cross_entropy(scores, batch["label"]), scores, batch["label"])

    own = trainer(objective=objective, data={"pixels": X, "label": Y})
    torch.testing.assert_close(own.predict({"pixels": X, "label": Y}), own.model(X).detach())
    mute = trainer(objective=lambda model, batch: model(batch[0]).sum())
    with pytest.raises(errors.ObjectiveError, match="predict needs the model's output"):
        mute.predict((X, Y))


def test_an_own_step_that_updates_by_itself_is_told_what_it_misses(capsys: pytest.CaptureFixture[str]) -> None:
    def step(step: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for x, y in step:
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    trainer(step=step, objective=None).fit()
    assert "the first step made no update through step.update" in capsys.readouterr().err


def test_an_update_between_micro_batches_is_refused() -> None:
    def step(step: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for x, y in step:
            step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(optimizer)

    assert trainer(step=step, objective=None).fit().status == "finished"
    with pytest.raises(errors.UsageError, match=r"step 1: update\(\) after 1 of 2 micro-batches"):
        trainer(step=step, objective=None, config=config(run_dir="b", machine=treadle.MachineConfig(micro_batch=4))).fit()


def test_several_models_without_an_objective_for_the_validation_data_are_refused_before_the_first_update() -> None:
    models = {"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)}
    one = trainer(model=models, optimizer={"a": SGD, "b": SGD}, objective=None, valid=(X, Y), step=lambda *_: None)
    with pytest.raises(errors.ObjectiveError, match="several models have no loss of their own"):
        one.fit()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"schedules": {"lr": 0.1}}, errors.ConfigError, r"'lr' must be a callable.*constant\(0.1\); got 0.1"),
        ({"schedules": {"lr": torch.optim.lr_scheduler.StepLR}}, errors.ConfigError, "must be a callable"),
        ({"metrics": [Accuracy()]}, errors.ObjectiveError, "metrics must be a dict"),
        ({"handlers": [treadle.EarlyStop]}, errors.UsageError, r"EarlyStop is a class; call it: EarlyStop\(...\)"),
        ({"metrics": {"loss": Accuracy()}}, errors.ObjectiveError, "cannot be named 'loss'"),
        ({"model": nn.DataParallel(nn.Linear(3, 2))}, errors.ConfigError, "give the model inside it"),
    ],
)
def test_things_of_the_wrong_kind_are_named(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(**given).fit()


def test_loading_weights_from_what_is_no_checkpoint_says_what_it_is() -> None:
    result = trainer().fit()
    with pytest.raises(errors.CheckpointError, match=r"'run' is a run folder; give one of its checkpoints.*step-000010"):
        treadle.load_weights("run", nn.Linear(3, 2))
    with pytest.raises(errors.CheckpointError, match=r"result.best is None"):
        treadle.load_weights(result.best, nn.Linear(3, 2))


@dataclass(frozen=True, kw_only=True)
class Redeclared(treadle.Config):
    """As one writes it to give other defaults; the checks of the inherited fields hold all the same."""

    run_dir: str = "run"
    duration: str = "2 epochs"
    batch_size: int = 8
    seed: int = 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("batch_size", 0, "got 0, must be greater than 0"), ("seed", -1, "got -1"), ("duration", "3 bananas", "unknown unit 'bananas'")],
)
def test_a_redeclared_field_keeps_the_checks_of_the_field_that_it_inherits(key: str, value: Any, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=rf"Redeclared.{key}: .*{message}"):
        Redeclared(**{key: value})
    with pytest.raises(errors.ConfigError, match=rf"command line: {key}: .*{message}"):
        treadle.load_config(Redeclared, overrides=[f"{key}={value}"])


def test_a_change_that_was_accepted_and_failed_leaves_the_folder_as_it_was() -> None:
    one = trainer(config=config(duration="4 epochs"))
    one.on("epoch_finished", once=True)(lambda run: os.kill(os.getpid(), signal.SIGTERM))
    assert one.fit().status == "interrupted: SIGTERM"
    with pytest.raises(errors.RunChanged, match="does not fit"):
        trainer(model=nn.Linear(3, 7), config=config(duration="4 epochs", batch_size=4)).fit(accept_changes=True)
    assert trainer(config=config(duration="4 epochs")).fit().status == "finished"


def test_what_only_says_how_a_run_is_shown_and_kept_may_change() -> None:
    one = trainer(config=config(duration="4 epochs"))
    one.on("epoch_finished", once=True)(lambda run: os.kill(os.getpid(), signal.SIGTERM))
    one.fit()
    shown = replace(QUIET, console="plain")
    kept = treadle.CheckpointConfig(every="2 steps", keep_last=1)
    assert trainer(config=config(duration="4 epochs", log=shown, checkpoint=kept, time_limit="1 hour")).fit().status == "finished"


def test_the_lock_does_not_outlive_a_killed_run_in_its_workers() -> None:
    """A forked worker must not hold the folder while it finds out that its parent is dead."""
    Path("program.py").write_text(
        "import os, signal, torch, treadle\n"
        "data = [(torch.ones(3), 1.0)] * 64\n"
        "config = treadle.Config(run_dir='run', duration='1 epoch', batch_size=4, machine=treadle.MachineConfig(workers=2))\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0)).double()\n"
        "trainer = treadle.Trainer(model, torch.nn.MSELoss(), [(x.double(), y) for x, y in data], optimizer=torch.optim.SGD, config=config)\n"
        "trainer.on('step_finished', once=True)(lambda run: os.kill(os.getpid(), signal.SIGKILL))\n"
        "trainer.fit()\n"
    )
    assert subprocess.run([sys.executable, "program.py"], capture_output=True, check=False).returncode == -signal.SIGKILL
    with treadle.Run(treadle.load_config(treadle.Config, "run/config.yaml")):
        pass
    assert json.loads(Path("run/run.json").read_text())["status"] == "running"
