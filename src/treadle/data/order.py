"""Order: which sample stands at a position, as a pure function of (seed, epoch, position).

A short shuffled epoch is sorted by hashes, a longer one goes through a keyed bijection, a block at a time. It needs the
memory of one block at any length, starts anywhere at once, and gives the same order whatever reads it: that is all a
resume needs to know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from treadle.core.errors import DataError
from treadle.core.mix import GOLDEN, MASK, MUL1, MUL2, mix

Indices = NDArray[np.int64]
ROUNDS = 8
ENDLESS = 1 << 62
"""Samples of what has no end."""
BLOCK = 1 << 14
"""Positions that are computed at once; an epoch this short is sorted as a whole."""


class Order(Protocol):
    """Which sample stands where. An own one is any object with this method, free of state."""

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """The samples at some positions of an epoch.

        Args:
            seed: the run's seed.
            epoch: epochs finished before this one.
            positions: int64 positions in 0..length-1.
            length: number of samples.

        Returns:
            int64 indices in 0..length-1, one for each position.
        """


@runtime_checkable
class Batching(Protocol):
    """Which samples go together, where that is more than neighbours in an order: `bucket` is one."""

    def sizes(self, batch_size: int, drop_last: bool) -> tuple[int, int]:
        """How many batches an epoch has, and how many samples; the same in each."""

    def batches(self, seed: int, epoch: int, batch_size: int, drop_last: bool) -> list[Indices]:
        """The batches of an epoch, in order, as indices of samples: a pure function of what is given."""


class Sequential:
    """The data's own order."""

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        return positions


class Shuffle:
    """A new permutation each epoch.

    A short epoch is sorted by hashes. A long one goes through a Feistel network of 8 rounds on pairs (a, b) with a < A,
    b < B and A * B just above the length; what falls above the length is walked on until it does not. (A network as
    small as a short epoch would not reach every order.)

    Source:
        Black and Rogaway, Ciphers with Arbitrary Finite Domains, section 4 (cycle walking) and 5 (generalized Feistel).
    """

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        if length <= BLOCK:
            keys_of = hashed(np.arange(length), mix(seed, epoch, ROUNDS, length))
            return np.argsort(keys_of, kind="stable").astype(np.int64)[positions]
        rows = math.isqrt(length - 1) + 1
        columns = -(-length // rows)
        keys = [mix(seed, epoch, number, length) for number in range(ROUNDS)]
        out = _feistel(positions.astype(np.uint64), rows, columns, keys)
        while (outside := out >= length).any():
            out[outside] = _feistel(out[outside], rows, columns, keys)
        return out.astype(np.int64)


class Replacement:
    """Independent draws, each sample equally likely."""

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        return (hashed(positions, mix(seed, epoch, 1)) % np.uint64(length)).astype(np.int64)


class Weighted:
    """Independent draws, with probabilities in proportion to weights.

    Args:
        weights: one non-negative number a sample, shape (length,).

    Raises:
        DataError: a weight is negative or not finite, all are zero, or there are not as many as samples.

    Example:
        >>> Weighted([0.0, 1.0]).indices(0, 0, np.arange(3), 2).tolist()
        [1, 1, 1]
    """

    def __init__(self, weights: Sequence[float]) -> None:
        values = np.asarray(weights, dtype=np.float64)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
            raise DataError(f"weights must be one non-negative finite number a sample, not all zero; got {values!r}")
        self._upto = np.cumsum(values)

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        if len(self._upto) != length:
            raise DataError(f"{len(self._upto)} weights were given for {length} samples; give one a sample")
        share = (hashed(positions, mix(seed, epoch, 2)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        found: Indices = np.searchsorted(self._upto, share * self._upto[-1], side="right").astype(np.int64)
        return found


class Endless:
    """One epoch of an order after another, cut anew into epochs of another size.

    Args:
        order: what is cut; its epochs are as long as there are samples.
        size: positions in one of the new epochs.

    Example:
        >>> order = Endless(Sequential(), 4)
        >>> order.indices(0, 1, np.arange(4), 3).tolist(), order.turns(0, 1, np.arange(4), 3).tolist()
        ([1, 2, 0, 1], [1, 1, 2, 2])
    """

    def __init__(self, order: Order, size: int) -> None:
        self._order, self._size = order, size

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        return indices_at(self._order, seed, *np.divmod(epoch * self._size + positions, length), length)

    def turns(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """Which time round each of these is."""
        return turns_at(self._order, seed, *np.divmod(epoch * self._size + positions, length), length)


def indices_at(order: Order, seed: int, epochs: Indices, positions: Indices, length: int) -> Indices:
    """The samples at positions of several epochs."""
    found = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = order.indices(seed, epoch, positions[here], length)
    return found


def turns_at(order: Order, seed: int, epochs: Indices, positions: Indices, length: int) -> Indices:
    """Which time each of them comes: its epoch, unless the order tells one draw of a sample from another."""
    if not hasattr(order, "turns"):
        return epochs
    found = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = order.turns(seed, epoch, positions[here], length)
    return found


NAMED: dict[str, Order] = {"shuffle": Shuffle(), "sequential": Sequential(), "replacement": Replacement()}


class Reader:
    """Reads an order a block ahead, so that a small batch does not pay for the vector machinery.

    Args:
        order: which sample stands where.
        seed: the run's seed.
        length: number of samples.
        size: positions in an epoch; as many as samples unless told.
    """

    def __init__(self, order: Order, seed: int, length: int, size: int | None = None) -> None:
        self._order, self._seed, self._length, self._size = order, seed, length, size or length
        self._turns = getattr(order, "turns", None)
        self._epoch, self._start = -1, 0
        self.block: Indices = np.empty(0, dtype=np.int64)
        """What was read ahead; another object for another block."""
        self.offset = 0
        """Where in the block the last answer began."""

    def read(self, epoch: int, start: int, count: int) -> Indices:
        """The samples at positions ``start`` to ``start + count - 1`` of an epoch.

        Raises:
            DataError: an own order gave something else than one index in range for each position.
        """
        offset = start - self._start
        if epoch != self._epoch or offset < 0 or offset + count > len(self.block):
            stop = min(self._size, start + max(BLOCK, count))
            block = self._order.indices(self._seed, epoch, np.arange(start, stop, dtype=np.int64), self._length)
            self._epoch, self._start, self.block, offset = epoch, start, self._checked(block, stop - start), 0
        self.offset = offset
        return self.block[offset : offset + count]

    def turns(self, epoch: int, start: int, count: int) -> Indices | None:
        """Which time each of them comes, where one can come again within an epoch."""
        if self._turns is None:
            return None
        found: Indices = self._turns(self._seed, epoch, np.arange(start, start + count, dtype=np.int64), self._length)
        return found

    def _checked(self, block: Indices, count: int) -> Indices:
        block = np.asarray(block)
        if block.shape != (count,) or block.dtype.kind not in "iu" or (count and (block.min() < 0 or block.max() >= self._length)):
            name = type(self._order).__name__
            raise DataError(f"the order {name} must give {count} indices in 0..{self._length - 1}, one for each position")
        return np.require(block, np.int64, "W")


def _feistel(x: NDArray[np.uint64], rows: int, columns: int, keys: list[int]) -> NDArray[np.uint64]:
    """One pass of the network: a bijection of 0..rows*columns-1, since each round only adds to one half what the other says."""
    a, b = x // np.uint64(columns), x % np.uint64(columns)
    for number, key in enumerate(keys):
        if number % 2:
            b = (b + hashed(a, key) % np.uint64(columns)) % np.uint64(columns)
        else:
            a = (a + hashed(b, key) % np.uint64(rows)) % np.uint64(rows)
    return a * np.uint64(columns) + b


def mixed(*numbers: int | Indices) -> NDArray[np.uint64]:
    """`mix` of many numbers at once, at the price of a few; arrays are broadcast against each other.

    Example:
        >>> mixed(7, 0, np.arange(2), 11).tolist() == [mix(7, 0, 0, 11), mix(7, 0, 1, 11)]
        True
    """
    first = next(place for place, number in enumerate(numbers) if not isinstance(number, int))
    state: int | NDArray[np.uint64] = mix(*numbers[:first])  # type: ignore[arg-type]
    for number in numbers[first:]:
        key = (state + GOLDEN) & MASK if isinstance(state, int) else state + np.uint64(GOLDEN)
        state = hashed(np.asarray(number), key)
    assert not isinstance(state, int)
    return state


def hashed(x: NDArray[np.integer], key: int | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function on a whole array, see `treadle.core.mix`; an array of keys is broadcast against it."""
    z = x.astype(np.uint64) * np.uint64(GOLDEN) + (np.uint64(key) if isinstance(key, int) else key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MUL1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MUL2)
    return z ^ (z >> np.uint64(31))
