"""L-BFGS on scikit-learn's digits: an optimizer that asks for the loss as often as it likes, through a closure.

    treadle train recipes/lbfgs.py
    treadle train recipes/lbfgs.py decay=0.1

Softmax regression is convex, so there is one best answer, and the run ends when the gradient is all but zero. Every step sees all
images, for a line search needs one and the same function; `machine.micro_batch=500` cuts them into parts that fit into memory, and
changes nothing. Liu and Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, 1989.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt, Interval
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import treadle
from treadle.metrics import Accuracy

TRAIN = 1437
"""Images to learn from: four of five, by other writers than the rest."""

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class ConvexConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/lbfgs/{n}"
    duration: str = "100 steps"
    batch_size: int = TRAIN
    seed: int = 42
    log: treadle.LogConfig = field(default_factory=lambda: treadle.LogConfig(every="1 step"))
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(every="5 steps"))
    evaluate: treadle.EvaluateConfig = field(default_factory=lambda: treadle.EvaluateConfig(every="5 steps"))
    decay: Annotated[float, Interval(ge=0)] = 1e-3
    """Weight of half the sum of squares of the weights in the loss."""
    tolerance: Annotated[float, Gt(0)] = 1e-4
    """The run is over when the norm of the gradient is below this."""


# --- 2. The objective and the step ---


def penalised(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], decay: float) -> torch.Tensor:
    """Cross entropy and a penalty, which makes the best weights finite."""
    images, labels = batch
    loss: torch.Tensor = cross_entropy(model(images), labels)
    return loss + decay / 2 * sum(weight.square().sum() for weight in model.parameters())


def by_closure(step: treadle.Step, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
    """One update: four iterations of L-BFGS, with as many evaluations of loss and gradient as their line searches take."""

    def closure() -> None:
        for batch in step:
            step.backward(penalised(model, batch, decay))

    step.update(optimizer, closure=closure)
    step.run.log({"train/grad_norm": step.grad_norm})


# --- 3. The data ---


def digits() -> tuple[treadle.Samples, treadle.Samples]:
    """Images, float32 (N, 64) in 0..1, and labels; in the order of the file, so that nobody wrote for both."""
    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    train, valid = (tuple(column[part] for column in data) for part in (slice(TRAIN), slice(TRAIN, None)))
    return treadle.Samples(train, sampler="sequential"), treadle.Samples(valid)


# --- 4. The experiment ---


def experiment(config: ConvexConfig) -> treadle.Trainer:
    train, valid = digits()
    return treadle.Trainer(
        partial(nn.Linear, 64, 10),
        nn.CrossEntropyLoss(),
        train,
        valid=valid,
        step=partial(by_closure, decay=config.decay),
        optimizer=partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
        handlers=[treadle.StopWhen(lambda run: run.latest("train/grad_norm", default=1.0) < config.tolerance, reason="the gradient is zero")],
        metrics={"accuracy": Accuracy()},
        config=config,
    )
