"""Mixup and CutMix, on scikit-learn's digits: batches are mixed before they are cut into micro-batches.

    treadle train recipes/mixup.py
    treadle train recipes/mixup.py mix=cutmix
    treadle train recipes/mixup.py mix=none                  # to compare with: treadle plot results/mixup/*

Two images become one, and its label becomes two, by their shares. Mixing is a preparation of the training data, so it is done
to whole batches, however they are cut, and not to the validation data. Zhang, Cisse, Dauphin and Lopez-Paz, mixup: Beyond
Empirical Risk Minimization, 2018, section 2; Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features, 2019, section 3.1.
"""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import one_hot

import treadle
from treadle.metrics import Accuracy

Batch = tuple[torch.Tensor, torch.Tensor]

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class MixConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/mixup/{n}"
    duration: str = "30 epochs"
    batch_size: int = 64
    seed: int = 42
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/accuracy", mode="max"))
    log: treadle.LogConfig = field(default_factory=lambda: treadle.LogConfig(train_metrics=False))  # a mixture is right about no one class
    mix: Literal["mixup", "cutmix", "none"] = "mixup"
    """How two images become one."""
    alpha: Annotated[float, Gt(0)] = 0.4
    """Of the Beta distribution that shares are drawn from: near 0 mixes little, 1 draws them evenly."""
    peak_lr: Annotated[float, Gt(0)] = 3e-3
    """Highest learning rate of the one-cycle schedule."""


# --- 2. Mixing ---


def mixup(batch: Batch, alpha: float) -> Batch:
    """Each image (N, C, H, W) over the one before it; labels become the shares of the classes (N, 10)."""
    images, labels = batch
    share = random.betavariate(alpha, alpha)
    return share * images + (1 - share) * images.roll(1, 0), shared(labels, share)


def cutmix(batch: Batch, alpha: float) -> Batch:
    """A rectangle of each image from the one before it; labels become the shares of the classes (N, 10)."""
    images, labels = batch
    height, width = images.shape[2:]
    side = (1 - random.betavariate(alpha, alpha)) ** 0.5
    high, wide = round(height * side), round(width * side)
    top, left = random.randint(0, height - high), random.randint(0, width - wide)
    mixed = images.clone()
    mixed[:, :, top : top + high, left : left + wide] = images.roll(1, 0)[:, :, top : top + high, left : left + wide]
    return mixed, shared(labels, 1 - high * wide / (height * width))


def shared(labels: torch.Tensor, share: float) -> torch.Tensor:
    """How much of each class is in a mixture with the sample before."""
    classes = one_hot(labels, 10)
    return share * classes + (1 - share) * classes.roll(1, 0)


# --- 3. The model and the data ---


def network() -> nn.Sequential:
    """Images (N, 1, 8, 8) -> scores (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def digits(part: slice) -> Batch:
    """Images, float32 (n, 1, 8, 8) in 0..1, and labels, int64 (n,)."""
    found = load_digits()
    return torch.tensor(found.images[part] / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(found.target[part])


# --- 4. The experiment ---


def experiment(config: MixConfig) -> treadle.Trainer:
    mix = {"mixup": partial(mixup, alpha=config.alpha), "cutmix": partial(cutmix, alpha=config.alpha), "none": None}[config.mix]
    return treadle.Trainer(
        network,
        nn.CrossEntropyLoss(),
        treadle.Samples(digits(slice(None, -360)), prepare=mix),
        valid=digits(slice(-360, None)),  # by other writers: they come one after the other
        optimizer=partial(torch.optim.AdamW, lr=config.peak_lr),
        schedules={"lr": treadle.schedules.one_cycle(config.peak_lr)},
        metrics={"accuracy": Accuracy()},
        config=config,
    )
