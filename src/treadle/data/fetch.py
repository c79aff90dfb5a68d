"""Fetching: from a place in the order to the batch that stands there, in this process or in a worker.

Before each sample, Python's, NumPy's and torch's generators are seeded from (seed, epoch, sample), and before each
collate from (seed, epoch, position): augmentation depends on neither the worker nor what was read before.
"""

from __future__ import annotations

import random
from functools import cached_property
from typing import Any

import numpy as np
import torch

from treadle.core.errors import DataError
from treadle.core.mix import mix
from treadle.data.batch import Batch
from treadle.data.ended import ended
from treadle.data.epochs import Chunk
from treadle.data.order import mixed
from treadle.data.sources import Collate, Source
from treadle.data.views import View, name_of
from treadle.system.seed import preserved_rng, seed_here

SAMPLE, COLLATE = 11, 12
"""What a seed is for; each purpose has a stream of its own."""


def collated(samples: list[Any], collate: Collate, micro_batch: int | None) -> tuple[list[Any], list[int]]:
    """Samples as micro-batches. A collate that draws for each sample draws the same however the batch is cut."""
    size = micro_batch or len(samples)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    try:
        return [collate(part) for part in parts], [len(part) for part in parts]
    except StopIteration as error:
        raise ended(f"collate {getattr(collate, '__qualname__', type(collate).__name__)}") from error


class Fetch:
    """Samples by index, as a dataset whose items are whole batches.

    Args:
        source: an indexed source.
        seed: the run's seed.
        micro_batch: samples in one part.
    """

    def __init__(self, source: Source, seed: int, micro_batch: int | None) -> None:
        self._dataset, self._collate, self._random = source.data, source.collate, source.random
        self._seed, self._micro_batch = seed, micro_batch
        self._ahead = source.data.ahead if isinstance(source.data, View) and source.data.threaded else None

    def __getitem__(self, chunk: Chunk) -> Batch:
        if self._ahead is not None:
            self._ahead(chunk.indices.tolist())
        samples = self._seeded(chunk) if self._random else self._unseeded(chunk)
        seed_here(mix(self._seed, chunk.epoch, chunk.start, COLLATE))
        parts, counts = collated(samples, self._collate, self._micro_batch)
        return Batch(parts, counts, chunk.positions, chunk.ends_epoch, chunk.indices, turns=chunk.turns)

    def _seeded(self, chunk: Chunk) -> list[Any]:
        """The samples, each under its own seed."""
        samples = []
        seeds = mixed(self._seed, chunk.epoch if chunk.turns is None else chunk.turns, chunk.indices, SAMPLE)
        for index, number in zip(chunk.indices.tolist(), seeds.tolist(), strict=True):
            seed_here(number)
            samples.append(self._sample(index))
        return samples

    def _unseeded(self, chunk: Chunk) -> list[Any]:
        """The samples, of which the user says that they draw nothing; and whether that is so.

        Raises:
            DataError: a generator moved.
        """
        seed_here(0)
        samples = [self._sample(index) for index in chunk.indices.tolist()]
        if _next_numbers() != self._unmoved:
            raise DataError(
                f"the samples of {name_of(self._dataset)} draw random numbers, though Samples(random=False) says that they do not; "
                "leave that out, so that each is seeded"
            )
        return samples

    @cached_property
    def _unmoved(self) -> tuple[float, float, float]:
        """What the generators give next where nothing was drawn since they were seeded."""
        with preserved_rng():
            seed_here(0)
            return _next_numbers()

    def _sample(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except StopIteration as error:
            raise ended(f"sample {index} of {name_of(self._dataset)}") from error
        except Exception as error:
            error.add_note(f"raised by sample {index} of {name_of(self._dataset)}")
            raise


def _next_numbers() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand((), dtype=torch.float64).item()
