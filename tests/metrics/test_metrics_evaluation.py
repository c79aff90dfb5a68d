"""Evaluation: exact over the whole dataset, and everything is left as it was found."""

import json
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import treadle
from treadle.core.errors import ObjectiveError
from treadle.metrics import Accuracy, ConfusionMatrix

SGD = partial(torch.optim.SGD, lr=0.1)
SAMPLES = 10_007  # prime, so that no batch size divides it


def config(folder, batch_size=64, duration="1 step", micro_batch=None, **given):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=batch_size,
        machine=treadle.MachineConfig(device="cpu", micro_batch=micro_batch),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
        **given,
    )


def classifier():
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def classes(samples=SAMPLES):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, generator=generator)
    x[-(samples % 64) :] *= 20  # a last short batch that is unlike the others shows in a mean of batch means
    return x, torch.randint(0, 4, (samples,), generator=generator)


FORMS = {
    "tensors": lambda x, y: (x, y),
    "dataset": lambda x, y: TensorDataset(x, y),
    "list": lambda x, y: list(zip(x, y, strict=True)),
    "batches": lambda x, y: treadle.Batches(list(zip(x.split(100), y.split(100), strict=True))),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True),
}


@pytest.mark.parametrize("micro_batch", [None, 48])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_loss_and_accuracy_are_exact_over_all_samples(tmp_path, form, micro_batch):
    model, (x, y) = classifier(), classes()
    trainer = treadle.Trainer(
        model, nn.CrossEntropyLoss(), (x, y), optimizer=SGD, metrics={"accuracy": Accuracy()}, config=config(tmp_path, micro_batch=micro_batch)
    )
    scores = trainer.evaluate(form(x, y))
    with torch.no_grad():
        output = model(x)
    assert scores["accuracy"] == int((output.argmax(1) == y).sum()) / SAMPLES
    assert scores["loss"] == pytest.approx(F.cross_entropy(output.double(), y, reduction="none").mean().item(), rel=1e-6)


def test_the_validation_loss_of_a_run_is_exact(tmp_path):
    model, (x, y) = classifier(), classes()
    result = treadle.train(model, nn.CrossEntropyLoss(), (x, y), valid=(x, y), optimizer=SGD, config=config(tmp_path, 8192, "1 epoch"))
    with torch.no_grad():
        expected = F.cross_entropy(model(x).double(), y).item()
    assert result.metrics["valid/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weight", [None, [0.1, 1.0, 2.0, 5.0]], ids=["plain", "class weights"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_mean_over_tokens_leaves_out_what_is_ignored(tmp_path, weight, batch_size):
    torch.manual_seed(0)
    model, x = nn.Conv1d(2, 4, 1), torch.randn(101, 2, 5)
    target = torch.randint(0, 4, (101, 5))
    target[torch.rand(101, 5) < 0.6] = -1
    target[7:14] = -1  # one whole batch
    weight = None if weight is None else torch.tensor(weight)
    loss = nn.CrossEntropyLoss(weight, ignore_index=-1)
    trainer = treadle.Trainer(
        model, loss, (x, target), optimizer=SGD, metrics={"accuracy": Accuracy(ignore_index=-1)}, config=config(tmp_path, batch_size)
    )
    scores = trainer.evaluate((x, target))
    with torch.no_grad():
        output = model(x)
    expected = F.cross_entropy(output.double(), target, None if weight is None else weight.double(), ignore_index=-1).item()
    assert scores["loss"] == pytest.approx(expected, rel=1e-6)
    assert scores["accuracy"] == int((output.argmax(1) == target).sum()) / int((target != -1).sum())


def test_further_values_of_the_objective_are_averaged_like_the_loss(tmp_path):
    x, y = classes(103)

    def objective(model, batch):
        return treadle.Outcome(F.cross_entropy(model(batch[0]), batch[1]), logs={"size": batch[0].square().mean()})

    scores = treadle.Trainer(classifier(), objective, (x, y), optimizer=SGD, config=config(tmp_path, 10)).evaluate((x, y))
    assert scores["size"] == pytest.approx(x.double().square().mean().item(), rel=1e-6)


class Odd(nn.Module):
    """Layers that behave differently in training, in modes of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).requires_grad_(False)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.frozen(self.body(x)))


def everything(model):
    """All that an evaluation might move."""
    keys, position = np.random.get_state()[1:3]
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "random": [random.getstate(), torch.get_rng_state(), torch.from_numpy(keys.astype(np.int64)), position],
        "autograd": torch.is_grad_enabled(),
    }


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def noisy_loss(model, batch):
    """Draws from every generator, in whatever mode."""
    random.random(), np.random.rand()
    return treadle.Outcome(F.cross_entropy(model(batch[0] + 1e-3 * torch.randn_like(batch[0])), batch[1]))


def failing_loss(model, batch):
    random.random(), np.random.rand(), torch.rand(1), model(batch[0])
    raise ZeroDivisionError


@pytest.mark.parametrize("objective", [noisy_loss, failing_loss])
def test_evaluate_leaves_everything_as_it_found_it_also_where_it_fails(tmp_path, objective):
    model, data = Odd(), classes(50)
    model.train()
    model.frozen.eval()
    model.body[2].eval()
    F.cross_entropy(model(data[0]), data[1]).backward()
    trainer = treadle.Trainer(model, objective, data, optimizer=SGD, config=config(tmp_path, 16))
    before = everything(model)
    if objective is failing_loss:
        with pytest.raises(ZeroDivisionError):
            trainer.evaluate(data)
    else:
        trainer.evaluate(data)
    assert_same(everything(model), before)


def test_evaluations_in_a_run_do_not_change_what_it_trains(tmp_path):
    def run(folder, **given):
        model = Odd()
        settings = config(folder, 16, "3 epochs", evaluate=treadle.EvaluateConfig(every="1 step"))
        treadle.train(model, noisy_loss, classes(50), optimizer=SGD, config=settings, **given)
        return model.state_dict()

    assert_same(run(tmp_path / "with", valid=classes(30)), run(tmp_path / "without"))


def test_evaluation_is_in_eval_mode_and_training_goes_on_in_train_mode(tmp_path):
    seen = []

    def objective(model, batch):
        seen.append((model.training, torch.is_grad_enabled()))
        return F.cross_entropy(model(batch[0]), batch[1])

    model = Odd().eval()  # the run sets the mode
    treadle.train(model, objective, classes(32), valid=classes(8), optimizer=SGD, config=config(tmp_path, 16, "2 epochs"))
    training, evaluating = (True, True), (False, False)
    assert seen == [training, evaluating, *[training, training, evaluating] * 2]


@pytest.mark.parametrize("place", ["loss", "metric"])
def test_nan_in_validation_is_reported_and_not_hidden(tmp_path, place):
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    bad = torch.full((20, 1), math.nan)
    bad[5:] = 0.0

    class LastOutput:
        """A metric that answers with a NaN."""

        def update(self, output, target):
            self.value = output.sum() * math.nan

        def compute(self):
            return self.value

        def reset(self):
            self.value = torch.zeros(())

    valid, metrics = ((x, bad), {}) if place == "loss" else ((x, y), {"metric": LastOutput()})
    result = treadle.train(nn.Linear(3, 1), nn.MSELoss(), (x, y), valid=valid, metrics=metrics, optimizer=SGD, config=config(tmp_path, 4, "1 epoch"))
    assert result.status == "finished"
    assert math.isnan(result.metrics[f"valid/{place}"])
    rows = [row for row in treadle.read_journal(tmp_path) if f"valid/{place}" in row]
    assert len(rows) == 1 and math.isnan(rows[0][f"valid/{place}"])


def test_a_validation_loss_over_nothing_is_nan(tmp_path):
    """Everything is ignored, so there is no mean; leaving the name out would look like a value that was never asked for."""
    x, y = classes(20)
    nothing = (x, torch.full((20,), -100))
    trainer = treadle.Trainer(classifier(), nn.CrossEntropyLoss(), (x, y), optimizer=SGD, config=config(tmp_path))
    assert math.isnan(trainer.evaluate(nothing)["loss"])


@pytest.mark.parametrize("valid", [False, True])
def test_metrics_without_an_output_are_an_error_before_the_first_step(tmp_path, valid):
    model = classifier()

    def objective(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(ObjectiveError, match=r"metrics need the model's output.*treadle.Outcome\(loss, output=..., target=...\)"):
        treadle.train(
            model,
            objective,
            classes(20),
            valid=classes(20) if valid else None,
            optimizer=SGD,
            metrics={"accuracy": Accuracy()},
            config=config(tmp_path),
        )
    assert torch.equal(model.weight, classifier().weight)
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Accuracy, r"'accuracy' is a class; call it: Accuracy\(\)"),
        (lambda output, target: 0.0, r"'accuracy' is without update, compute, reset\(\)"),
    ],
    ids=["class", "function"],
)
def test_what_is_no_metric_is_refused(tmp_path, metric, message):
    with pytest.raises(ObjectiveError, match=message):
        treadle.Trainer(classifier(), nn.CrossEntropyLoss(), classes(8), optimizer=SGD, metrics={"accuracy": metric}, config=config(tmp_path))


def test_a_metric_that_raises_is_named(tmp_path):
    metrics = {"good": Accuracy(), "bad": Accuracy(top_k=9)}
    with pytest.raises(ObjectiveError, match="top_k=9") as caught:
        treadle.train(classifier(), nn.CrossEntropyLoss(), classes(8), optimizer=SGD, metrics=metrics, config=config(tmp_path))
    assert "raised by the metric 'bad' (Accuracy)" in caught.value.__notes__


def test_a_metric_with_several_numbers_comes_as_a_tensor_and_is_a_list_in_the_journal(tmp_path):
    (x, y), model = classes(30), classifier()
    settings = config(tmp_path, 8, "1 epoch")
    trainer = treadle.Trainer(
        model, nn.CrossEntropyLoss(), (x, y), valid=(x, y), optimizer=SGD, metrics={"confusion": ConfusionMatrix(4)}, config=settings
    )
    trainer.fit()
    expected = torch.zeros(4, 4, dtype=torch.int64)
    with torch.no_grad():
        for answer, truth in zip(model(x).argmax(1), y, strict=True):
            expected[truth, answer] += 1
    assert torch.equal(trainer.evaluate((x, y))["confusion"], expected)
    assert [row["valid/confusion"] for row in treadle.read_journal(tmp_path) if "valid/confusion" in row] == [expected.tolist()]


def test_evaluate_gives_an_objective_the_last_values_of_its_schedules(tmp_path):
    seen = []

    def objective(model, batch, *, temperature):
        seen.append(temperature)
        return F.cross_entropy(model(batch[0]) / temperature, batch[1])

    trainer = treadle.Trainer(
        classifier(),
        objective,
        classes(32),
        optimizer=SGD,
        schedules={"temperature": treadle.schedules.exponential(8.0, 0.5, every="1 step")},
        config=config(tmp_path, 8, "3 steps"),
    )
    trainer.fit()
    trainer.evaluate(classes(8))
    assert seen == [8.0, 8.0, 4.0, 2.0, 2.0]  # the preflight, three steps, the evaluation


class Counts(nn.Linear):
    """Keeps a state in a buffer, whatever its mode."""

    def __init__(self):
        super().__init__(6, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


def test_a_state_that_a_model_carries_in_a_buffer_goes_on_after_an_evaluation_from_where_it_was(tmp_path):
    x, y = classes(200)
    trainer = treadle.Trainer(Counts, nn.CrossEntropyLoss(), (x, y), valid=(x, y), optimizer=SGD, config=config(tmp_path, 50, "8 steps"))
    seen = []
    trainer.on("step_finished")(lambda run: seen.append(float(trainer.model.seen)))
    trainer.fit()
    trainer.evaluate((x, y))
    trainer.predict(x)
    assert seen == [50.0 * step for step in range(1, 9)]
    assert float(trainer.model.seen) == 400
