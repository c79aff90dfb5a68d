"""LeNet-5 on MNIST: what of an epoch is computing, and what is loading and engineering.

    python benchmarks/lenet_epoch.py [--rounds 7] [--only 'treadle, everything'] [--sizes 1280 6400] [--save]

Batches of 64 in one order, AdamW; the cost is the marginal one from 1,280 images to 6,400, so that what a run does once is left out. The
compute floor is as many steps on one batch that lies ready: nobody can be faster without computing less.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import treadle_mnist
from harness import Benchmark
from peers import add_peers
from tasks import Task, by_hand, by_treadle
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import treadle
from treadle.data import Images
from treadle.data.order import Shuffle
from treadle.metrics import Accuracy

SEED, BATCH = 42, 64


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def ready(images: torch.Tensor) -> torch.Tensor:
    """uint8 (..., 28, 28) -> float32 (..., 1, 32, 32) in [0, 1]."""
    return nn.functional.pad(images, (2, 2, 2, 2)).float().div_(255).unsqueeze(-3)


@cache
def mnist() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images, labels = treadle_mnist.load("train")
    raw = torch.from_numpy(images.copy())
    return raw, ready(raw), torch.from_numpy(labels)


class Transformed(Dataset[tuple[torch.Tensor, int]]):
    """Images that are made ready one by one, in Python."""

    def __init__(self, raw: torch.Tensor, labels: torch.Tensor) -> None:
        self.raw, self.labels = raw, labels

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return ready(self.raw[index]), int(self.labels[index])


class Indexed:
    """Resident tensors, indexed a batch at a time: what a careful person writes."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> None:
        self.images, self.labels, self.parts = images, labels, order.split(BATCH)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((self.images[part], self.labels[part]) for part in self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def task(count: int) -> Task:
    raw, images, labels = (item[:count] for item in mnist())
    torch.manual_seed(SEED)
    order = Shuffle().indices(SEED, 0, np.arange(count), count)
    config = {"batch_size": BATCH, "seed": SEED, "data": treadle.DataConfig(leaks="off")}
    made = Task(
        lenet(), nn.functional.cross_entropy, DataLoader(TensorDataset(images, labels), BATCH, sampler=order.tolist()),
        partial(torch.optim.AdamW, lr=1e-3), check=(mnist()[1][-1000:], mnist()[2][-1000:]), data=(images, labels), config=config,
    )  # fmt: skip
    made.raw, made.order = (raw, labels), torch.from_numpy(order)  # type: ignore[attr-defined]
    return made


BENCH = Benchmark(__file__, task, sizes=(1_280, 6_400), small=(128,), unit="us an image", scale=1e-6)
BENCH.add("by hand", by_hand)


@BENCH.entrant("compute floor")
def floor(task: Task) -> Callable[[], Any]:
    first = next(iter(task.batches))
    task.batches = [first] * len(task.batches)  # type: ignore[arg-type]
    fit = by_hand(task)

    def computes() -> None:  # its loss is that of other work
        fit()

    return computes


@BENCH.entrant("by hand, careful")
def careful(task: Any) -> Callable[[], Any]:
    task.batches = Indexed(*task.data, task.order)
    return by_hand(task)


@BENCH.entrant("by hand, transforms, 2 workers", pinned=False)
def hand_workers(task: Any) -> Callable[[], Any]:
    options = {"num_workers": 2, "prefetch_factor": 4}
    task.batches = DataLoader(Transformed(*task.raw), BATCH, sampler=task.order.tolist(), **options)
    return by_hand(task)


@BENCH.entrant("treadle, transforms, 2 workers", pinned=False, base="by hand, transforms, 2 workers")
def treadle_workers(task: Any) -> Callable[[], Any]:
    task.data = Transformed(*task.raw)
    task.config["machine"] = treadle.MachineConfig(workers=2)
    return by_treadle(task, everything=False)


def everything(task: Task) -> Callable[[], Any]:
    return by_treadle(task, everything=True, metrics={"accuracy": Accuracy()})


@BENCH.entrant("treadle, raw uint8 / floor", base="compute floor")
def raw(task: Any) -> Callable[[], Any]:
    task.data = treadle.Samples(task.raw, prepare=Images(size=32))
    return by_treadle(task, everything=False)


BENCH.add("treadle, nothing logged", partial(by_treadle, everything=False))
BENCH.add("treadle, nothing logged / floor", partial(by_treadle, everything=False), base="compute floor")
BENCH.add("treadle, everything", everything)
add_peers(BENCH)

if __name__ == "__main__":
    BENCH.main()
