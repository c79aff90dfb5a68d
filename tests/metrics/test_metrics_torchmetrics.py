"""torchmetrics' objects work as they are, in validation, in training and over a resume."""

from functools import partial

import pytest
import torch
import torchmetrics as tm
from torch import nn

import treadle
from treadle.core.errors import TreadleError

FROZEN = partial(torch.optim.SGD, lr=0.0)  # the weights stay, so the values of an epoch can be told
CLASSES = 4
accuracy = partial(tm.classification.MulticlassAccuracy, CLASSES)


def config(folder, duration="1 epoch", every="1 epoch"):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=16,
        machine=treadle.MachineConfig(device="cpu", micro_batch=5),
        checkpoint=treadle.CheckpointConfig(every=every),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
    )


def model():
    torch.manual_seed(0)
    return nn.Linear(6, CLASSES)


def data(samples=101):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 6, generator=generator), torch.randint(0, CLASSES, (samples,), generator=generator)


CASES = {
    "accuracy": lambda: tm.Accuracy(task="multiclass", num_classes=CLASSES),
    "macro accuracy": accuracy,
    "f1": lambda: tm.F1Score(task="multiclass", num_classes=CLASSES, average="macro"),
    "auroc": lambda: tm.classification.MulticlassAUROC(CLASSES),  # keeps every output in a list
    "collection": lambda: tm.MetricCollection({"micro": accuracy(average="micro"), "macro": accuracy(average="macro")}),
    "by class": lambda: tm.ClasswiseWrapper(accuracy(average=None)),
}


def expected(build, x, y):
    metric = build()
    with torch.no_grad():
        metric.update(model()(x), y)
    value = metric.compute()
    return {f"metric/{key}": float(v) for key, v in value.items()} if isinstance(value, dict) else {"metric": float(value)}


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_validation_and_training_values_are_those_over_all_samples(tmp_path, build):
    x, y = data()
    result = treadle.train(
        model(), nn.CrossEntropyLoss(), (x, y), valid=data(53), optimizer=FROZEN, metrics={"metric": build()}, config=config(tmp_path)
    )
    for prefix, given in (("train", (x, y)), ("valid", data(53))):
        wanted = {f"{prefix}/{name}": value for name, value in expected(build, *given).items()}
        assert {name: result.metrics[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)


def test_regression_metrics_take_output_and_target(tmp_path):
    x, y = torch.randn(50, 3), torch.randn(50, 1)
    net = nn.Linear(3, 1)
    metrics = {"mse": tm.MeanSquaredError(), "mae": tm.MeanAbsoluteError()}
    result = treadle.train(net, nn.MSELoss(), (x, y), valid=(x, y), optimizer=FROZEN, metrics=metrics, config=config(tmp_path))
    with torch.no_grad():
        difference = net(x) - y
    assert result.metrics["valid/mse"] == pytest.approx(difference.square().mean().item(), rel=1e-5)
    assert result.metrics["valid/mae"] == pytest.approx(difference.abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_training_values_survive_a_resume_in_the_middle_of_an_epoch(tmp_path, build):
    def trainer(folder):
        optimizer = partial(torch.optim.SGD, lr=0.1)
        settings = config(folder, "2 epochs", every="1 step")
        return treadle.Trainer(model(), nn.CrossEntropyLoss(), data(), optimizer=optimizer, metrics={"metric": build()}, config=settings)

    whole = trainer(tmp_path / "whole").fit()
    cut = trainer(tmp_path / "cut")

    @cut.on("step_finished", every="10 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut.fit()
    found = trainer(tmp_path / "cut").fit()
    assert {k: v for k, v in found.metrics.items() if k.startswith("train/")} == {k: v for k, v in whole.metrics.items() if k.startswith("train/")}


def test_the_objects_given_are_not_used_up_by_training(tmp_path):
    """Training counts in a copy: the same object in train and valid would mix both."""
    metric = accuracy(average="micro")
    result = treadle.train(
        model(), nn.CrossEntropyLoss(), data(101), valid=data(53), optimizer=FROZEN, metrics={"a": metric}, config=config(tmp_path)
    )
    assert result.metrics["train/a"] != result.metrics["valid/a"]
    assert not metric.update_called


def test_a_metric_that_was_added_between_start_and_resume_is_named(tmp_path):
    def trainer(**metrics):
        settings = config(tmp_path, "2 epochs", every="1 step")
        return treadle.Trainer(model(), nn.CrossEntropyLoss(), data(), optimizer=FROZEN, metrics=metrics, config=settings)

    first = trainer(accuracy=treadle.metrics.Accuracy())

    @first.on("step_finished", every="3 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first.fit()
    with pytest.raises(TreadleError, match="top2"):
        trainer(accuracy=treadle.metrics.Accuracy(), top2=treadle.metrics.Accuracy(top_k=2)).fit()
