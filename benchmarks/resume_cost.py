"""What the first batch costs when a run begins, and when it goes on at the billionth sample of an epoch of ten billion.

    python benchmarks/resume_cost.py [--rounds 15]

Order is a function of the position, so going on reads nothing of what came before; with workers, the time is that of starting them.
Both starts are timed in turn, and the ratio is the median over the rounds.
"""

import argparse
import json
import platform
import statistics
import time

import torch
from torch.utils.data import Dataset

from treadle.data.loader import Loader

LENGTH, RESUMED_AT, BATCH = 10**10, 10**9, 64
POSITIONS = (0, RESUMED_AT)


class Numbers(Dataset[torch.Tensor]):
    """A map dataset that holds nothing, so that only finding the place is measured."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def first_batch(position: int, workers: int) -> float:
    """Seconds from a dataset to its first batch at a position; ending the workers is not counted."""
    began = time.perf_counter()
    batches = Loader(Numbers(), batch_size=BATCH, workers=workers).batches(into=position)
    next(batches)
    seconds = time.perf_counter() - began
    batches.close()
    return seconds


def in_turn(number: int, workers: int) -> dict[int, float]:
    """Seconds by position; what comes second in one round comes first in the next."""
    return {position: first_batch(position, workers) for position in POSITIONS[:: 1 if number % 2 else -1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, {LENGTH:,} samples in batches of {BATCH}, {rounds} rounds in turn, medians")
    ratios = {}
    for workers in (0, 2):
        first_batch(0, workers)  # warms up
        found = [in_turn(number, workers) for number in range(rounds)]
        anew, resumed = (statistics.median(one[position] for one in found) * 1e3 for position in POSITIONS)
        ratios[workers] = statistics.median(one[RESUMED_AT] / one[0] for one in found)
        print(
            f"{workers} workers   at sample 0: {anew:7.2f} ms   at sample {RESUMED_AT:,}: {resumed:7.2f} ms   resumed / begun: {ratios[workers]:.3f}"
        )
    print(json.dumps({f"{workers} workers": round(ratio, 4) for workers, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
