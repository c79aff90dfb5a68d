"""Data in memory, read a batch at a time where it lies: on the host, or on the training device as a whole."""

from __future__ import annotations

from typing import Any

import torch

from treadle.core.structure import leaves, map_leaves
from treadle.data.batch import Batch, sent, split
from treadle.data.order import Indices, Reader
from treadle.data.sources import Source

_SHARE = 4
"""Data moves to a GPU where it takes at most this part of the free memory, one over."""


class InMemory:
    """Tensors of one length, and where they are read.

    Args:
        source: tensors, see `treadle.data.sources`. It is left as it is.
        device: where they move as a whole; None leaves them where they are.

    Example:
        >>> from treadle.data.order import NAMED
        >>> data = InMemory(Source("tensors", (torch.arange(10.0),), NAMED["sequential"], length=10))
        >>> data.batch(Reader(NAMED["sequential"], 0, 10), 0, 4, 3, micro_batch=2, ends_epoch=False).parts
        [(tensor([4., 5.]),), (tensor([6.]),)]
    """

    def __init__(self, source: Source, device: torch.device | None = None) -> None:
        self._data, self._index = source.data, source.index
        if device is not None:
            self._data = map_leaves(lambda leaf: leaf.to(device), self._data)
        self.devices = {leaf.device for leaf in leaves(self._data)}
        self._home = next(iter(self.devices))
        self._block: Indices | None = None
        self._rows = torch.empty(0, dtype=torch.int64)

    def batch(self, reader: Reader, epoch: int, start: int, count: int, micro_batch: int | None, ends_epoch: bool) -> Batch:
        """The samples from a position of an epoch on: one index operation a tensor."""
        ids = reader.read(epoch, start, count)
        if reader.block is not self._block:
            self._block, self._rows = reader.block, self._placed(reader.block)
        rows = self._rows[reader.offset : reader.offset + count]
        return Batch(*split(self._taken(rows), count, micro_batch), count, ends_epoch, ids)

    def _placed(self, block: Indices) -> torch.Tensor:
        """A block of the order as row numbers where the data is: one copy for thousands of samples, and no wait at a batch."""
        rows = torch.from_numpy(block)
        if self._index is not None:
            rows = self._index[rows]
        return sent(rows, self._home)

    def _taken(self, rows: torch.Tensor) -> Any:
        data = self._data
        if type(data) is tuple and len(self.devices) == 1:  # the common case, without walking it
            return tuple([column.index_select(0, rows) for column in data])
        return map_leaves(lambda column: column.index_select(0, rows.to(column.device)), data)


def goes_to(source: Source, device: torch.device, resident: str | bool) -> torch.device | None:
    """Where data in memory moves as a whole: to the device, where that is asked for or fits easily on a GPU; None for nowhere."""
    if device.type == "cpu" or resident is False:
        return None
    if resident is True:
        return device
    if device.type != "cuda":
        return None
    free: int = torch.cuda.mem_get_info(device)[0]
    return device if sum(leaf.nbytes for leaf in leaves(source.data)) * _SHARE <= free else None
