"""Epochs: which samples each batch of a run has, from any position on.

An epoch is one permutation, cut into batches; or so many batches of one permutation after another; or what a sampler
makes that says itself which samples go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from treadle.data.order import ENDLESS, Batching, Endless, Indices, Order, Reader


@dataclass(slots=True)
class Chunk:
    """A batch's place in the order.

    Args:
        epoch: epochs finished before it.
        start: its first position.
        indices: its samples.
        ends_epoch: whether it is the epoch's last.
        turns: which time each sample comes, where one can come again within an epoch; its random numbers are made from that.
        positions: how far the epoch moves on.
    """

    epoch: int
    start: int
    indices: Indices
    ends_epoch: bool
    turns: Indices | None
    positions: int


class Epochs(Protocol):
    """What the epochs of a run are."""

    @property
    def size(self) -> int:
        """Positions in one."""

    @property
    def steps(self) -> int:
        """Batches in one."""

    @property
    def samples(self) -> int | None:
        """Samples in one; None where not every epoch has as many."""

    def chunks(self, epoch: int, into: int) -> Iterator[Chunk]:
        """Batches from a position on, for ever."""


@dataclass(frozen=True)
class Even:
    """Batches of one size, cut from an order; a position is a sample.

    Args:
        order: which sample stands where.
        seed: the run's seed.
        length: samples there are; None where there is no end.
        batch_size: samples in a batch.
        size: samples in an epoch.
        endless: whether one permutation follows another across the ends of epochs.
    """

    order: Order
    seed: int
    length: int | None
    batch_size: int
    size: int
    endless: bool = False

    @property
    def steps(self) -> int:
        """See `Epochs.steps`."""
        return -(-self.size // self.batch_size)

    @property
    def samples(self) -> int:
        """See `Epochs.samples`."""
        return self.size

    def places(self, epoch: int, into: int) -> Iterator[tuple[int, int, int, bool]]:
        """Where each batch stands: epoch, first position, samples, and whether it is the epoch's last."""
        while True:
            for start in range(into, self.size, self.batch_size):
                count = min(self.batch_size, self.size - start)
                yield epoch, start, count, start + count == self.size
            epoch, into = epoch + 1, 0

    def reader(self) -> Reader:
        """Reads the order, a block ahead."""
        length = self.length or ENDLESS
        if not self.endless:
            return Reader(self.order, self.seed, length)
        return Reader(Endless(self.order, self.size), self.seed, length, self.size)

    def chunks(self, epoch: int, into: int) -> Iterator[Chunk]:
        """See `Epochs.chunks`."""
        reader = self.reader()
        for now, start, count, last in self.places(epoch, into):
            yield Chunk(now, start, reader.read(now, start, count), last, reader.turns(now, start, count), count)


@dataclass(frozen=True)
class Grouped:
    """Batches as a sampler makes them; a position is a batch.

    Args:
        sampler: says which samples go together.
        seed: the run's seed.
        batch_size: samples in a batch, where the sampler has no own number.
        drop_last: leave out the one batch that is not full.
        batches: batches in an epoch; None for all that one permutation gives.
    """

    sampler: Batching
    seed: int
    batch_size: int
    drop_last: bool
    batches: int | None = None

    @property
    def steps(self) -> int:
        """See `Epochs.steps`."""
        return self.batches or self._sizes()[0]

    @property
    def size(self) -> int:
        """See `Epochs.size`."""
        return self.steps

    @property
    def samples(self) -> int | None:
        """See `Epochs.samples`."""
        return None if self.batches else self._sizes()[1]

    def _sizes(self) -> tuple[int, int]:
        return self.sampler.sizes(self.batch_size, self.drop_last)

    def chunks(self, epoch: int, into: int) -> Iterator[Chunk]:
        """See `Epochs.chunks`."""
        steps, in_turn = self.steps, self._sizes()[0]
        held, batches = -1, list[Indices]()
        while True:
            for number in range(into, steps):
                turn, place = divmod(epoch * steps + number, in_turn)
                if turn != held:
                    held, batches = turn, self.sampler.batches(self.seed, turn, self.batch_size, self.drop_last)
                turns = np.full(len(batches[place]), turn) if self.batches else None
                yield Chunk(epoch, number, batches[place], number == steps - 1, turns, 1)
            epoch, into = epoch + 1, 0
