"""A batch: the samples of one optimizer step, cut into the micro-batches that go through the model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from treadle.core.errors import DataError
from treadle.core.structure import describe, leaves, map_leaves
from treadle.data.order import Indices


@dataclass(slots=True)
class Batch:
    """One optimizer step's data.

    Args:
        parts: micro-batches, in the user's own structure.
        counts: samples in each part.
        positions: how far the epoch moves on: samples, or 1 for a batch that came as one.
        ends_epoch: whether this is the last of its epoch.
        ids: index of each sample in its dataset, where it has one.
        mark: where a stream was after this batch, see `treadle.data.stream`.
    """

    parts: Sequence[Any]
    counts: Sequence[int]
    positions: int
    ends_epoch: bool
    ids: Indices | None = None
    mark: dict[str, Any] | None = None

    @property
    def samples(self) -> int:
        """Samples in all parts."""
        return sum(self.counts)


def endless() -> Generator[Batch, None, None]:
    """Steps without data: one part that is None, and no epochs."""
    while True:
        yield Batch([None], [1], 1, False)


def to_device(value: Any, device: torch.device) -> Any:
    """A batch with every tensor on a device; anything else stays what it is."""
    return map_leaves(lambda leaf: leaf.to(device, non_blocking=True) if hasattr(leaf, "to") else leaf, value)


def copied(value: Any) -> Any:
    """A batch in memory of its own: whoever made it, or takes it, may change theirs in place."""

    def copy(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf.copy() if isinstance(leaf, np.ndarray) else leaf

    return map_leaves(copy, value)


def as_tensors(value: Any) -> Any:
    """A batch with tensors in place of arrays."""
    if _flat_tensors(value):
        return value
    return map_leaves(lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc" else leaf, value)


def count_samples(batch: Any) -> int:
    """Samples in a batch that came as one: the length of its first tensor or array.

    Raises:
        DataError: nothing in the batch has a length.
    """
    if _flat_tensors(batch) and batch[0].ndim:
        return len(batch[0])
    found = [len(leaf) for leaf in leaves(batch) if isinstance(leaf, (torch.Tensor, np.ndarray)) and leaf.ndim]
    if not found:
        raise DataError(f"cannot count the samples of a batch without a tensor: {describe(batch)}")
    return found[0]


def _flat_tensors(value: Any) -> bool:
    """Whether a batch is a plain pair or row of tensors: the common case, told without walking it."""
    return type(value) in (tuple, list) and len(value) > 0 and all(type(item) is torch.Tensor for item in value)


def split(batch: Any, count: int, size: int | None) -> tuple[list[Any], list[int]]:
    """Cut a batch that came as one into micro-batches: every tensor, and every list in it, that is as long as the number of samples.

    Raises:
        DataError: a list could be one item a sample, or as many tensors of all samples.
    """
    if size is None or size >= count:
        return [batch], [count]

    def one_a_sample(value: Any) -> bool:
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return bool(value.ndim) and len(value) == count
        if value is batch or type(value) not in (list, tuple) or len(value) != count:
            return False
        if all(isinstance(leaf, (torch.Tensor, np.ndarray)) and leaf.ndim and len(leaf) == count for leaf in leaves(value)):
            raise DataError(
                f"cannot tell whether {describe(value)} is one item a sample, or {count} tensors of all samples; use a dict, or cut it yourself"
            )
        return True

    def cut(start: int) -> Any:
        return map_leaves(lambda leaf: leaf[start : start + size] if one_a_sample(leaf) else leaf, batch, one_a_sample)

    starts = range(0, count, size)
    return [cut(start) for start in starts], [min(size, count - start) for start in starts]


def cut(batch: Batch, limit: int) -> Batch:
    """The same batch in parts of at most so many samples.

    Raises:
        DataError: a part holds nothing that is as long as it has samples, so that it cannot be cut.
    """
    if max(batch.counts) <= limit:
        return batch
    parts: list[Any] = []
    counts: list[int] = []
    for part, count in zip(batch.parts, batch.counts, strict=True):
        if not any(isinstance(leaf, (torch.Tensor, np.ndarray)) and leaf.ndim and len(leaf) == count for leaf in leaves(part)):
            raise DataError(f"{describe(part)} of {count} samples cannot be cut: nothing in it is {count} long; give machine.micro_batch a number")
        some, sizes = split(part, count, limit)
        parts += some
        counts += sizes
    return replace(batch, parts=parts, counts=counts)
