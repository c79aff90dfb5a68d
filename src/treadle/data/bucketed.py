"""Batches of samples that are about as long as each other, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.core.errors import DataError
from treadle.core.mix import mix
from treadle.data.ended import ended
from treadle.data.order import Indices, hashed
from treadle.data.sources import Samples, flattened, positive
from treadle.data.views import by_index, name_of
from treadle.system.seed import preserved_rng, seed_here

WITHIN, AMONG, LENGTH = 22, 23, 24
"""What a mixed number is for: the order within a bucket, that of batches, and what a sample draws when its length is asked for."""


def bucket(
    source: Any,
    by: Callable[[Any], int] | Sequence[int],
    *,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    buckets: int | Sequence[int] = 16,
) -> Samples:
    """Batches of samples of similar length, in random order.

    Samples are put into buckets by their length. In each epoch every bucket is shuffled and cut into batches, the longest
    samples first; what is left of a bucket goes into a batch with the next shorter ones. So every sample comes once an epoch,
    one batch alone is not full, and an epoch has as many batches as any other. Then the batches are shuffled. All of it is a
    function of seed and epoch. A position of the run is a batch here, and not a sample.

    Args:
        source: a dataset, or `treadle.Samples`, of which all that it says stays; but it has no sampler.
        by: the length of each sample: one number each, or a function of a sample. A function reads all of the data once, now
            and whenever the program starts; numbers that were kept save that. Where a sample is random, it is the length of one draw.
        batch_size: samples in a batch; the config's unless told.
        max_tokens: most samples times the longest of them, in place of `batch_size`: batches of short samples are larger.
        buckets: how many, with about as many samples in each; or their greatest lengths, ascending.

    Returns:
        `treadle.Samples`; for samples that are padded with ``collate=treadle.data.pad()`` of the source.

    Raises:
        DataError: there is not one length >= 0 for each sample, or one is longer than `max_tokens`; or both sizes are given.

    Source:
        buckets with a batch size each: ``bucket_by_sequence_length`` of tf.data; batches by tokens: fairseq.

    Example:
        >>> data = bucket(["a", "bcd", "ef", "ghi"], len, batch_size=2, buckets=2)
        >>> [[data.dataset[index] for index in batch] for batch in data.sampler.batches(0, 0, 2, False)]
        [['ef', 'a'], ['ghi', 'bcd']]
    """
    who = "treadle.data.bucket"
    given = flattened(source)
    data = by_index(given.dataset, who)
    if given.sampler is not None or given.batches_per_epoch is not None:
        raise DataError(
            f"{who} makes the order itself, so its source can have no sampler, and is not made by load_by_random_id, mix or Infinite. "
            "In place of load_by_random_id(load, ids=ids) give it map(ids, load); Infinite goes around it: Infinite(bucket(...), ...)"
        )
    if batch_size is not None and max_tokens is not None:
        raise DataError(f"{who}: give batch_size or max_tokens, not both")
    positive("batch_size", batch_size)
    positive("max_tokens", max_tokens)
    lengths = _lengths(data, by)
    sampler = Bucketed(lengths, _numbered(lengths, buckets), max_tokens)
    return Samples(data, sampler, given.collate, given.prepare, given.random, given.batch_size if batch_size is None else batch_size)


def _lengths(data: Any, by: Callable[[Any], int] | Sequence[int]) -> Indices:
    """The length of each sample, as numbers that can be trusted."""
    found: list[Any] = []
    if callable(by):
        with preserved_rng():  # looking at a sample changes nothing that training draws
            for index in range(len(data)):
                seed_here(mix(index, LENGTH))  # a sample that is augmented is as long in each process
                found.append(_length(data, by, index))
    else:
        found = list(by)
        if len(found) != len(data):
            raise DataError(f"treadle.data.bucket: {len(found)} lengths were given for {len(data)} samples; give one each")
    for index, length in enumerate(found):
        if isinstance(length, bool) or not hasattr(length, "__index__") or int(length) < 0:
            raise DataError(f"treadle.data.bucket: the length of sample {index} must be a whole number >= 0, got {length!r}")
    return np.array([int(length) for length in found], dtype=np.int64)


def _length(data: Any, by: Callable[[Any], int], index: int) -> Any:
    try:
        return by(data[index])
    except StopIteration as error:
        raise ended(f"{name_of(by)}, asked for the length of sample {index},") from error
    except Exception as error:
        error.add_note(f"raised while {name_of(by)} was asked for the length of sample {index} of {name_of(data)}")
        raise


def _numbered(lengths: Indices, buckets: int | Sequence[int]) -> Indices:
    """The bucket of each sample; a greater number is a longer one."""
    if isinstance(buckets, int):
        positive("buckets", buckets)
        ends = -(-len(lengths) * np.arange(1, buckets + 1) // buckets)
        greatest = np.unique(np.sort(lengths)[ends - 1])
    else:
        greatest = np.asarray(buckets)
        if greatest.ndim != 1 or not len(greatest) or greatest.dtype.kind not in "iu" or (np.diff(greatest) <= 0).any():
            raise DataError(f"buckets must be a number, or greatest lengths that ascend, such as [10, 20, 40]; got {buckets!r}")
    return np.searchsorted(greatest, lengths)


class Bucketed:
    """Which samples go together; see `bucket`.

    Args:
        lengths: of each sample.
        bucket_of: the bucket of each sample; a greater number is a longer one.
        max_tokens: see `bucket`.
    """

    def __init__(self, lengths: Indices, bucket_of: Indices, max_tokens: int | None) -> None:
        if max_tokens is not None and (longest := int(lengths.max())) > max_tokens:
            raise DataError(
                f"treadle.data.bucket: sample {int(lengths.argmax())} is {longest:,} long, and max_tokens is {max_tokens:,}; "
                f"give at least {longest:,}, or cut or leave out longer samples"
            )
        self._lengths, self._bucket_of, self._max_tokens = lengths, bucket_of, max_tokens

    def sizes(self, batch_size: int, drop_last: bool) -> tuple[int, int]:
        """See `Batching.sizes`."""
        starts = self._starts(batch_size, drop_last)
        return len(starts) - 1, starts[-1]

    def batches(self, seed: int, epoch: int, batch_size: int, drop_last: bool) -> list[Indices]:
        """See `Batching.batches`."""
        within = hashed(np.arange(len(self._lengths)), mix(seed, epoch, WITHIN))
        order = np.lexsort((within, -self._bucket_of))
        starts = self._starts(batch_size, drop_last)
        among = np.argsort(hashed(np.arange(len(starts) - 1), mix(seed, epoch, AMONG)), kind="stable")
        return [order[starts[place] : starts[place + 1]] for place in among.tolist()]

    def _starts(self, batch_size: int, drop_last: bool) -> list[int]:
        """Where each batch begins in samples that are ordered by bucket, the longest first, and where the last one ends."""
        kinds, counts = np.unique(-self._bucket_of, return_counts=True)
        starts, end = [0], 0
        for kind, count in zip(kinds, counts, strict=True):
            end += int(count)
            size = batch_size
            if self._max_tokens is not None:
                size = self._max_tokens // max(1, int(self._lengths[self._bucket_of == -kind].max()))
            while starts[-1] < end:
                starts.append(starts[-1] + size)
        total = len(self._lengths)
        if starts[-1] > total:
            starts = starts[:-1] if drop_last else [*starts[:-1], total]
        return starts
