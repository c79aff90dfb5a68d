"""Training values over an epoch: exact over its samples, however it was cut."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle
from treadle.metrics import Accuracy, Mean

FROZEN = partial(torch.optim.SGD, lr=0.0)  # the weights stay, so the values of an epoch can be told
SAMPLES = 103


def model():
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, 5, generator=generator), torch.randint(0, 3, (SAMPLES,), generator=generator)


def train(folder, *, micro_batch=None, drop_last=False, train_metrics=True, every="4 steps", loss=None, given=None):
    config = treadle.Config(
        run_dir=str(folder),
        duration="2 epochs",
        batch_size=10,
        drop_last=drop_last,
        machine=treadle.MachineConfig(device="cpu", micro_batch=micro_batch),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every=every, train_metrics=train_metrics),
    )
    metrics = {"accuracy": Accuracy(), "size": Mean(lambda output, target: output.square())}
    treadle.train(model(), loss or nn.CrossEntropyLoss(), given or data(), optimizer=FROZEN, metrics=metrics, config=config)
    return list(treadle.read_journal(folder))


@pytest.mark.parametrize("micro_batch", [None, 1, 3, 10])
def test_loss_and_metrics_of_an_epoch_are_exact_over_its_samples(tmp_path, micro_batch):
    x, y = data()
    with torch.no_grad():
        output = model()(x)
    rows = [row for row in train(tmp_path, micro_batch=micro_batch) if "train/accuracy" in row]
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train/accuracy"] == int((output.argmax(1) == y).sum()) / SAMPLES
        assert row["train/size"] == pytest.approx(output.double().square().mean().item(), rel=1e-6)
        assert row["train/epoch_loss"] == pytest.approx(F.cross_entropy(output.double(), y).item(), rel=1e-6)


def test_the_rows_of_a_run_cover_every_sample_once(tmp_path):
    """Windows are weighted by their samples, so all of them together give the mean over the run."""
    x, y = data()
    rows = [row for row in train(tmp_path, every="3 steps") if "train/loss" in row]
    counts = [after - before for before, after in zip([0, *(row["samples"] for row in rows)], [row["samples"] for row in rows], strict=False)]
    assert sum(counts) == 2 * SAMPLES
    with torch.no_grad():
        expected = F.cross_entropy(model()(x).double(), y).item()
    assert sum(row["train/loss"] * count for row, count in zip(rows, counts, strict=True)) / sum(counts) == pytest.approx(expected, rel=1e-6)


def test_a_token_loss_of_an_epoch_is_over_the_tokens_that_count(tmp_path):
    x, _ = data()
    target = torch.randint(0, 3, (SAMPLES,), generator=torch.Generator().manual_seed(2))
    target[torch.rand(SAMPLES, generator=torch.Generator().manual_seed(3)) < 0.7] = -100
    rows = train(tmp_path, micro_batch=3, given=(x, target), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])))
    with torch.no_grad():
        expected = F.cross_entropy(model()(x).double(), target, torch.tensor([1.0, 2.0, 5.0]).double()).item()
    found = [row["train/epoch_loss"] for row in rows if "train/epoch_loss" in row]
    assert found == pytest.approx([expected] * 2, rel=1e-6)


def test_training_metrics_can_be_left_out(tmp_path):
    assert not any("train/accuracy" in row for row in train(tmp_path, train_metrics=False))


def test_metrics_of_the_validation_alone_are_not_tried_on_training_targets(tmp_path):
    """Mixed labels: shares of the classes in training, class numbers in validation."""
    x, y = data()
    shares = F.one_hot(y, 3).float()
    parts = {"optimizer": torch.optim.SGD, "metrics": {"accuracy": Accuracy()}, "valid": (x, y)}

    def config(train_metrics):
        log = treadle.LogConfig(console="quiet", tensorboard=False, train_metrics=train_metrics)
        return treadle.Config(run_dir=str(tmp_path / f"run-{train_metrics}"), duration="1 step", batch_size=8, log=log)

    assert "valid/accuracy" in treadle.train(model(), nn.CrossEntropyLoss(), (x, shares), config=config(False), **parts).metrics
    with pytest.raises(treadle.errors.ObjectiveError, match=r"shares of classes.*log\.train_metrics=False"):
        treadle.train(model(), nn.CrossEntropyLoss(), (x, shares), config=config(True), **parts)


def test_training_metrics_cost_no_further_forward_pass(tmp_path):
    calls = []

    class Counted(nn.Linear):
        def forward(self, input):
            calls.append(len(input))
            return super().forward(input)

    config = treadle.Config(
        run_dir=str(tmp_path),
        duration="1 epoch",
        batch_size=SAMPLES,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    treadle.train(Counted(5, 3), nn.CrossEntropyLoss(), data(), optimizer=FROZEN, metrics={"accuracy": Accuracy()}, config=config)
    assert calls == [SAMPLES, SAMPLES]  # the preflight and the step
