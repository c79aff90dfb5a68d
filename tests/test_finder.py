"""The learning rate finder: it finds what is there, and leaves everything as it found it, to the bit."""

import copy
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import treadle
from guarantees.remains import bits, first_difference
from lives import quiet, rows
from treadle.checkpoint.restore import read_checkpoint
from treadle.core.errors import ConfigError, UsageError
from treadle.finder import LearningRates, _smoothed, _steepest, _until_diverged
from treadle.metrics import Accuracy
from treadle.system.seed import get_rng_state

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(96, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 3, generator=GENERATOR)).argmax(1)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def build():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


class Noisy(torch.utils.data.Dataset):
    """Samples with noise from a generator of its own, and from the process's."""

    def __init__(self):
        self.own = np.random.default_rng(5)

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + 0.1 * torch.randn(6) + 0.1 * float(self.own.random()) + random.random() * 0.01, Y[index]


def trainer(folder, data=(X, Y), optimizer=SGD, **given):
    config = quiet(folder, **{"batch_size": 16, "duration": "2 epochs", **given})
    return treadle.Trainer(
        build, nn.CrossEntropyLoss(), data, valid=(X, Y), optimizer=optimizer, metrics={"accuracy": Accuracy()},
        schedules={"lr": treadle.schedules.cosine(0.1)}, handlers=[treadle.EarlyStop("valid/loss")], config=config,
    )  # fmt: skip


def state(one, optimizer=None):
    """Everything that a finder could leave changed."""
    return bits(
        {
            "model": one.model.state_dict(),
            "modes": [module.training for module in one.model.modules()],
            "gradients": [p.grad for p in one.model.parameters()],
            "places": [p.data_ptr() for p in one.model.parameters()],
            "needs": [p.requires_grad for p in one.model.parameters()],
            "metrics": {name: value for name, value in vars(one.metrics).items() if isinstance(value, torch.Tensor)},
            "optimizer": copy.deepcopy(optimizer.state_dict()) if optimizer else None,
            "generators": get_rng_state(),
            "trainer": list(vars(one)),
            "data": one.data.own.bit_generator.state if isinstance(one.data, Noisy) else None,
        }
    )


@pytest.mark.parametrize("data", [(X, Y), Noisy()], ids=["tensors", "augmented"])
@pytest.mark.parametrize("workers", [0, 1])
def test_everything_is_as_it_was_found(tmp_path, data, workers):
    one = trainer(tmp_path / "run", data, machine=treadle.MachineConfig(device="cpu", workers=workers))
    one.model[3].eval()
    one.model[0].weight.grad = torch.ones(8, 6)
    before, training = state(one), dict(vars(one))
    treadle.find_lr(one, steps=20)
    assert first_difference(before, state(one)) is None
    assert all(value is training[name] for name, value in vars(one).items())
    assert not (tmp_path / "run").exists()


def test_a_built_optimizer_is_as_it_was_found(tmp_path):
    model = build()
    optimizer = torch.optim.Adam([{"params": model[0].parameters(), "lr": 0.01}, {"params": model[4].parameters(), "lr": 0.1}])
    model(X).sum().backward()
    optimizer.step()
    config = quiet(tmp_path / "run", batch_size=16)
    one = treadle.Trainer(model, nn.CrossEntropyLoss(), (X, Y), optimizer=optimizer, config=config)
    before = state(one, optimizer)
    treadle.find_lr(one, steps=20)
    assert first_difference(before, state(one, optimizer)) is None


def test_everything_is_as_it_was_found_where_the_users_code_raises(tmp_path):
    def objective(model, batch):
        x, y = batch
        calls.append(1)
        if len(calls) == 5:
            raise ZeroDivisionError("mine")
        return nn.functional.cross_entropy(model(x), y)

    calls: list[int] = []
    one = treadle.Trainer(build, objective, (X, Y), optimizer=SGD, config=quiet(tmp_path, batch_size=16))
    before = state(one)
    with pytest.raises(ZeroDivisionError, match="mine"):
        treadle.find_lr(one)
    assert first_difference(before, state(one)) is None


@pytest.mark.parametrize("data", [(X, Y), Noisy], ids=["tensors", "augmented"])
def test_a_fit_after_it_has_the_bits_of_a_fit_without(tmp_path, data):
    results = []
    for name in ("with", "without"):
        one = trainer(tmp_path / name, data if isinstance(data, tuple) else data())
        if name == "with":
            assert treadle.find_lr(one, steps=30).losses
        results.append(one.fit())
    one, other = (bits(read_checkpoint(result.last)[0]) for result in results)
    one["run"].pop("journal"), other["run"].pop("journal")
    assert first_difference(one, other) is None
    assert rows(results[0].run_dir) == rows(results[1].run_dir)


def test_called_twice_it_says_the_same(tmp_path):
    one = trainer(tmp_path)
    assert treadle.find_lr(one, steps=30) == treadle.find_lr(one, steps=30)


def test_it_trains_on_rising_rates_with_the_trainers_own_step(tmp_path):
    """The losses are those of a plain loop."""
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(3)), torch.randn(64, 1, generator=torch.Generator().manual_seed(4))
    config = quiet(tmp_path, batch_size=16, clip=0.5, data=treadle.DataConfig(sampler="sequential"))
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    plain = copy.deepcopy(model)
    found = treadle.find_lr(treadle.Trainer(model, nn.MSELoss(), data, optimizer=SGD, config=config), low=1e-3, high=0.5, steps=12)
    optimizer, losses = SGD(plain.parameters()), []
    for step, rate in enumerate(found.lrs):
        place = step % 4 * 16
        optimizer.param_groups[0]["lr"] = rate
        loss = nn.functional.mse_loss(plain(data[0][place : place + 16]), data[1][place : place + 16])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert found.losses == losses
    assert (found.lrs[0], found.lrs[-1]) == (pytest.approx(1e-3), pytest.approx(0.5))
    assert [b / a for a, b in zip(found.lrs, found.lrs[1:], strict=False)] == pytest.approx([500 ** (1 / 11)] * 11)


@pytest.mark.parametrize("micro", [None, 5])
def test_it_suggests_a_rate_that_trains_and_ends_where_the_loss_explodes(tmp_path, micro):
    """Of a least squares problem it is known which rates converge: those below 2 over the largest eigenvalue."""
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(5))
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    config = quiet(tmp_path, batch_size=64, machine=treadle.MachineConfig(device="cpu", micro_batch=micro))
    sgd = partial(torch.optim.SGD, lr=1.0)
    found = treadle.find_lr(treadle.Trainer(nn.Linear(4, 1), nn.MSELoss(), (x, y), optimizer=sgd, config=config))
    highest = 2 / (2 * torch.linalg.eigvalsh(x.T @ x / 256).max().item())
    assert found.diverged and len(found.lrs) == len(found.losses) == len(found.smoothed) < 100
    assert highest / 100 < found.suggestion < highest < found.lrs[-1]


def play(step, models, optimizers):
    seen.append({name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()})
    for name in models:
        for x, y in step:
            step.backward(nn.functional.mse_loss(models[name](x), y[:, None].float()))
        step.update(optimizers[name])


seen: list[dict[str, float]] = []


@pytest.mark.parametrize("name", [None, "G"])
def test_of_several_optimizers_all_rise_or_one_by_its_name(tmp_path, name):
    seen.clear()
    models = {"G": nn.Linear(6, 1), "D": nn.Linear(6, 1)}
    factories = {"G": partial(torch.optim.SGD, lr=0.1), "D": partial(torch.optim.SGD, lr=0.02)}
    one = treadle.Trainer(models, None, (X, Y), optimizer=factories, step=play, config=quiet(tmp_path, batch_size=16))
    found = treadle.find_lr(one, steps=10, high=1e-3, optimizer=name)
    assert [rates["G"] for rates in seen] == pytest.approx(found.lrs)
    assert [rates["D"] for rates in seen] == pytest.approx([0.02] * 10 if name else [0.2 * rate for rate in found.lrs])
    with pytest.raises(ConfigError, match=r"no optimizer 'GG'; did you mean 'G'\?"):
        treadle.find_lr(one, optimizer="GG")


def test_of_one_optimizer_there_is_no_name(tmp_path):
    with pytest.raises(ConfigError, match="no optimizer 'G'; this trainer has one, without a name"):
        treadle.find_lr(trainer(tmp_path), optimizer="G")


def test_other_schedules_have_their_values(tmp_path):
    def objective(model, batch, weight):
        taken.append(weight)
        return (model(batch[0]) * weight).square().mean()

    taken: list[float] = []
    config = quiet(tmp_path, batch_size=16, duration="20 steps")
    schedules = {"weight": treadle.schedules.linear(1.0, 0.0), "lr": treadle.schedules.constant(3.0)}
    one = treadle.Trainer(nn.Linear(6, 1), objective, (X, Y), optimizer=SGD, schedules=schedules, config=config)
    treadle.find_lr(one, steps=10, high=1e-3)
    assert taken == pytest.approx([1 - step / 20 for step in range(10)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 0.0}, "low and high must be positive.*got 0.0 and 10.0"),
        ({"low": 1.0, "high": 0.1}, "low the smaller one, got 1.0 and 0.1"),
        ({"high": math.inf}, "must be positive"),
        ({"steps": 9}, "steps must be at least 10, got 9"),
        ({"steps": "100"}, "steps must be at least 10, got '100'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        treadle.find_lr(trainer(tmp_path), **given)


def test_an_iterator_is_not_used_up(tmp_path):
    items = iter([(X[:4], Y[:4])] * 3)
    one = treadle.Trainer(build, nn.CrossEntropyLoss(), treadle.Batches(items), optimizer=SGD, config=quiet(tmp_path, duration="3 steps"))
    with pytest.raises(UsageError, match="would use up the data"):
        treadle.find_lr(one)
    assert len(list(items)) == 3


def test_a_loss_that_is_wrong_from_the_beginning_is_an_error(tmp_path):
    one = treadle.Trainer(build, lambda model, batch: model(batch[0]).sum() * math.nan, (X, Y), optimizer=SGD, config=quiet(tmp_path))
    with pytest.raises(UsageError, match="the loss of the first step is not finite"):
        treadle.find_lr(one)


# --- the curve ---


def test_the_suggestion_is_the_steepest_place_before_the_lowest():
    rates = [10.0**power for power in range(6)]
    assert _steepest(rates, [5.0, 4.9, 3.0, 2.5, 9.0, 3.0]) == pytest.approx(10**1.5)
    assert _steepest(rates, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) is None


def test_smoothing_keeps_a_line_in_the_middle_and_a_constant_everywhere():
    assert _smoothed([2.0] * 9, 2.0) == pytest.approx([2.0] * 9)
    line = [float(place) for place in range(40)]
    assert _smoothed(line, 2.0)[10:30] == pytest.approx(line[10:30])


@pytest.mark.parametrize(
    ("losses", "length"),
    [([1.0, math.nan, 1.0], 1), ([1.0] * 5 + [math.inf], 5), ([1.0] * 10 + [1e6] * 5, 11), ([-1.0, -2.0, -3.0, 20.0], 4), ([3.0, 2.0, 1.0], 3)],
)
def test_the_end_is_where_the_loss_explodes(losses, length):
    assert len(_until_diverged(loss for loss in losses)) == length


@pytest.mark.parametrize("name", ["rates.png", "rates.svg"])
def test_the_curve_can_be_drawn(tmp_path, name):
    found = LearningRates([1e-3, 1e-2, 1e-1], [3.0, 2.0, 5.0], [3.0, 2.5, 4.0], 0.003, True)
    assert found.plot(tmp_path / name) == tmp_path / name
    assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(UsageError, match="must end in"):
        found.plot(tmp_path / "rates.bmp")


# --- with what a Trainer takes besides ---


def test_a_lazy_model_and_two_optimizers_of_one_model(tmp_path):
    def make(folder):
        model = lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))  # noqa: E731
        matrices = (partial(torch.optim.SGD, lr=0.1), lambda name, parameter: parameter.ndim == 2)
        factories = {"first": matrices, "second": partial(torch.optim.Adam, lr=0.01)}
        config = quiet(folder, batch_size=16)
        return treadle.Trainer(model, nn.CrossEntropyLoss(), (X, Y), optimizer=factories, config=config)

    with_it, without = make(tmp_path / "with"), make(tmp_path / "without")
    assert treadle.find_lr(with_it, steps=12, high=1.0, optimizer="second").losses
    assert rows(with_it.fit().run_dir) == rows(without.fit().run_dir)


def test_a_body_that_takes_the_rate_gets_it(tmp_path):
    def body(step, model, optimizer, *, lr):
        taken.append((lr, optimizer.param_groups[0]["lr"]))
        for x, y in step:
            step.backward(nn.functional.cross_entropy(model(x), y))
        step.update(optimizer)

    taken: list[tuple[float, float]] = []
    schedules = {"lr": treadle.schedules.cosine(0.1)}
    one = treadle.Trainer(build, None, (X, Y), optimizer=SGD, step=body, schedules=schedules, config=quiet(tmp_path, batch_size=16))
    found = treadle.find_lr(one, steps=10, high=1e-3)
    assert [rate for rate, _ in taken] == found.lrs == pytest.approx([rate for _, rate in taken])
