"""A snapshot: every tensor of a state as it is now, so that training may go on while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from treadle.checkpoint.tree import Encoded, encode


class Snapshots:
    """Copies in memory that is kept from one snapshot to the next: used memory is filled two or three times as fast as new memory.

    So the host holds the tracked state once more, from the first snapshot on. A snapshot is good until the next is taken.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], torch.Tensor] = {}
        self._before: dict[tuple[str, str], torch.Tensor] = {}
        self._devices: set[torch.device] = set()

    def take(self, states: Mapping[str, Any]) -> dict[str, Encoded]:
        """Take apart the states of tracked objects, and copy their tensors to the host.

        Raises:
            CheckpointError: a state cannot be stored; the message has its path.
        """
        self._before, self._kept = self._kept, {}
        found = {name: encode(state, name, partial(self._copy, name)) for name, state in states.items()}
        for device in self._devices:
            torch.cuda.synchronize(device)  # once for all its copies: none is on its way when the next step begins
        self._before.clear()
        return found

    def _copy(self, name: str, place: str, value: torch.Tensor) -> torch.Tensor:
        target = self._before.get((name, place))
        if target is None or (target.shape, target.dtype) != (value.shape, value.dtype):
            target = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        if value.is_cuda:
            self._devices.add(value.device)
        self._kept[name, place] = target
        return target.copy_(value, non_blocking=value.is_cuda)
