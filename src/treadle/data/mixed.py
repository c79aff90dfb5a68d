"""Several datasets in one, drawn by weights; each goes round in an order of its own, and none ever runs out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.core.errors import DataError
from treadle.core.mix import mix as mixed_number
from treadle.data.order import Batching, Indices, Order, hashed, indices_at, turns_at
from treadle.data.sources import Samples, order_of
from treadle.data.views import View, ahead_of, apart, by_index, name_of

PERIOD, FINEST = 64, 4096
"""Draws after which each dataset has had its share: at least, and at most."""
SLOTS = 21
"""What the mixed number is for: which dataset is drawn."""


def mix(sources: Sequence[Any], weights: Sequence[float] | None = None) -> Samples:
    """A dataset of all items of several, drawn in proportion to weights.

    Which dataset is drawn depends on seed and position alone, and the shares are exact: over each period of 64 draws or so,
    or up to 4,096 where the weights are such that it takes as many. Each dataset goes through a permutation of its own items,
    then the next one, so a small one comes round more often. An epoch is as long as all of them together, unless
    `treadle.data.Infinite` says how long it is.

    Args:
        sources: datasets, tuples of tensors, or `treadle.Samples` with a sampler each. Items of all have the same form.
        weights: a positive number for each. Unless told, all of them are one dataset, each item of which comes once an epoch.

    Returns:
        `treadle.Samples`. An index counts through the first dataset, then the second, and so on.

    Raises:
        DataError: a source cannot be read by index, weights are not one positive number each, or one is less than 1/4096 of all.

    Example:
        >>> data = mix([["a", "b"], ["x"]], weights=[3, 1])
        >>> drawn = data.sampler.indices(0, 0, np.arange(64), 3)
        >>> sum(data.dataset[index] == "x" for index in drawn)
        16
    """
    given = apart(sources, "treadle.data.mix")
    parts = [by_index(one.dataset, "treadle.data.mix") for one in given]
    for number, one in enumerate(given):
        if one.sampler is not None and weights is None:
            raise DataError(f"treadle.data.mix: dataset {number} has a sampler, and it is drawn by that only where weights are given")
        if isinstance(one.sampler, Batching):
            raise DataError(f"treadle.data.mix draws samples one by one, and dataset {number} makes whole batches; make them of the mix")
    random = any(one.random for one in given)
    if weights is None:
        return Samples(Joined(*parts), random=random)
    orders = [order_of(one.sampler or "shuffle") for one in given]
    sampler = Mixed(orders, [len(part) for part in parts], _shares(weights, len(parts)))  # type: ignore[arg-type]
    return Samples(Joined(*parts), sampler=sampler, random=random)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (count,):
        raise DataError(f"treadle.data.mix: {values.size} weights were given for {count} datasets; give one each")
    if not np.isfinite(values).all() or (values <= 0).any():
        raise DataError(f"treadle.data.mix: weights must be positive finite numbers, got {values.tolist()}; leave out a dataset that is not drawn")
    shares = values / values.sum()
    if shares.min() < 1 / FINEST:
        raise DataError(f"treadle.data.mix: dataset {int(shares.argmin())} has {shares.min():.2g} of all weights; the least is 1/{FINEST}")
    return [float(share) for share in shares]


def period_counts(shares: Sequence[float]) -> list[int]:
    """How often each dataset is drawn in a period: exactly its share where at most 4,096 draws can have it, else as near as they can.

    Example:
        >>> period_counts([0.75, 0.25]), sum(period_counts([1 / 3, 2 / 3])), sum(period_counts([0.1, 0.9]))
        ([48, 16], 66, 70)
    """
    near = [Fraction(share).limit_denominator(FINEST) for share in shares]
    period = math.lcm(*[share.denominator for share in near])
    if period > FINEST or sum(near) != 1:
        period = FINEST
    period *= -(-PERIOD // period)
    exact = np.array(shares) * period
    counts = np.maximum(1, np.floor(exact + 1e-6)).astype(np.int64)
    while (missing := period - int(counts.sum())) != 0:  # to whom most is missing, or from whom least is
        counts[np.argmax((exact - counts) * np.sign(missing))] += np.sign(missing)
    return [int(count) for count in counts]


class Mixed:
    """The order of `mix`.

    Args:
        orders: of each dataset.
        lengths: of each dataset.
        shares: of each dataset, 1 together.
    """

    def __init__(self, orders: Sequence[Order], lengths: Sequence[int], shares: Sequence[float]) -> None:
        self._orders, self._lengths = orders, lengths
        self._first = np.cumsum([0, *lengths])
        self._counts = np.array(period_counts(shares))
        self._period = int(self._counts.sum())
        # In a period, each dataset has places, and each place a number among those of the dataset.
        self._whose = np.repeat(np.arange(len(lengths)), self._counts)
        self._number = np.concatenate([np.arange(count) for count in self._counts])

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        return self._of_each(indices_at, seed, epoch, positions, length, self._first)

    def turns(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """Which time round, in its own dataset, each of these is."""
        return self._of_each(turns_at, seed, epoch, positions, length, np.zeros_like(self._first))

    def _of_each(self, ask: Callable[..., Indices], seed: int, epoch: int, positions: Indices, length: int, first: Indices) -> Indices:
        """What the order of each dataset answers for the positions that draw from it."""
        whose, ordinals = self._drawn(seed, epoch, positions, length)
        found = np.empty(len(positions), dtype=np.int64)
        for number, order in enumerate(self._orders):
            mine = whose == number
            turns, places = np.divmod(ordinals[mine], self._lengths[number])
            found[mine] = first[number] + ask(order, mixed_number(seed, number), turns, places, self._lengths[number])
        return found

    def _drawn(self, seed: int, epoch: int, positions: Indices, length: int) -> tuple[Indices, Indices]:
        """From which dataset each position draws, and how often that was drawn from before."""
        periods, slots = np.divmod(epoch * length + positions, self._period)
        present, which = np.unique(periods, return_inverse=True)
        keys: NDArray[np.uint64] = hashed(present, mixed_number(seed, SLOTS))
        places = np.argsort(hashed(np.arange(self._period), keys[:, None]), axis=1, kind="stable")[which.reshape(-1), slots]
        whose = self._whose[places]
        return whose, periods * self._counts[whose] + self._number[places]


class Joined(View):
    """One dataset after the other."""

    def __init__(self, *sources: Any) -> None:
        super().__init__(*sources)
        self._ends = [int(end) for end in np.cumsum([len(source) for source in sources])]
        self.__name__ = f"mix({', '.join(name_of(source) for source in sources)})"

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        number, place = self._at(index)
        return self._sources[number][place]

    def ahead(self, indices: list[int]) -> None:
        """See `View.ahead`."""
        found = [self._at(index) for index in indices]
        for number, source in enumerate(self._sources):
            ahead_of(source, [place for whose, place in found if whose == number])

    def _at(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} items")
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)
