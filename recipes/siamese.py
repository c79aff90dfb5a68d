"""A siamese network with the triplet loss, on scikit-learn's digits: it learns which images are alike.

    treadle train recipes/siamese.py
    treadle train recipes/siamese.py margin=1.0 dimensions=64

A sample is a triplet: two images of the same digit, one of another. `valid/right` is how often the one of the same digit is
nearer, in the hands of other writers: 0.5 by chance, 0.83 by the distance of the pixels. The triplets are drawn where a
sample is made, with random generators that are seeded for each: the same ones in every process, and after a kill. Schroff,
Kalenichenko and Philbin, FaceNet: A Unified Embedding for Face Recognition and Clustering, 2015, section 3.1.
"""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import normalize, relu
from torch.utils.data import Dataset

import treadle

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class SiameseConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/siamese/{n}"
    duration: str = "10 epochs"
    batch_size: int = 64
    seed: int = 42
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/right", mode="max"))
    dimensions: Annotated[int, Gt(0)] = 16
    """Numbers in the embedding of an image."""
    margin: Annotated[float, Gt(0)] = 0.5
    """How much nearer the image of the same digit has to be, in squared distance, before there is nothing to learn."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate."""


# --- 2. The data ---

Triplet = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Triplets(Dataset[Triplet]):
    """For each image: itself, another of the same digit, one of another digit; float32 (1, 8, 8) in 0..1."""

    def __init__(self, part: slice) -> None:
        images, labels = load_digits().images[part], load_digits().target[part]
        self.images = torch.tensor(images / 16, dtype=torch.float32).unsqueeze(1)
        self.labels = labels
        self.alike = {digit: np.flatnonzero(labels == digit).tolist() for digit in range(10)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Triplet:
        own = int(self.labels[index])
        other = random.choice([digit for digit in self.alike if digit != own])
        return self.images[index], self.images[random.choice(self.alike[own])], self.images[random.choice(self.alike[other])]


# --- 3. The model ---


class Embedding(nn.Module):
    """Images (N, 1, 8, 8) -> embeddings of length one (N, dimensions)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 16, dimensions),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return normalize(self.net(images), dim=1)


# --- 4. The objective ---


def triplet(model: nn.Module, batch: Any, margin: float) -> treadle.Outcome:
    """One network for all three images: they go through it as one batch."""
    anchor, alike, other = model(torch.cat(batch)).chunk(3)
    near, far = (anchor - alike).square().sum(1), (anchor - other).square().sum(1)
    return treadle.Outcome(relu(near - far + margin).mean(), logs={"right": (near < far).float().mean()})


# --- 5. The experiment ---


def experiment(config: SiameseConfig) -> treadle.Trainer:
    return treadle.Trainer(
        partial(Embedding, config.dimensions),
        partial(triplet, margin=config.margin),
        Triplets(slice(None, -360)),
        valid=Triplets(slice(-360, None)),  # by other writers: they come one after the other
        optimizer=partial(torch.optim.Adam, lr=config.lr),
        config=config,
    )
