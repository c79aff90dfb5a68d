"""Experiments with a planted fault each, and one without: what `treadle prove` has to find."""

import os
import random
from functools import partial

import numpy as np
import torch
from torch import nn

import treadle

NOISE = np.random.default_rng()
SEEDED = random.Random(7)


class Counting(torch.utils.data.Dataset):
    """Its items depend on how often it was asked."""

    def __init__(self):
        self.count = 0

    def __len__(self):
        return 32

    def __getitem__(self, index):
        self.count += 1
        return torch.full((4,), float(index) + self.count / 7), index % 2


class Noisy(torch.utils.data.Dataset):
    """Its items come from a generator that nobody seeds."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.from_numpy(self.rng.normal(size=4).astype(np.float32)), index % 2


class Racing(torch.autograd.Function):
    """An identity that is off by a little, another one each time."""

    @staticmethod
    def forward(ctx, x):
        return x + int.from_bytes(os.urandom(2), "big") * 1e-5

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Race(nn.Module):
    def forward(self, x):
        return Racing.apply(x)


class Process(nn.Module):
    def forward(self, x):
        return x + os.getpid() % 1000 * 1e-3


class Chance:
    """An order of its own."""

    def indices(self, seed, epoch, positions, length):
        return np.random.default_rng().permutation(length)[: len(positions)]


def build(*more):
    return nn.Sequential(nn.Linear(4, 8), *more, nn.Dropout(0.1), nn.Linear(8, 2))


def tensors():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) > 0).long()


def trainer(config, model=build, objective=None, data=None):
    objective = objective or nn.CrossEntropyLoss()
    return treadle.Trainer(model, objective, data or tensors(), optimizer=partial(torch.optim.SGD, lr=0.05), config=config)


def noisy_loss(generator, model, batch):
    noise = generator.gauss(0, 1) if isinstance(generator, random.Random) else generator.normal()
    return nn.functional.cross_entropy(model(batch[0]) * (1 + noise / 10), batch[1])


def sound(config: treadle.Config) -> treadle.Trainer:
    return trainer(config)


def counting(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, data=Counting())


def noisy(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, data=Noisy())


def unseeded_global(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, objective=lambda model, batch: noisy_loss(NOISE, model, batch))


def seeded_global(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, objective=lambda model, batch: noisy_loss(SEEDED, model, batch))


def two_passes(step, model, optimizer):
    for logged in (True, False):
        for x, y in step:
            step.backward(nn.functional.cross_entropy(model(x), y), log=logged)
        if logged:
            step.take_gradient(optimizer)
    step.update(optimizer)


def racing(config: treadle.Config) -> treadle.Trainer:
    optimizer = partial(torch.optim.SGD, lr=0.05)
    return treadle.Trainer(lambda: build(Race()), None, tensors(), step=two_passes, optimizer=optimizer, config=config)


def process(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, model=lambda: build(Process()))


def outside(config: treadle.Config) -> treadle.Trainer:
    def objective(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * (1 + os.getpid() % 1000 / 1000)

    return trainer(config, objective=objective)


def weights(config: treadle.Config) -> treadle.Trainer:
    torch.seed()
    return trainer(config, model=build())


def order(config: treadle.Config) -> treadle.Trainer:
    return trainer(config, data=treadle.Samples(tensors(), sampler=Chance()))


def hashed(config: treadle.Config) -> treadle.Trainer:
    scale = {name: place + 1 for place, name in enumerate({"one", "two", "three", "four", "five"})}

    def objective(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * scale["one"]

    return trainer(config, objective=objective)


def failing(config: treadle.Config) -> treadle.Trainer:
    def objective(model, batch):
        raise ValueError("planted")

    return trainer(config, objective=objective)


def dated(config: treadle.Config) -> treadle.Trainer:
    from dataclasses import replace

    return trainer(replace(config, run_dir=f"{config.run_dir}/{os.getpid()}"))
