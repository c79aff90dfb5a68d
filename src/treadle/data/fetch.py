"""Fetching: from a place in the order to the batch that stands there, in this process or in a worker.

Before each sample, Python's, NumPy's and torch's generators are seeded from (seed, epoch, sample), and before each
collate from (seed, epoch, position): augmentation depends on neither the worker nor what was read before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from treadle.core.mix import mix
from treadle.data.batch import Batch
from treadle.data.order import Indices
from treadle.data.sources import Collate, Source
from treadle.system.seed import seed_here

SAMPLE, COLLATE = 11, 12
"""What a seed is for; each purpose has a stream of its own."""


@dataclass(slots=True)
class Chunk:
    """A batch's place in the order: epoch, first position, samples, and whether it is the epoch's last."""

    epoch: int
    start: int
    indices: Indices
    ends_epoch: bool


def _cuts(count: int, size: int | None) -> list[slice]:
    size = size or count
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def collated(samples: list[Any], collate: Collate, micro_batch: int | None) -> tuple[list[Any], list[int]]:
    """Samples as micro-batches. A collate that draws for each sample draws the same however the batch is cut."""
    parts = [samples[cut] for cut in _cuts(len(samples), micro_batch)]
    return [collate(part) for part in parts], [len(part) for part in parts]


class Fetch:
    """Samples by index, as a dataset whose items are whole batches.

    Args:
        source: an indexed source.
        seed: the run's seed.
        micro_batch: samples in one part.
    """

    def __init__(self, source: Source, seed: int, micro_batch: int | None) -> None:
        self._dataset, self._collate = source.data, source.collate
        self._seed, self._micro_batch = seed, micro_batch

    def __getitem__(self, chunk: Chunk) -> Batch:
        samples = [self._sample(chunk.epoch, index) for index in chunk.indices.tolist()]
        seed_here(mix(self._seed, chunk.epoch, chunk.start, COLLATE))
        parts, counts = collated(samples, self._collate, self._micro_batch)
        return Batch(parts, counts, len(samples), chunk.ends_epoch, chunk.indices)

    def _sample(self, epoch: int, index: int) -> Any:
        seed_here(mix(self._seed, epoch, index, SAMPLE))
        try:
            return self._dataset[index]
        except Exception as error:
            error.add_note(f"raised by sample {index} of {type(self._dataset).__name__}")
            raise
