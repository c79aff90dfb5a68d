"""What may stand for an objective, and which structures a batch may have."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle
from treadle.core.errors import ObjectiveError

SGD = partial(torch.optim.SGD, lr=0.1)


def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, generator=generator), torch.randint(0, 2, (20,), generator=generator)


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


class WithLoss(nn.Module):
    """A model that computes its own loss, as Hugging Face's do."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = linear(), kind

    def forward(self, pixels, labels):
        logits = self.inner(pixels)
        return self.kind(loss=F.cross_entropy(logits, labels), logits=logits)


class TensorLoss(WithLoss):
    def forward(self, pixels, labels):
        return super().forward(pixels, labels).loss


def run(tmp_path, model, objective, data, **given):
    config = treadle.Config(
        run_dir=str(tmp_path / "run"),
        duration="2 epochs",
        batch_size=8,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    return treadle.train(model, objective, data, optimizer=SGD, config=config, **given)


def as_dict(x, y):
    return {"pixels": x, "labels": y}


def nested(x, y):
    return [({"left": x[i, :1], "right": (x[i, 1:],)}, [y[i]]) for i in range(len(x))]


def plain(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def with_outcome(model, batch):
    x, y = batch
    output = model(x)
    return treadle.Outcome(F.cross_entropy(output, y), output, y)


def of_nested(model, batch):
    parts, (y,) = batch
    return F.cross_entropy(model(torch.cat([parts["left"], *parts["right"]], 1)), y)


CASES = {
    "loss module": (linear, nn.CrossEntropyLoss(), lambda x, y: (x, y)),
    "function": (linear, plain, lambda x, y: (x, y)),
    "function with outcome": (linear, with_outcome, lambda x, y: (x, y)),
    "supervised function": (linear, treadle.supervised(F.cross_entropy), lambda x, y: (x, y)),
    "list of samples": (linear, plain, lambda x, y: list(zip(x, y, strict=True))),
    "fields of a dict": (linear, treadle.supervised(nn.CrossEntropyLoss(), input="pixels", target="labels"), as_dict),
    "object with loss": (lambda: WithLoss(SimpleNamespace), None, as_dict),
    "dict with loss": (lambda: WithLoss(dict), None, as_dict),
    "model with loss, pairs": (lambda: WithLoss(SimpleNamespace), None, lambda x, y: (x, y)),
    "model that returns its loss": (lambda: TensorLoss(SimpleNamespace), None, as_dict),
    "nested batch": (linear, of_nested, nested),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_kind_of_objective_and_batch_trains_the_same_weights(tmp_path, case):
    build, objective, shaped = case
    reference, model = linear(), build()
    run(tmp_path / "reference", reference, nn.CrossEntropyLoss(), pairs())
    run(tmp_path / "case", model, objective, shaped(*pairs()))
    assert not torch.equal(reference.weight, linear().weight)
    torch.testing.assert_close(list(model.parameters()), list(reference.parameters()), rtol=1e-6, atol=1e-7)


def test_a_model_with_its_own_loss_feeds_the_metrics(tmp_path):
    model, (x, y) = WithLoss(SimpleNamespace), pairs()
    metrics = {"accuracy": treadle.metrics.Accuracy()}
    result = run(tmp_path, model, None, as_dict(x, y), valid=as_dict(x, y), metrics=metrics)
    assert result.metrics["valid/accuracy"] == pytest.approx((model.inner(x).argmax(1) == y).double().mean().item())


@pytest.mark.parametrize(
    ("fields", "hint"),
    [({"input": "pixles", "target": "labels"}, "'pixles'; did you mean 'pixels'"), ({"input": "pixels", "target": "label"}, "did you mean 'labels'")],
)
def test_a_misspelt_field_is_named_with_the_nearest_one(tmp_path, fields, hint):
    with pytest.raises(ObjectiveError, match=hint):
        run(tmp_path, linear(), treadle.supervised(nn.CrossEntropyLoss(), **fields), as_dict(*pairs()))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_loss_that_does_not_average_is_refused(reduction):
    with pytest.raises(ObjectiveError, match=f"reduction='{reduction}'.*use reduction='mean'"):
        treadle.supervised(nn.CrossEntropyLoss(reduction=reduction))


@pytest.mark.parametrize("given", ["cross_entropy", 3, [nn.MSELoss()]])
def test_what_is_no_objective_is_refused(tmp_path, given):
    with pytest.raises(ObjectiveError, match="objective must be a loss module or a callable"):
        run(tmp_path, linear(), given, pairs())


@pytest.mark.parametrize("answer", [None, 0.5, {"logits": 1}, (1, 2)], ids=repr)
def test_an_objective_that_returns_no_loss_is_told_what_to_return(tmp_path, answer):
    with pytest.raises(ObjectiveError, match="without a loss; return a scalar tensor"):
        run(tmp_path, linear(), lambda model, batch: answer, pairs())


def test_a_loss_module_refuses_a_batch_that_is_no_pair(tmp_path):
    x, y = pairs()
    with pytest.raises(ObjectiveError, match=r"needs batches of \(input, target\).*float32\[8, 3\], int64\[8\], int64\[8\]"):
        run(tmp_path, linear(), nn.CrossEntropyLoss(), (x, y, y))


@pytest.mark.parametrize("target_shape", [(20,), (20, 1, 1)])
def test_shapes_that_torch_would_broadcast_are_refused(tmp_path, target_shape):
    x, _ = pairs()
    with pytest.raises(ObjectiveError, match="broadcast"):
        run(tmp_path, nn.Linear(3, 1), nn.MSELoss(), (x, torch.zeros(target_shape)))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.full((20,), 2), r"labels must be in 0\.\.1; the data has 2"),
        (torch.tensor([0] * 19 + [-1]), "the data has -1"),
        (torch.zeros(20), "targets are float32"),
        (torch.zeros(20, dtype=torch.bool), "targets are bool"),
    ],
    ids=["too large", "one negative", "float", "bool"],
)
def test_targets_that_are_no_classes_are_refused_before_the_first_step(tmp_path, target, message):
    model = linear()
    with pytest.raises(ObjectiveError, match=message):
        run(tmp_path, model, nn.CrossEntropyLoss(), (pairs()[0], target))
    assert torch.equal(model.weight, linear().weight)
