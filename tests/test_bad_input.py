"""Mistakes that people make: each is an error that names the thing and says what to do, before any update."""

import re
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
LABELS = torch.arange(40) % 2
VALUES = X.sum(1)


def config(**values: Any) -> treadle.Config:
    base = {"run_dir": "run", "duration": "2 epochs", "batch_size": 8, "log": treadle.LogConfig(console="quiet", tensorboard=False)}
    return treadle.Config(**{**base, **values})


def refused(error: type[Exception], message: str, *, model: nn.Module | None = None, **parts: Any) -> None:
    """Fit, and see that it is refused with this message and that no weight has moved."""
    model = nn.Linear(3, 2) if model is None else model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {"objective": nn.CrossEntropyLoss(), "data": (X, LABELS), "optimizer": SGD, "config": config(), **parts}
    with pytest.raises(error, match=message):
        treadle.train(model, given.pop("objective"), given.pop("data"), **given)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss()], ids=lambda loss: type(loss).__name__)
def test_output_n_1_against_target_n(loss: nn.Module) -> None:
    refused(
        errors.ObjectiveError,
        r"output has the shape \[8, 1\], the target \[8\].*squeeze\(1\)",
        model=nn.Linear(3, 1),
        objective=loss,
        data=(X, VALUES),
    )


def test_output_n_1_against_target_n_in_an_own_objective() -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    refused(errors.ObjectiveError, r"different shapes.*squeeze\(1\)", model=nn.Linear(3, 1), objective=objective, data=(X, VALUES))


def test_a_label_out_of_range_anywhere_in_the_data() -> None:
    labels = LABELS.clone()
    labels[-1] = 7
    refused(errors.ObjectiveError, r"2 classes, so labels must be in 0..1; the data has 7", data=(X, labels))


def test_a_label_out_of_range_in_the_validation_data() -> None:
    refused(errors.ObjectiveError, "labels must be in 0..1; the data has -1", valid=(X, LABELS - 1))


def test_float_labels_for_a_classifier() -> None:
    refused(errors.ObjectiveError, r"targets are float32.*int64 in 0..1", data=(X, LABELS.float()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, X, LABELS), r"batches of \(input, target\), this one is \(float32\[8, 3\], float32\[8, 3\], int64\[8\]\)"),
        (X, r"batches of \(input, target\), this one is float32\[8, 3\]"),
        ({"input": X, "label": LABELS}, r"no field 'target'.*supervised\(loss, input=..., target=...\)"),
    ],
    ids=["three tensors", "one tensor", "a dict with other fields"],
)
def test_a_batch_of_another_structure(data: Any, message: str) -> None:
    refused(errors.ObjectiveError, message, data=data)


def test_a_model_without_parameters() -> None:
    refused(errors.ObjectiveError, "Flatten has no parameters", model=nn.Flatten())


def test_a_model_whose_parameters_are_all_frozen() -> None:
    refused(errors.ObjectiveError, "all 2 parameters of Linear are frozen", model=nn.Linear(3, 2).requires_grad_(False))


def test_an_optimizer_that_has_none_of_the_parameters() -> None:
    other = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    refused(errors.ObjectiveError, "has none of the parameters of Linear", optimizer=other)


def test_an_optimizer_that_misses_some_parameters_is_named_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    result = treadle.train(
        nn.Linear(3, 2), nn.CrossEntropyLoss(), (X, LABELS), optimizer=lambda parameters: torch.optim.SGD(parameters[:1], lr=0.1), config=config()
    )
    assert result.status == "finished"
    assert "does not move 1 of 2 trainable parameters: bias" in capsys.readouterr().err


@pytest.mark.parametrize(("optimizer", "message"), [("adam", "got 'adam'"), (lambda parameters: None, "got NoneType")])
def test_something_that_is_no_optimizer(optimizer: Any, message: str) -> None:
    refused(errors.ConfigError, message, optimizer=optimizer)


def test_a_negative_learning_rate() -> None:
    refused(ValueError, "Invalid learning rate", optimizer=partial(torch.optim.SGD, lr=-0.1))


def test_a_run_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(errors.RunFolderError, "cannot write to the run folder.*give another run_dir", config=config(run_dir=str(tmp_path / "file" / "run")))


def test_zero_epochs() -> None:
    with pytest.raises(errors.ConfigError, match=r"Config.duration: '0 epochs' must be more than zero epochs"):
        config(duration="0 epochs")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "tpu"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(errors.ConfigError, f"machine.device: '{device}' is", config=config(machine=treadle.MachineConfig(device=device)))


def test_a_misspelt_name_in_best() -> None:
    checkpoint = treadle.CheckpointConfig(best="valid/acuracy", mode="max")
    message = "checkpoint.best: no value named 'valid/acuracy' is logged; did you mean 'valid/accuracy'"
    refused(errors.ConfigError, message, valid=(X, LABELS), metrics={"accuracy": Accuracy()}, config=config(checkpoint=checkpoint))


def test_a_misspelt_name_in_early_stop() -> None:
    message = "EarlyStop: no value named 'valid/los' is logged; did you mean 'valid/loss'"
    refused(errors.ConfigError, message, valid=(X, LABELS), handlers=[treadle.EarlyStop("valid/los")])


def test_early_stop_without_validation_data() -> None:
    refused(
        errors.ConfigError, "EarlyStop: no value named 'valid/loss' is logged; did you mean 'train/loss'", handlers=[treadle.EarlyStop("valid/loss")]
    )


def test_a_handler_for_an_unknown_event() -> None:
    trainer = treadle.Trainer(nn.Linear(3, 2), nn.CrossEntropyLoss(), (X, LABELS), optimizer=SGD, config=config())
    with pytest.raises(errors.UsageError, match=r"unknown event 'epoch_ended'; did you mean 'epoch_.*events: run_started"):
        trainer.on("epoch_ended")


def test_two_runs_in_one_folder_at_once() -> None:
    with treadle.Run(config()):
        refused(errors.RunLocked, r"'run' is in use by process \d+ on .+; wait for it, or give another run_dir")


def test_a_finished_run_started_again_with_another_config() -> None:
    treadle.train(nn.Linear(3, 2), nn.CrossEntropyLoss(), (X, LABELS), optimizer=SGD, config=config())
    refused(errors.RunFinished, r"over: finished at step 10, with another config\n  seed: 0 -> 1\ngive another run_dir", config=config(seed=1))


def test_another_config_in_the_same_folder() -> None:
    with pytest.raises(KeyboardInterrupt), treadle.Run(config()) as run:
        model, opt = run.prepare(nn.Linear(3, 2), SGD)
        run.track(model=model, optimizer=opt)
        next(run.steps((X, LABELS)))
        raise KeyboardInterrupt
    refused(errors.RunChanged, r"another config\n  batch_size: 8 -> 16\n.*accept_changes", config=config(batch_size=16))


def test_a_metric_with_an_objective_that_gives_no_output() -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    refused(errors.ObjectiveError, "metrics need the model's output", objective=objective, metrics={"accuracy": Accuracy()})


@pytest.mark.parametrize(("metric", "message"), [(Accuracy, r"'accuracy' is a class; call it: Accuracy\(\)"), (3, "without update, compute, reset")])
def test_something_that_is_no_metric(metric: Any, message: str) -> None:
    refused(errors.ObjectiveError, message, metrics={"accuracy": metric})


def test_a_schedule_for_nothing() -> None:
    refused(errors.ConfigError, "the schedule 'learning_rate' is neither", schedules={"learning_rate": treadle.schedules.constant(0.1)})


@pytest.mark.parametrize(
    ("loss", "message"),
    [(lambda out, y: (out.argmax(1) - y).float(), r"one number.*shape \[8\]"), (lambda out, y: out.detach().sum(), "no gradient")],
    ids=["a vector", "detached"],
)
def test_a_loss_that_cannot_be_meant(loss: Any, message: str) -> None:
    refused(errors.ObjectiveError, message, objective=treadle.supervised(loss))


def test_a_loss_that_sums() -> None:
    refused(errors.ObjectiveError, r"CrossEntropyLoss\(reduction='sum'\).*use reduction='mean'", objective=nn.CrossEntropyLoss(reduction="sum"))


def test_an_objective_without_a_loss() -> None:
    refused(errors.ObjectiveError, "returned NoneType without a loss", objective=lambda model, batch: None)


@pytest.mark.parametrize(
    ("data", "message"), [((X[:0], LABELS[:0]), "empty"), ([], "empty"), ((X, LABELS[:5]), "same length"), (iter([1]), "treadle.Batches")]
)
def test_data_that_cannot_be_read(data: Any, message: str) -> None:
    refused(errors.DataError, message, data=data)


def test_a_prepared_model_that_is_not_tracked() -> None:
    with pytest.raises(errors.UsageError, match=r"not tracked, so it would not survive: Linear, SGD; call run.track"), treadle.Run(config()) as run:
        run.prepare(nn.Linear(3, 2), SGD)
        run.steps((X, LABELS))


def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step() -> None:
    class Handler:
        def on_step_finished(self, run: Any) -> None:
            raise AssertionError("a step was taken")

        def state_dict(self) -> dict[str, Any]:
            return {"history": [{1, 2}]}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    refused(errors.CheckpointError, "Handler.history.0 is a set", handlers=[Handler()])


def test_after_a_failure_before_the_first_step_the_mended_program_may_start_in_the_same_folder() -> None:
    refused(errors.ObjectiveError, "labels", data=(X, LABELS + 5))
    result = treadle.train(nn.Linear(3, 7), nn.CrossEntropyLoss(), (X, LABELS + 5), optimizer=SGD, config=config(batch_size=4))
    assert result.status == "finished"


def test_messages_are_sentences_that_say_what_was_given() -> None:
    """A spot check of the tone: no message of this file's errors ends in a stop or starts with a capital of shouting."""
    with pytest.raises(errors.ConfigError) as caught:
        config(batch_size=0)
    assert re.fullmatch(r"Config.batch_size: got 0, must be greater than 0", str(caught.value))
