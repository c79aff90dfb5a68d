"""Fetching: from a place in the order to the batch that stands there, in this process or in a worker.

Before each sample, Python's, NumPy's and torch's generators are seeded from (seed, epoch, sample), and before each
collate from (seed, epoch, position): augmentation depends on neither the worker nor what was read before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from treadle.core.errors import DataError
from treadle.core.mix import mix
from treadle.core.structure import map_leaves
from treadle.data.batch import Batch, as_tensors, copied, count_samples, split
from treadle.data.order import Indices
from treadle.data.sources import Collate, Source
from treadle.system.seed import seed_here

SAMPLE, COLLATE, STREAM, BATCH = 11, 12, 13, 14
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


def _collated(samples: list[Any], collate: Collate, micro_batch: int | None) -> tuple[list[Any], list[int]]:
    """Samples as micro-batches. A collate that draws for each sample draws the same however the batch is cut."""
    parts = [samples[cut] for cut in _cuts(len(samples), micro_batch)]
    return [collate(part) for part in parts], [len(part) for part in parts]


def from_tensors(source: Source, chunk: Chunk, micro_batch: int | None) -> Batch:
    """A batch of data that is in memory: one index operation a tensor."""
    index = torch.from_numpy(chunk.indices)
    if source.index is not None:
        index = source.index[index.to(source.index.device)]
    parts, counts = [], []
    for cut in _cuts(len(chunk.indices), micro_batch):
        part = index[cut]
        parts.append(_taken(source.data, part))
        counts.append(len(part))
    return Batch(parts, counts, len(chunk.indices), chunk.ends_epoch, chunk.indices)


def _taken(data: Any, index: torch.Tensor) -> Any:
    return map_leaves(lambda leaf: leaf.index_select(0, index.to(leaf.device)), data)


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
        parts, counts = _collated(samples, self._collate, self._micro_batch)
        return Batch(parts, counts, len(samples), chunk.ends_epoch, chunk.indices)

    def _sample(self, epoch: int, index: int) -> Any:
        seed_here(mix(self._seed, epoch, index, SAMPLE))
        try:
            return self._dataset[index]
        except Exception as error:
            error.add_note(f"raised by sample {index} of {type(self._dataset).__name__}")
            raise


class Stream(IterableDataset[Batch]):
    """Samples in a stream's own order, gathered into batches, from a position on."""

    def __init__(self, source: Source, seed: int, batch_size: int, micro_batch: int | None, drop_last: bool, epoch: int, into: int) -> None:
        self._source, self._seed, self._batch_size, self._micro_batch = source, seed, batch_size, micro_batch
        self._drop_last, self._epoch, self._into = drop_last, epoch, into

    def __iter__(self) -> Iterator[Batch]:
        epoch, into = self._epoch, self._into
        while True:
            given = False
            for (samples, position), last in _with_last(self._gathered(epoch, into)):
                given = True
                yield self._batch(samples, position, epoch, ends_epoch=last)
            if not given:
                name = type(self._source.data).__name__
                raise DataError(f"the stream {name} gave no {'further ' if into else 'full ' if self._drop_last else ''}batch in epoch {epoch + 1}")
            epoch, into = epoch + 1, 0

    def _gathered(self, epoch: int, into: int) -> Iterator[tuple[list[Any], int]]:
        samples: list[Any] = []
        for position, sample in enumerate(_seeded(self._source.data, self._seed, epoch, STREAM)):
            if position < into:
                continue
            samples.append(sample)
            if len(samples) == self._batch_size:
                yield samples, position + 1 - len(samples)
                samples = []
        if samples and not self._drop_last:
            yield samples, position + 1 - len(samples)

    def _batch(self, samples: list[Any], position: int, epoch: int, ends_epoch: bool) -> Batch:
        seed_here(mix(self._seed, epoch, position, COLLATE))
        parts, counts = _collated(samples, self._source.collate, self._micro_batch)
        return Batch(parts, counts, len(samples), ends_epoch)


def batched(source: Source, seed: int, micro_batch: int | None, epoch: int, into: int) -> Iterator[Batch]:
    """Batches that came as such, from a position on."""
    while True:
        given = False
        for item, last in _with_last(_items(source, seed, epoch, into)):
            given = True
            yield _as_batch(item, micro_batch, ends_epoch=last)
        if not given:
            raise DataError(
                f"treadle.Batches gave nothing in epoch {epoch + 1}: "
                "its iterable is empty, or an iterator, which can be read only once; give a list, or a function that returns a new one"
            )
        epoch, into = epoch + 1, 0


def _with_last(items: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last: one is held back, since a stream does not say that it is over until it is."""
    for held in items:
        for item in items:
            yield held, False
            held = item
        yield held, True


def _items(source: Source, seed: int, epoch: int, into: int) -> Iterator[Any]:
    data = source.data
    if hasattr(data, "__getitem__") and source.length is not None:
        for position in range(into, source.length):
            if not at_hand(data):
                seed_here(mix(seed, epoch, position, BATCH))
            yield data[position]
        return
    # One batch is held back while the next is read; what makes it may use its memory again.
    reuses = not isinstance(data, DataLoader)
    for position, item in enumerate(_seeded(data, seed, epoch, BATCH)):
        if position >= into:
            yield copied(item) if reuses else item


def at_hand(data: Any) -> bool:
    """Whether batches lie ready, so that reading one runs no code that could draw random numbers."""
    return type(data) in (list, tuple)


def _as_batch(item: Any, micro_batch: int | None, ends_epoch: bool) -> Batch:
    item = as_tensors(item)
    parts, counts = split(item, count_samples(item), micro_batch)
    return Batch(parts, counts, 1, ends_epoch)


def _seeded(data: Any, seed: int, epoch: int, purpose: int) -> Iterator[Any]:
    """The items of an iterable, or of what a function returns; the generators seeded before each."""
    seed_here(mix(seed, epoch, purpose))
    items, position = iter(data if hasattr(data, "__iter__") else data()), 0
    while True:
        seed_here(mix(seed, epoch, position, purpose))
        try:
            item = next(items)
        except StopIteration:
            return
        yield item
        position += 1
