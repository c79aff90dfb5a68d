"""Streams: data that is read in its own order, and how a run gets back to where it was in one.

A stream with ``state_dict()`` and ``load_state_dict(state)`` is asked after every batch where it is, and goes on there. One
without is read again from the beginning of the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from treadle.core.errors import DataError
from treadle.core.mix import mix
from treadle.data.batch import Batch, copied, ready
from treadle.data.ended import ended, leaked
from treadle.data.fetch import COLLATE, collated
from treadle.data.sources import Source
from treadle.data.views import name_of
from treadle.system.seed import seed_here

STREAM, BATCH = 13, 14
"""What a seed is for; each purpose has a stream of its own."""
Mark = dict[str, Any]
"""Where a stream was after a batch: its state, whose it is, and how many seconds reading the epoch so far took."""


def has_state(item: Any) -> bool:
    """Whether an object can say where it is, and go on there."""
    return callable(getattr(item, "state_dict", None)) and callable(getattr(item, "load_state_dict", None))


class Pass:
    """One pass through a stream; Python's, NumPy's and torch's generators are seeded before each item.

    Args:
        data: an iterable, or a function that returns one. Its ``set_epoch(epoch)`` is called where it has one.
        seed: the run's seed.
        epoch: epochs finished.
        into: items of this epoch that were used already.
        purpose: what the seeds are for.
        mark: what `mark` gave after the last item that was used.
    """

    def __init__(self, data: Any, seed: int, epoch: int, into: int, purpose: int, mark: Mark | None) -> None:
        self._data, self._seed, self._epoch, self._into, self._purpose = data, seed, epoch, into, purpose
        self._seconds = 0.0
        self._items: Any = None
        self._owner = mark["owner"] if mark is not None else None
        self._state = mark["state"] if mark is not None else None

    def __iter__(self) -> Iterator[Any]:
        """The items that were not used yet."""
        position = self._begin()
        while True:
            began = time.perf_counter()
            seed_here(mix(self._seed, self._epoch, position, self._purpose))
            try:
                item = next(self._items)
            except StopIteration as error:
                if function := leaked(error, self._items):
                    raise ended(f"{function}, called for item {position} of {name_of(self._data)},") from error
                return
            except Exception as error:
                error.add_note(f"raised by item {position} of {name_of(self._data)}, in epoch {self._epoch + 1}")
                raise
            self._seconds += time.perf_counter() - began
            position += 1
            if position > self._into:
                yield item

    def _begin(self) -> int:
        """Open the stream where it was, or at its beginning where it cannot go there; says at which item it stands."""
        data = self._data
        seed_here(mix(self._seed, self._epoch, self._purpose))
        if callable(getattr(data, "set_epoch", None)):
            data.set_epoch(self._epoch)
        if self._owner == "stream":
            data.load_state_dict(deepcopy(self._state))
        self._items = iter(data if hasattr(data, "__iter__") else data())
        if self._owner == "iterator" and self._into:
            self._items.load_state_dict(deepcopy(self._state))
        return 0 if self._owner is None else self._into

    def mark(self) -> Mark:
        """Where the stream is now; its own iterator knows best."""
        for owner, item in (("iterator", self._items), ("stream", self._data)):
            if has_state(item):
                return {"seconds": self._seconds, "owner": owner, "state": deepcopy(item.state_dict())}
        return {"seconds": self._seconds, "owner": None, "state": None}


class Stream(IterableDataset[Batch]):
    """Samples in a stream's own order, gathered into batches, from a position on.

    Args:
        source: a streamed source.
        seed: the run's seed.
        batch_size: samples in a batch.
        micro_batch: samples in one part of it; None keeps it whole.
        drop_last: leave out the last, smaller batch of an epoch.
        epoch: epochs finished.
        into: samples of the current epoch already used.
        mark: of the batch that was used last.
    """

    def __init__(
        self, source: Source, seed: int, batch_size: int, micro_batch: int | None, drop_last: bool, epoch: int, into: int, mark: Mark | None
    ) -> None:
        self._source, self._seed, self._batch_size, self._micro_batch = source, seed, batch_size, micro_batch
        self._drop_last, self._epoch, self._into, self._mark = drop_last, epoch, into, mark

    def __iter__(self) -> Iterator[Batch]:
        epoch, into, mark = self._epoch, self._into, self._mark
        while True:
            one = Pass(self._source.data, self._seed, epoch, into, STREAM, mark)
            given = False
            for (samples, position, after), last in _with_last(self._gathered(one, epoch, into, mark)):
                given = True
                # At its end a stream is where it is once it has said so.
                yield self._batch(samples, position, epoch, last, one.mark() if last else after)
            if not given and not _may_be_empty(into, mark):
                name = name_of(self._source.data)
                raise DataError(f"the stream {name} gave no {'further ' if into else 'full ' if self._drop_last else ''}batch in epoch {epoch + 1}")
            epoch, into, mark = epoch + given, 0, None

    def _gathered(self, one: Pass, epoch: int, into: int, mark: Mark | None) -> Iterator[tuple[list[Any], int, Mark]]:
        samples: list[Any] = []
        position = into
        for sample in as_promised(iter(one), self._source, "samples", epoch, into, mark):
            samples.append(sample)
            if len(samples) == self._batch_size:
                yield samples, position, one.mark()
                position += len(samples)
                samples = []
        if samples and not self._drop_last:
            yield samples, position, one.mark()

    def _batch(self, samples: list[Any], position: int, epoch: int, ends_epoch: bool, mark: Mark) -> Batch:
        seed_here(mix(self._seed, epoch, position, COLLATE))
        parts, counts = collated(samples, self._source.collate, self._micro_batch)
        return Batch(parts, counts, len(samples), ends_epoch, mark=mark)


def batched(source: Source, seed: int, micro_batch: int | None, epoch: int, into: int, mark: Mark | None) -> Iterator[Batch]:
    """Batches that came as such, from a position on."""
    # One batch is held back while the next is read; what makes it may use its memory again.
    reuses = not can_index(source) and not isinstance(source.data, DataLoader)
    while True:
        one = _Listed(source, seed, epoch, into) if can_index(source) else Pass(source.data, seed, epoch, into, BATCH, mark)
        given = False
        items = as_promised(iter(one), source, "batches", epoch, into, mark)
        for (item, after), last in _with_last((copied(item) if reuses else item, one.mark()) for item in items):
            given = True
            yield Batch(*ready(item, micro_batch), 1, last, mark=one.mark() if last else after)
        if not given and not _may_be_empty(into, mark):
            raise DataError(
                f"treadle.Batches gave nothing in epoch {epoch + 1}: "
                "its iterable is empty, or an iterator, which can be read only once; give a list, or a function that returns a new one"
            )
        epoch, into, mark = epoch + given, 0, None


def listed(data: Sequence[Any], micro_batch: int | None, into: int) -> Iterator[Batch]:
    """Batches that lie ready in a list, from a position on: nothing is read, drawn or copied."""
    count = len(data)
    while True:
        for position in range(into, count):
            yield Batch(*ready(data[position], micro_batch), 1, position == count - 1)
        into = 0


class _Listed:
    """One pass through batches that can be had at any position: there is nothing to mark."""

    def __init__(self, source: Source, seed: int, epoch: int, into: int) -> None:
        self._data, self._seed, self._epoch, self._positions = source.data, seed, epoch, range(into, source.length or 0)

    def __iter__(self) -> Iterator[Any]:
        for position in self._positions:
            seed_here(mix(self._seed, self._epoch, position, BATCH))
            try:
                batch = self._data[position]
            except StopIteration as error:
                raise ended(f"batch {position} of {name_of(self._data)}") from error
            yield batch

    def mark(self) -> None:
        """Nothing: the position is enough."""


def can_index(source: Source) -> bool:
    """Whether the batch at any position can be had at once."""
    return hasattr(source.data, "__getitem__") and source.length is not None


def at_hand(data: Any) -> bool:
    """Whether batches lie ready, so that reading one runs no code that could draw random numbers."""
    return type(data) in (list, tuple)


def _may_be_empty(into: int, mark: Mark | None) -> bool:
    """A stream that was put back to the end of an epoch may say once more that it is at its end."""
    return mark is not None and mark["owner"] is not None and not into


def as_promised(items: Iterator[Any], source: Source, what: str, epoch: int, into: int, mark: Mark | None) -> Iterator[Any]:
    """The rest of an epoch's items, where they are as many as the data said by its ``__len__``.

    Raises:
        DataError: they are fewer, or more: lengths and schedules in epochs would be wrong.
    """
    if source.length is None:
        yield from items
        return
    count = into
    for item in items:
        count += 1
        if count > source.length:
            break
        yield item
    if count != source.length and not (count == 0 and _may_be_empty(into, mark)):
        gave = "more" if count > source.length else f"{count:,}"
        raise DataError(
            f"{name_of(source.data)} promised {source.length:,} {what} by its __len__, and gave {gave} in epoch {epoch + 1}; "
            "give the number that it has in every epoch, or no __len__, and lengths in steps"
        )


def _with_last(items: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last: one is held back, since a stream does not say that it is over until it is."""
    for held in items:
        for item in items:
            yield held, False
            held = item
        yield held, True
