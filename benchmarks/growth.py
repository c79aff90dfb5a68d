"""Whether a step costs more later in a run, in a longer dataset, with more epochs, logged names or kept checkpoints; and whether memory grows.

    python benchmarks/growth.py [--rounds 7] [--only 'late in a run'] [--sizes 1000000] [--save]

A run of the size, 50,000 steps unless told, is timed over its last thousand steps, and compared with a run of 2,000. The others are runs of
2,000 steps, timed over their last thousand. Resident memory is read at twenty places after the first tenth of a run.
"""

import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark
from tasks import Clock
from torch import nn
from torch.utils.data import Dataset

import treadle

STEPS, BATCH = 2_000, 16
QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
NEVER = treadle.CheckpointConfig(every="1e9 steps")


class Memory:
    """A handler that reads how much memory is resident."""

    def __init__(self, steps: int) -> None:
        self._every = max(1, steps // 22)
        self._first = steps // 10
        self.seen: list[tuple[int, float]] = []

    def on_step_finished(self, run: treadle.Run) -> None:
        if run.progress.steps % self._every == 0 and run.progress.steps > self._first:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.seen.append((run.progress.steps, pages * resource.getpagesize() / 2**20))

    def slope(self) -> float:
        """MiB a million steps, as a straight line through all readings has it."""
        steps, mib = np.array(self.seen, dtype=float).T
        return round(float(np.polyfit(steps / 1e6, mib, 1)[0]), 3)


class Logs:
    """A handler that logs so many names each step."""

    def __init__(self, names: int) -> None:
        self._values = {f"own/{number}": float(number) for number in range(names)}

    def on_step_finished(self, run: treadle.Run) -> None:
        run.log(self._values)


class Range(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A dataset of any length that holds nothing."""

    def __init__(self, length: int) -> None:
        self._length, self._pair = length, (torch.zeros(8), torch.zeros(1))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._pair


def batches(count: int) -> treadle.Batches:
    return treadle.Batches([(torch.ones(BATCH, 8), torch.ones(BATCH, 1))] * count)


def run(data: Any, steps: int, *handlers: object, **config: Any) -> Callable[[], dict[str, Any]]:
    """The cost of a step over the last thousand (of a short run, the last half)."""
    clock = Clock(max(steps - 1000, steps // 2), steps)
    given = {"batch_size": BATCH, "log": QUIET, "checkpoint": NEVER, "data": treadle.DataConfig(leaks="off")} | config
    sgd = partial(torch.optim.SGD, lr=0.01)
    settings = treadle.Config(run_dir="run", duration=f"{steps} steps", **given)

    def fit() -> dict[str, Any]:
        treadle.Trainer(nn.Linear(8, 1), nn.MSELoss(), data, optimizer=sgd, config=settings, handlers=[clock, *handlers]).fit()
        return clock.told()

    return fit


def late(size: int) -> Callable[[], dict[str, Any]]:
    memory = Memory(size)
    fit = run(batches(size), size, memory)
    return lambda: fit() | {"MiB a million steps": memory.slope()}


def usual(size: int) -> int:
    """Steps of the runs that are not about the length of a run."""
    return min(size, STEPS)


BENCH = Benchmark(__file__, lambda size: size, sizes=(50_000,), small=(60,), unit="us a step", scale=1e-6)
BENCH.add("early in a run", lambda size: run(batches(usual(size)), usual(size), Memory(usual(size))), base="early in a run")
BENCH.add("late in a run", late, base="early in a run")
BENCH.add("one long epoch", lambda size: run(batches(usual(size)), usual(size)), base="one long epoch")
BENCH.add("epochs of 1 step", lambda size: run(batches(1), usual(size)), base="one long epoch")
for exponent in (3, 9):
    BENCH.add(f"10^{exponent} samples", lambda size, length=10**exponent: run(Range(length), usual(size)), base="10^3 samples")
for names in (1, 10, 100):
    BENCH.add(f"{names} logged names", lambda size, names=names: run(batches(usual(size)), usual(size), Logs(names)), base="1 logged names")
for kept in (2, 100):
    keep = treadle.CheckpointConfig(every="10 steps", keep_last=kept)
    BENCH.add(f"{kept} checkpoints kept", lambda size, keep=keep: run(batches(usual(size)), usual(size), checkpoint=keep), base="2 checkpoints kept")

if __name__ == "__main__":
    BENCH.main()
