"""The data: three sets of (input, target) pairs. Replace it by your own: a tuple of tensors, or any torch Dataset."""

import csv
from pathlib import Path

import torch

FILE = Path(__file__).parents[1] / "data" / "penguins.csv"
SPECIES = ("Adelie", "Chinstrap", "Gentoo")
FEATURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")

Pairs = tuple[torch.Tensor, torch.Tensor]


def train_set() -> Pairs:
    """What the model learns from."""
    return _split()[0]


def valid_set() -> Pairs:
    """What you choose by: the best epoch, the best learning rate."""
    return _split()[1]


def test_set() -> Pairs:
    """For the end, and for nothing else."""
    return _split()[2]


def read() -> Pairs:
    """Every penguin that was measured: features, float32 (n, 4), and species, int64 (n,)."""
    with open(FILE, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[FEATURES[0]] != "NA"]
    features = torch.tensor([[float(row[name]) for name in FEATURES] for row in rows])
    return features, torch.tensor([SPECIES.index(row["species"]) for row in rows])


def _split() -> list[Pairs]:
    """60 % to learn from, 20 % to choose by, 20 % for the end: the same split in every run, whatever its seed."""
    features, species = read()
    order = torch.randperm(len(species), generator=torch.Generator().manual_seed(0))
    parts = order.split([len(order) - 2 * (len(order) // 5), len(order) // 5, len(order) // 5])
    # Scaled by what the training set says: the other sets must not be looked at.
    mean, std = features[parts[0]].mean(0), features[parts[0]].std(0)
    return [((features[part] - mean) / std, species[part]) for part in parts]
