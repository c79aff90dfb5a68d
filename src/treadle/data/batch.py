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
        turns: which time each sample comes, see `treadle.data.epochs.Chunk`.
    """

    parts: Sequence[Any]
    counts: Sequence[int]
    positions: int
    ends_epoch: bool
    ids: Indices | None = None
    mark: dict[str, Any] | None = None
    turns: Indices | None = None

    @property
    def samples(self) -> int:
        """Samples in all parts."""
        return sum(self.counts)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where it goes to a GPU while the GPU works. A DataLoader's own thread calls it."""
        self.parts = [map_leaves(pinned, part) for part in self.parts]
        return self


def endless(epoch: int | None = None, into: int = 0) -> Generator[Batch, None, None]:
    """Steps without data: one part that is None. `epoch`: how many steps make one, of which `into` are done; None knows no epochs."""
    while True:
        into += 1
        yield Batch([None], [1], 1, ends_epoch=into == epoch)
        into = 0 if into == epoch else into


def to_device(value: Any, device: torch.device) -> Any:
    """A batch with every tensor on a device; anything else stays what it is."""
    return map_leaves(lambda leaf: leaf.to(device, non_blocking=True) if hasattr(leaf, "to") else leaf, value)


def pinned(leaf: Any) -> Any:
    """A tensor of the host in page-locked memory; anything else stays what it is."""
    return leaf.pin_memory() if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" else leaf


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor on a device, without waiting for the device."""
    if device.type == "cpu":
        return tensor
    return (pinned(tensor) if device.type == "cuda" else tensor).to(device, non_blocking=True)


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


def ready(batch: Any, size: int | None) -> tuple[list[Any], list[int]]:
    """A batch that came as one, as micro-batches of tensors.

    Raises:
        DataError: see `count_samples` and `split`.
    """
    if size is None and _flat_tensors(batch) and batch[0].ndim:  # the common case, at the price of a look
        return [batch], [batch[0].size(0)]
    batch = as_tensors(batch)
    return split(batch, count_samples(batch), size)


def _flat_tensors(value: Any) -> bool:
    """Whether a batch is a plain pair or row of tensors: the common case, told without walking it."""
    if type(value) not in (tuple, list) or not value:
        return False
    for item in value:  # noqa: SIM110 - a generator expression takes twice as long
        if type(item) is not torch.Tensor:
            return False
    return True


def split(batch: Any, count: int, size: int | None) -> tuple[list[Any], list[int]]:
    """Cut a batch that came as one into micro-batches: every tensor, and every list in it, that is as long as the number of samples.

    Raises:
        DataError: a list could be one item a sample, or as many tensors of all samples.
    """
    if size is None or size >= count:
        return [batch], [count]
    starts = range(0, count, size)
    counts = [min(size, count - start) for start in starts]
    if type(batch) is tuple and _flat_tensors(batch) and all(item.ndim and len(item) == count for item in batch):
        return list(zip(*[item.split(size) for item in batch], strict=True)), counts

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

    return [cut(start) for start in starts], counts


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
