"""Fine-tuning, on scikit-learn's digits: a ResNet that knows 0 to 6 learns 7, 8 and 9 from a few images, its head first.

    treadle train recipes/finetune.py
    treadle train recipes/finetune.py weights=resnet.safetensors unfreeze="10 epochs"

The weights come from a file on this machine: a checkpoint of Treadle's, or a `.safetensors` file such as
`safetensors.torch.save_file(model.state_dict(), "resnet.safetensors")` writes. Where none is named, a short run on the other
digits makes it once. The body is frozen (no gradient, no optimizer group, BatchNorm's statistics stay) until `unfreeze`; then it
learns, too, at a tenth of the learning rate. The network has the names and blocks of torchvision's `resnet18`, in small: He,
Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import relu

import treadle
from treadle.metrics import Accuracy

KNOWN, NEW = (0, 1, 2, 3, 4, 5, 6), (7, 8, 9)

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/finetune/{n}"
    duration: str = "20 epochs"
    batch_size: int = 16
    seed: int = 42
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/accuracy", mode="max"))
    weights: str | None = None
    """Pretrained weights, a checkpoint or a .safetensors file; None makes them first."""
    pretraining: str = "5 epochs"
    """How long the run is that makes them."""
    unfreeze: str = "5 epochs"
    """When the body begins to learn."""
    images: Annotated[int, Gt(0)] = 60
    """How many images of the new digits there are to learn from."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Learning rate at the beginning; it falls to zero along half a cosine."""


# --- 2. The model ---


class BasicBlock(nn.Module):
    """Two convolutions, around which the input goes as it is, or through a convolution of its own where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = x if self.downsample is None else self.downsample(x)
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + around)


class ResNet(nn.Module):
    """Images (N, 1, 8, 8) -> scores (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2 = BasicBlock(16, 16, 1), BasicBlock(16, 32, 2)
        self.fc = nn.Linear(32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.layer2(self.layer1(relu(self.bn1(self.conv1(images)))))
        scores: torch.Tensor = self.fc(features.mean((2, 3)))
        return scores


# --- 3. The data ---


def digits(kinds: Sequence[int], part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of some digits, float32 (n, 1, 8, 8) in 0..1, and their places among these digits, int64 (n,)."""
    images, labels = (column[part] for column in load_digits(return_X_y=True))
    kept = np.isin(labels, kinds)
    return torch.tensor(images[kept] / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(np.searchsorted(kinds, labels[kept]))


# --- 4. The experiment ---

TRAIN, VALID = slice(None, -360), slice(-360, None)  # of other writers: they come one after the other
METRICS: dict[str, Any] = {"accuracy": Accuracy()}


def pretrained(config: FinetuneConfig) -> Path:
    """The checkpoint of a run on the digits that are known: it is trained once, and read from then on."""
    asked = treadle.Config(
        run_dir="results/finetune/pretrained", duration=config.pretraining, batch_size=64, seed=0, machine=config.machine, log=config.log
    )
    adamw = partial(torch.optim.AdamW, lr=5e-3)
    result = treadle.train(
        partial(ResNet, len(KNOWN)), nn.CrossEntropyLoss(), digits(KNOWN, TRAIN), valid=digits(KNOWN, VALID),
        optimizer=adamw, metrics=METRICS, config=asked,
    )  # fmt: skip
    assert result.last is not None
    return result.last


def experiment(config: FinetuneConfig) -> treadle.Trainer:
    weights = config.weights or pretrained(config)

    def model() -> nn.Module:
        known = treadle.load_weights(weights, ResNet(len(KNOWN)))
        known.fc = nn.Linear(32, len(NEW))
        return known

    images, labels = digits(NEW, TRAIN)
    return treadle.Trainer(
        model,
        nn.CrossEntropyLoss(),
        (images[: config.images], labels[: config.images]),
        valid=digits(NEW, VALID),
        optimizer=partial(torch.optim.AdamW, lr=config.lr),
        schedules={"lr": treadle.schedules.cosine(config.lr)},
        metrics=METRICS,
        handlers=[treadle.Freeze("conv1", "bn1", "layer1", "layer2", until=config.unfreeze, lr_scale=0.1)],
        config=config,
    )
