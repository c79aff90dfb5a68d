"""An evaluation and a prediction leave everything as it was found: also where something raises, and whatever mode they are called in."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import treadle
from treadle.metrics import Accuracy

QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(2))


class Odd(nn.Module):
    """Dropout, BatchNorm, and a part that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).requires_grad_(False).eval()
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.body(x)))  # type: ignore[no-any-return]


def meddling(model: Odd, batch: Any) -> treadle.Outcome:
    """An objective that moves whatever an objective can move."""
    random.random(), np.random.rand(), torch.rand(1)
    model.train()
    model.frozen.requires_grad_(True)
    model.head.weight.requires_grad_(False)
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", True)
    output = model(batch[0])
    torch.set_autocast_enabled("cpu", False)
    return treadle.Outcome(F.cross_entropy(output, batch[1]), output, batch[1])


def meddling_and_failing(model: Odd, batch: Any) -> treadle.Outcome:
    meddling(model, batch)
    torch.set_autocast_enabled("cpu", True)
    raise ZeroDivisionError


class Breaks:
    """A metric that raises where it is told to."""

    def __init__(self, where: str) -> None:
        self._where, self.seen = where, 0

    def reset(self) -> None:
        self.seen = 0

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.seen += len(target)
        if self._where == "update" and self.seen > 16:
            raise ZeroDivisionError

    def compute(self) -> float:
        if self._where == "compute":
            raise ZeroDivisionError
        return float(self.seen)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that could be moved, as values that can be compared."""
    keys, position = np.random.get_state()[1:3]  # type: ignore[misc]
    return {
        "state": {key: value.tolist() for key, value in model.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "random": [random.getstate(), torch.get_rng_state().tolist(), keys.tolist(), position],
        "grad mode": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
    }


def trainer(objective: Any, **given: Any) -> treadle.Trainer:
    config = treadle.Config(run_dir="run", duration="1 epoch", batch_size=16, log=QUIET)
    return treadle.Trainer(Odd(), objective, (X, Y), optimizer=partial(torch.optim.SGD, lr=0.1), config=config, **given)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize("objective", [meddling, meddling_and_failing])
def test_everything_is_as_it_was_found(objective: Any, verb: str, context: Callable[[], AbstractContextManager[Any]]) -> None:
    given = trainer(objective)
    F.cross_entropy(given.model(X), Y).backward()
    with context():
        before = everything(given.model)
        if objective is meddling:
            getattr(given, verb)((X, Y))
        else:
            with pytest.raises(ZeroDivisionError):
                getattr(given, verb)((X, Y))
        assert everything(given.model) == before
    assert before["modes"].count(False) == 3 and before["requires"].count(False) == 4  # the frozen part, and nothing else


@pytest.mark.parametrize("where", ["update", "compute"])
def test_a_metric_that_raises_is_named_and_leaves_everything_as_it_was(where: str) -> None:
    metric = Breaks(where)
    given = trainer(nn.CrossEntropyLoss())
    before = everything(given.model)
    with pytest.raises(ZeroDivisionError) as caught:
        given.evaluate((X, Y), metrics={"good": Accuracy(), "bad": metric})
    assert caught.value.__notes__ == ["raised by the metric 'bad' (Breaks)"]
    assert everything(given.model) == before and metric.seen == 0


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_a_run_that_is_evaluated_inside_a_mode_trains_on_with_the_same_bits(context: Callable[[], AbstractContextManager[Any]]) -> None:
    """What an inference mode makes could not be used by training: neither a metric's counts nor a model's buffers may be of it."""

    def left(folder: str, context: Callable[[], AbstractContextManager[Any]] | None) -> dict[str, Any]:
        model, metrics = Odd(), {"accuracy": Accuracy()}
        with treadle.Run(treadle.Config(run_dir=folder, duration="3 epochs", batch_size=16, seed=3, log=QUIET)) as run:
            model, optimizer = run.prepare(model, partial(torch.optim.SGD, lr=0.1))
            run.track(model=model, optimizer=optimizer)
            for step in run.steps((X, Y)):
                for x, y in step:
                    step.backward(F.cross_entropy(model(x), y))
                step.update(optimizer)
                if context is not None:
                    with context():
                        run.evaluate(model, nn.CrossEntropyLoss(), (X, Y), metrics)
        return {key: value.tolist() for key, value in model.state_dict().items()}

    assert left("with", context) == left("without", None)
    assert Path("with/run.json").exists()
