"""Validation sets by name: each with its own metrics, cadence and objective, known to everything that names values."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle import errors
from treadle.metrics import Accuracy, Mean

SGD = partial(torch.optim.SGD, lr=0.1)
QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
Pair = tuple[torch.Tensor, torch.Tensor]


def data(samples: int = 40, seed: int = 1) -> Pair:
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
    return x, (x.sum(1) > 0).long()


def config(run_dir: Any = "run", **given: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": str(run_dir), "duration": "4 epochs", "batch_size": 16, "log": QUIET, **given})


def trainer(valid: Any, **given: Any) -> treadle.Trainer:
    parts = {"optimizer": SGD, "metrics": {"accuracy": Accuracy()}, "config": config(), **given}
    return treadle.Trainer(partial(nn.Linear, 3, 2), parts.pop("objective", nn.CrossEntropyLoss()), data(), valid=valid, **parts)


def logged() -> dict[str, list[int]]:
    """At which steps each validation value was logged."""
    found: dict[str, list[int]] = {}
    for row in treadle.read_journal("run"):
        for name in row:
            if name.startswith("valid/"):
                found.setdefault(name, []).append(row["step"])
    return found


def absolute(model: nn.Module, batch: Pair) -> treadle.Outcome:
    output = model(batch[0])
    return treadle.Outcome(output.abs().mean(), output, batch[1], logs={"largest": output.max()})


def test_each_set_has_its_metrics_its_cadence_and_its_objective() -> None:
    spread = Mean(lambda output, target: output.std(1))
    valid = {
        "clean": data(30, 2),
        "noisy": treadle.Evaluation(data(20, 3), metrics={"spread": spread}, every="2 epochs"),
        "other": treadle.Evaluation(data(10, 4), metrics={}, every="5 steps", objective=absolute),
    }
    given = trainer(valid)
    result = given.fit()
    epochs, twice, fives = [3, 6, 9, 12], [6, 12], [5, 10, 12]
    assert logged() == {
        "valid/clean/loss": epochs, "valid/clean/accuracy": epochs,
        "valid/noisy/loss": twice, "valid/noisy/spread": twice,
        "valid/other/loss": fives, "valid/other/largest": fives,
    }  # fmt: skip
    model = given.model
    with torch.no_grad():
        x, y = data(20, 3)
        assert result.metrics["valid/noisy/loss"] == pytest.approx(float(nn.functional.cross_entropy(model(x), y)), rel=1e-6)
        assert result.metrics["valid/noisy/spread"] == pytest.approx(float(model(x).std(1).mean()), rel=1e-6)
        assert result.metrics["valid/other/loss"] == pytest.approx(float(model(data(10, 4)[0]).abs().mean()), rel=1e-6)
    scores = given.evaluate(valid)
    assert {f"valid/{name}": value for name, value in scores.items()} == {k: v for k, v in result.metrics.items() if k.startswith("valid/")}


def test_one_set_keeps_its_names_also_with_a_say_of_its_own() -> None:
    trainer(treadle.Evaluation(data(30, 2), every="2 epochs")).fit()
    assert logged() == {"valid/loss": [6, 12], "valid/accuracy": [6, 12]}


def test_a_mapping_of_tensors_is_one_dataset_and_a_mapping_of_datasets_is_several() -> None:
    x, y = data(30, 2)
    fields = {"input": x, "target": y}
    alone = trainer(fields).fit().metrics
    named = trainer({"a": fields, "b": treadle.Samples((x, y)), "c": list(zip(x, y, strict=True))}, config=config("named")).fit().metrics
    for name in ("loss", "accuracy"):
        assert len({alone[f"valid/{name}"], *(named[f"valid/{one}/{name}"] for one in "abc")}) == 1
    by_number = dict(enumerate(zip(x, y, strict=True)))  # a dict with an item for each index is a dataset
    assert trainer(by_number, config=config("numbers")).fit().metrics["valid/loss"] == alone["valid/loss"]


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        ({"input": torch.zeros(3, 3), "set": [1, 2]}, errors.DataError, r"this one is both.*treadle.Evaluation\(tensor\)"),
        ({"a/b": data(8)}, errors.DataError, "the set 'a/b' cannot have this name"),
        ({"": data(8)}, errors.DataError, "the set '' cannot have this name"),
        ({"a": data(8), "b": None}, errors.DataError, "NoneType is no dataset"),
        ({"a": treadle.Evaluation(data(8), metrics=[Accuracy()])}, errors.ObjectiveError, "the set 'a': metrics must be a dict"),
        ({"a": treadle.Evaluation(data(8), objective="loss")}, errors.ObjectiveError, "the set 'a': objective must be a loss module"),
        ({"a": (torch.zeros(4, 3), torch.tensor([0, 1, 2, 1]))}, errors.ObjectiveError, "labels must be in 0..1; the data has 2"),
        ({}, errors.DataError, "is empty"),
    ],
)
def test_what_is_wrong_with_a_set_is_said_before_it_trains(valid: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(valid).fit()


def test_a_cadence_that_cannot_be_read_is_refused_where_it_is_written() -> None:
    with pytest.raises(errors.ConfigError, match="unknown unit 'bananas'"):
        treadle.Evaluation(data(), every="2 bananas")


def test_a_set_that_does_not_go_through_the_model_is_named() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        trainer({"good": data(8), "bad": (torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))}).fit()
    assert "in the validation set 'bad'" in caught.value.__notes__


def test_names_of_sets_are_known_where_values_are_named() -> None:
    valid = {"clean": data(30, 2), "noisy": data(20, 3)}
    best = treadle.CheckpointConfig(best="valid/noisy/accuracy", mode="max")
    stop = treadle.EarlyStop("valid/clean/loss", patience=1, min_delta=10.0)
    result = trainer(valid, handlers=[stop], config=config(checkpoint=best)).fit()
    assert result.best is not None and result.status.startswith("stopped: valid/clean/loss has not improved")
    for name, near in [("valid/accuracy", "valid/noisy/accuracy"), ("valid/clen/loss", "valid/clean/loss")]:
        with pytest.raises(errors.ConfigError, match=rf"checkpoint.best: no value named '{name}' is logged; did you mean '{near}'"):
            trainer(valid, config=config(f"wrong-{near[6]}", checkpoint=treadle.CheckpointConfig(best=name))).fit()


def test_each_set_is_kept_apart_from_the_training_data_and_may_overlap_another(capsys: pytest.CaptureFixture[str]) -> None:
    loud, clean = config(log=treadle.LogConfig(console="plain", tensorboard=False)), data(30, 2)
    leaky = tuple(torch.cat([tensor, more[:2]]) for tensor, more in zip(clean, data(), strict=True))
    trainer({"clean": clean, "leaky": leaky, "half": tuple(tensor[:15] for tensor in clean)}, config=loud).fit()
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == ["warning: 2 of the 32 valid/leaky items are in the train data too (train 0 = valid/leaky 30, train 1 = valid/leaky 31)"]


class Fails:
    """A handler that ends the first run in its middle."""

    def on_epoch_finished(self, run: treadle.Run) -> None:
        raise ZeroDivisionError


def test_another_set_under_the_same_name_is_refused_when_the_run_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        trainer({"clean": data(30, 2), "noisy": data(20, 3)}, handlers=[Fails()]).fit()
    with pytest.raises(errors.RunChanged, match="valid/noisy"):
        trainer({"clean": data(30, 2), "noisy": data(21, 3)}).fit()


class Counting:
    """A metric that remembers every batch it was fed since the last reset."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def reset(self) -> None:
        self.sizes = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.sizes.append(len(target))

    def compute(self) -> float:
        return float(sum(self.sizes))


def test_the_same_metric_in_two_sets_counts_each_for_itself() -> None:
    one = Counting()
    valid = {"a": treadle.Evaluation(data(30), metrics={"seen": one}), "b": treadle.Evaluation(data(7), metrics={"seen": one}), "c": data(9)}
    result = trainer(valid, metrics={"seen": one}, handlers=[treadle.EMA()]).fit()
    found = {name: value for name, value in result.metrics.items() if name.endswith("/seen")}
    expected = {"a": 30.0, "b": 7.0, "c": 9.0}
    assert found == {"train/seen": 40.0} | {f"valid/{name}/{more}seen": value for name, value in expected.items() for more in ("", "ema/")}
    assert one.sizes == []


def test_streams_and_loaders_are_sets_as_well() -> None:
    x, y = data(30, 2)
    batches = treadle.Batches(lambda: iter(list(zip(x.split(7), y.split(7), strict=True))))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True)
    metrics = trainer({"stream": batches, "loader": loader, "plain": (x, y)}).fit().metrics
    losses = [metrics[f"valid/{name}/loss"] for name in ("stream", "loader", "plain")]
    assert losses == pytest.approx([losses[2]] * 3, rel=1e-6)
    assert len({metrics[f"valid/{name}/accuracy"] for name in ("stream", "loader", "plain")}) == 1
