"""What the first batch costs when a run begins, and when it goes on at the billionth sample of an epoch of ten billion.

    python benchmarks/resume_cost.py [--rounds 15] [--save]

Order is a function of the position, so going on reads nothing of what came before; with workers, the time is that of starting them, which is
mostly waiting: look at the wall time.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Benchmark
from torch.utils.data import Dataset

from treadle.data.loader import Loader

LENGTH, RESUMED_AT, BATCH = 10**10, 10**9, 64


class Numbers(Dataset[torch.Tensor]):
    """A map dataset that holds nothing, so that only finding the place is measured."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def first_batch(position: int, workers: int) -> Callable[[], dict[str, Any]]:
    """From a dataset to its first batch at a position; ending the workers is not counted."""

    def load() -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        batches = Loader(Numbers(), batch_size=BATCH, workers=workers).batches(into=position)
        next(batches)
        told = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "work": 1}
        batches.close()
        return told

    return load


BENCH = Benchmark(__file__, lambda size: size, sizes=(1,), small=(1,), unit="ms to the first batch", scale=1e-3, rounds=15)
for workers in (0, 2):
    for position in (0, RESUMED_AT):
        name, base = (f"at sample {place:,}, {workers} workers" for place in (position, 0))
        BENCH.add(name, lambda _, position=position, workers=workers: first_batch(position, workers), base=base, pinned=workers == 0)

if __name__ == "__main__":
    BENCH.main()
