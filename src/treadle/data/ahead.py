"""One batch ahead: a batch goes to the GPU on a stream of its own while the model works on the one before.

What is ahead has been read, and nothing else: positions, marks and random generators are those of the batch that a step
takes, so a checkpoint says the same as without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from treadle.core.structure import leaves, map_leaves
from treadle.data.batch import Batch, pinned, to_device


class Copier(Protocol):
    """Brings batches to a device."""

    def begin(self, batch: Batch) -> Any:
        """Start the copy, and do not wait for it."""

    def finish(self, coming: Any) -> Batch:
        """The batch, for work that is given to the device from now on."""


def one_ahead(batches: Iterator[Batch], copier: Copier) -> Iterator[Batch]:
    """Each batch, of which the copy was begun before the one before it was taken.

    Nothing is read past the end of an epoch before it is asked for: the data may change between epochs, or be over. An error
    in what is ahead is raised where that batch would have come.

    Args:
        batches: of the host, in order.
        copier: starts and ends a copy.
    """
    held, error = None, None
    while True:
        if held is None:
            batch = next(batches, None)
            if batch is None:
                return
            held, ends_epoch = copier.begin(batch), batch.ends_epoch
        coming, ends = None, True
        if not ends_epoch:
            try:
                batch = next(batches, None)
                if batch is not None:
                    coming, ends = copier.begin(batch), batch.ends_epoch
            except Exception as caught:
                error = caught
        yield copier.finish(held)
        if error is not None:
            raise error
        held, ends_epoch = coming, ends


@dataclass
class Coming:
    """A batch that is on its way.

    Args:
        host: as it was read; its memory is the copy's until that is done.
        parts: micro-batches, whose tensors are being filled.
        arrived: an event after the copy.
    """

    host: Batch
    parts: list[Any]
    arrived: Any


class SideStream:
    """Copies from page-locked memory on a CUDA stream of its own.

    Nothing waits on the host. The stream that computes waits, on the device, for the event after the copy; each tensor is
    recorded on that stream, so that the allocator gives its memory to nobody before the work on it is done. Page-locked
    memory is kept by torch until the copy out of it is done.

    Args:
        device: a CUDA device.
        cuda: what has ``Stream``, ``Event``, ``stream`` and ``current_stream``; `torch.cuda` but in tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)

    def begin(self, batch: Batch) -> Coming:
        """See `Copier.begin`."""
        side: AbstractContextManager[Any] = self._cuda.stream(self._stream)
        with side:
            parts = [map_leaves(self._moved, part) for part in batch.parts]
            arrived = self._cuda.Event()
            arrived.record(self._stream)
        return Coming(batch, parts, arrived)

    def finish(self, coming: Coming) -> Batch:
        """See `Copier.finish`."""
        computing = self._cuda.current_stream(self._device)
        computing.wait_event(coming.arrived)
        for leaf in leaves(coming.parts):
            if isinstance(leaf, torch.Tensor):
                leaf.record_stream(computing)
        # What is no tensor, but can be moved, goes now: of its tensors nobody could be told.
        return replace(coming.host, parts=[to_device(part, self._device) for part in coming.parts])

    def _moved(self, leaf: Any) -> Any:
        return pinned(leaf).to(self._device, non_blocking=True) if isinstance(leaf, torch.Tensor) else leaf
