"""SAM, on scikit-learn's digits with wrong labels: two passes over each batch, and one update.

    treadle train recipes/sam.py
    treadle train recipes/sam.py rho=0.0              # plain SGD, to compare with: treadle plot results/sam/*

The first pass says where the loss grows fastest; the second takes the gradient a step of length `rho` up that way, and the
update is made with that gradient from where the weights were. It looks for flat minima, which hold less of what is wrong in
the labels. Foret, Kleiner, Mobahi and Neyshabur, Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021,
algorithm 1 and section 3.3.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class SAMConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/sam/{n}"
    duration: str = "40 epochs"
    batch_size: int = 64
    seed: int = 42
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/accuracy", mode="max"))
    rho: Annotated[float, Interval(ge=0)] = 0.2
    """How far up the gradient the second pass looks, in the norm of all weights."""
    wrong: Annotated[float, Interval(ge=0, lt=1)] = 0.4
    """Share of the training labels that are drawn anew, at random."""
    lr: Annotated[float, Gt(0)] = 0.1
    """Learning rate at the beginning; it falls to zero along half a cosine."""


# --- 2. The step ---


@contextmanager
def uphill(gradient: Mapping[torch.Tensor, torch.Tensor], rho: float) -> Iterator[None]:
    """The weights a step of length `rho` up the gradient; afterwards as they were."""
    before = [weight.detach().clone() for weight in gradient]
    length = nn.utils.get_total_norm(gradient.values()) + 1e-12
    with torch.no_grad():
        for weight, grad in gradient.items():
            weight += grad * (rho / length)
    yield
    with torch.no_grad():
        for weight, was in zip(gradient, before, strict=True):
            weight.copy_(was)


def sam(step: treadle.Step, model: nn.Module, optimizer: torch.optim.Optimizer, rho: float) -> None:
    """The gradient here says where to look, the gradient there is the one that counts."""
    for images, labels in step:
        step.backward(cross_entropy(model(images), labels))
    with uphill(step.take_gradient(optimizer), rho):
        for images, labels in step:
            step.backward(cross_entropy(model(images), labels), log=False)
    step.update(optimizer)


# --- 3. The model and the data ---


def network() -> nn.Sequential:
    """Images (N, 1, 8, 8) -> scores (N, 10)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def digits(part: slice, wrong: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, float32 (n, 1, 8, 8) in 0..1, and labels, int64 (n,), some of them drawn anew."""
    images, labels = (torch.from_numpy(column[part]) for column in load_digits(return_X_y=True))
    chance = torch.Generator().manual_seed(0)
    anew = torch.rand(len(labels), generator=chance) < wrong
    labels = torch.where(anew, torch.randint(10, labels.shape, generator=chance), labels)
    return images.float().view(-1, 1, 8, 8) / 16, labels


# --- 4. The experiment ---


def experiment(config: SAMConfig) -> treadle.Trainer:
    return treadle.Trainer(
        network,
        nn.CrossEntropyLoss(),
        digits(slice(None, -360), config.wrong),
        valid=digits(slice(-360, None)),  # by other writers, with the right labels
        step=partial(sam, rho=config.rho),
        optimizer=partial(torch.optim.SGD, lr=config.lr, momentum=0.9),
        schedules={"lr": treadle.schedules.cosine(config.lr)},
        metrics={"accuracy": Accuracy()},
        config=config,
    )
