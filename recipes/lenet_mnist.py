"""LeNet-5 on MNIST: the demo. Copy it and edit.

    treadle demo                                          # this file
    treadle train recipes/lenet_mnist.py duration="3 epochs" peak_lr=1e-3

An experiment is a function from a config to a Trainer: here, at the end of the file.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt
from torch import nn

import treadle
from treadle.metrics import Accuracy

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class LeNetConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/lenet-mnist/{n}"
    duration: str = "5 epochs"
    batch_size: int = 64
    seed: int = 42
    evaluate: treadle.EvaluateConfig = field(default_factory=lambda: treadle.EvaluateConfig(batch_size=500))
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/accuracy", mode="max"))
    peak_lr: Annotated[float, Gt(0)] = 6e-3
    """Highest learning rate of the one-cycle schedule."""


# --- 2. The model ---


class LeNet5(nn.Module):
    """LeNet-5: float32 images (N, 1, 32, 32) -> scores (N, 10).

    LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998, section II.B; with
    ReLU and max pooling in place of tanh and trained averages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, 10),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(images))
        return scores


# --- 3. The data ---


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (n, height, width), and labels, int64 (n,), of "train" or "test"."""
    try:
        import treadle_mnist
    except ImportError:
        return read_digits(split)
    return treadle_mnist.load(split)


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The fallback: 1,797 small digits that come with scikit-learn; the last 360 are the test."""
    print(
        "The package treadle-mnist is not installed (pip install ./packages/treadle-mnist): "
        "using scikit-learn's 1,797 digits of 8x8 pixels in place of MNIST."
    )
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("scikit-learn is not installed either: pip install ./packages/treadle-mnist, or pip install scikit-learn") from None
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8).repeat(3, axis=1).repeat(3, axis=2)
    part = slice(None, -360) if split == "train" else slice(-360, None)
    return images[part], digits.target[part].astype(np.int64)


def samples(images: np.ndarray, labels: np.ndarray) -> treadle.Samples:
    """Images that stay uint8 in memory, and are padded to 32x32 and scaled to [0, 1] a batch at a time."""
    return treadle.Samples((images, labels), prepare=treadle.data.Images(size=32))


def train_and_valid() -> tuple[treadle.Samples, treadle.Samples]:
    """The training images, split once and for all: 55,000 to learn from, 5,000 to choose by (of the digits, a twelfth)."""
    images, labels = read("train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).numpy()
    train, valid = order[len(labels) // 12 :], order[: len(labels) // 12]
    return samples(images[train], labels[train]), samples(images[valid], labels[valid])


def test_set() -> treadle.Samples:
    """The 10,000 official test images: for the end, and for nothing else."""
    return samples(*read("test"))


# --- 4. The experiment ---


def experiment(config: LeNetConfig) -> treadle.Trainer:
    train, valid = train_and_valid()
    return treadle.Trainer(
        LeNet5,
        nn.CrossEntropyLoss(),
        train,
        valid=valid,
        test=test_set(),  # not to train or choose by: only looked through for images that are in the training data, too
        optimizer=partial(torch.optim.AdamW, lr=config.peak_lr),
        schedules={"lr": treadle.schedules.one_cycle(config.peak_lr)},
        metrics={"accuracy": Accuracy()},
        config=config,
    )
