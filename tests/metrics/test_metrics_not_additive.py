"""Metrics that are no mean over samples come out as over the whole set, however it is cut: held against scikit-learn."""

import warnings
from functools import partial
from typing import Any

import pytest
import sklearn.metrics as sk
import torch
import torchmetrics as tm
from torch import nn

import treadle

QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
SAMPLES, CLASSES = 101, 3  # prime: no batch size divides it
X = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(1))
# Sorted by label: a batch then has one class only, and any mean over batches is far off.
Y = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), SAMPLES, replacement=True, generator=torch.Generator().manual_seed(2)).sort().values


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, CLASSES)


def config(batch_size: int, **given: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": "run", "duration": "1 step", "batch_size": batch_size, "log": QUIET, **given})


def trainer(batch_size: int, **given: Any) -> treadle.Trainer:
    settings = given.pop("config", None) or config(batch_size)
    return treadle.Trainer(build, nn.CrossEntropyLoss(), (X, Y), optimizer=partial(torch.optim.SGD, lr=0.0), config=settings, **given)


class Binary:
    """A metric of the first class against the others, out of one of torchmetrics."""

    def __init__(self, metric: tm.Metric) -> None:
        self._metric = metric
        self.reset, self.compute = metric.reset, metric.compute

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self._metric.update(output.softmax(1)[:, 0], (target == 0).long())


class AUROC(tm.classification.MulticlassAUROC):
    """Of probabilities: of a batch whose logits all happen to lie in [0, 1], torchmetrics believes that they are."""

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        super().update(output.softmax(1), target)


class Losses(tm.MeanMetric):
    """A mean of a number a sample."""

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:  # type: ignore[override]
        super().update(nn.functional.cross_entropy(output, target, reduction="none"))


METRICS: dict[str, Any] = {
    "auroc": lambda: AUROC(CLASSES),
    "auroc in bins": lambda: Binary(tm.classification.BinaryAUROC(thresholds=1000)),
    "binary auroc": lambda: Binary(tm.classification.BinaryAUROC()),
    "average precision": lambda: Binary(tm.classification.BinaryAveragePrecision()),
    "f1": lambda: tm.classification.MulticlassF1Score(CLASSES, average="macro"),
    "weighted f1": lambda: tm.classification.MulticlassF1Score(CLASSES, average="weighted"),
    "matthews": lambda: tm.classification.MulticlassMatthewsCorrCoef(CLASSES),
    "kappa": lambda: tm.classification.MulticlassCohenKappa(CLASSES),
    "balanced accuracy": lambda: tm.classification.MulticlassAccuracy(CLASSES, average="macro"),
    "mean": Losses,
}


def by_sklearn() -> dict[str, float]:
    with torch.no_grad():
        output = build()(X)
    scores, answer, truth = output.softmax(1).numpy(), output.argmax(1).numpy(), Y.numpy()
    first = (Y == 0).numpy()
    return {
        "auroc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
        "auroc in bins": sk.roc_auc_score(first, scores[:, 0]),
        "binary auroc": sk.roc_auc_score(first, scores[:, 0]),
        "average precision": sk.average_precision_score(first, scores[:, 0]),
        "f1": sk.f1_score(truth, answer, average="macro"),
        "weighted f1": sk.f1_score(truth, answer, average="weighted"),
        "matthews": sk.matthews_corrcoef(truth, answer),
        "kappa": sk.cohen_kappa_score(truth, answer),
        "balanced accuracy": sk.balanced_accuracy_score(truth, answer),
        "mean": sk.log_loss(truth, output.double().softmax(1).numpy()),
    }


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_values_are_those_over_the_whole_set(batch_size: int, micro_batch: int | None) -> None:
    settings = config(batch_size, machine=treadle.MachineConfig(micro_batch=micro_batch))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trainer(batch_size, config=settings, metrics={name: make() for name, make in METRICS.items()}).evaluate((X, Y))
    for name, expected in by_sklearn().items():
        assert found[name] == pytest.approx(expected, abs=1e-3 if "bins" in name else 1e-6), name


def test_sets_are_counted_apart_and_in_training_as_well() -> None:
    """One metric object for everything: the training copy, two sets, and the same sets again."""
    valid = {"all": (X, Y), "second": (X[50:], Y[50:]), "again": (X, Y)}
    given = trainer(7, config=config(7, duration="2 epochs"), metrics={"f1": METRICS["f1"]()}, valid=valid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = given.fit().metrics
    with torch.no_grad():
        answer = build()(X).argmax(1)
    whole = sk.f1_score(Y, answer, average="macro")
    assert [found[f"valid/{name}/f1"] for name in ("all", "again")] == pytest.approx([whole] * 2)
    assert found["train/f1"] == pytest.approx(whole)
    seen = f1_over(X[50:], Y[50:])
    assert found["valid/second/f1"] == pytest.approx(seen) and seen != pytest.approx(whole)


def f1_over(x: torch.Tensor, y: torch.Tensor) -> float:
    metric = METRICS["f1"]()
    with torch.no_grad():
        metric.update(build()(x), y)
    return float(metric.compute())


def test_a_metric_that_cannot_be_told_of_one_class_says_so_by_its_own_words_and_its_name() -> None:
    one_class = (X[Y == 0], Y[Y == 0])
    with pytest.warns(UserWarning, match="No negative samples in targets"):  # torchmetrics warns, and gives 0
        assert trainer(7).evaluate(one_class, metrics={"auroc": METRICS["binary auroc"]()})["auroc"] == 0.0

    class BySklearn:
        """A metric that keeps everything and asks scikit-learn at the end, which raises."""

        def reset(self) -> None:
            self.scores: list[float] = []
            self.truth: list[bool] = []

        def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
            self.scores += output.softmax(1)[:, 0].tolist()
            self.truth += (target == 0).tolist()

        def compute(self) -> float:
            if len(set(self.truth)) < 2:
                raise ValueError("only one class is present")
            return float(sk.roc_auc_score(self.truth, self.scores))

    assert trainer(7).evaluate((X, Y), metrics={"auc": BySklearn()})["auc"] == pytest.approx(by_sklearn()["binary auroc"])
    with pytest.raises(ValueError, match="only one class is present") as caught:
        trainer(7).evaluate(one_class, metrics={"auc": BySklearn()})
    assert caught.value.__notes__ == ["raised by the metric 'auc' (BySklearn)"]
