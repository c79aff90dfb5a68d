"""A snapshot: every tensor of a state as it is now, so that training may go on while it is written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from typing import Any

import torch

from treadle.checkpoint.tree import Encoded, encode
from treadle.system.background import Job

Place = tuple[int, int]
"""Where a tensor without gaps lies in the host's memory: its first byte, and how many there are."""
_WORTH = 1 << 24
"""Bytes from which on memory is worth a thread that makes it ready."""
_PART = 1 << 17
"""Elements for each thread that stay in a core's cache between two looks at them."""


def place_of(tensor: torch.Tensor) -> Place | None:
    """Where a tensor lies; None where it is elsewhere, or not in one piece and in order."""
    return (tensor.data_ptr(), tensor.nbytes) if _on_host(tensor) and tensor.is_contiguous() else None


def _on_host(tensor: torch.Tensor) -> bool:
    """Whether it has memory of its own there; some kinds of tensors only stand for others."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" and tensor.layout == torch.strided


class Snapshots:
    """Copies in memory that is kept from one snapshot to the next: used memory is filled three times as fast as new memory.

    So the host holds the tracked state once more, from the first snapshot or `reserve` on. A snapshot is good until the next is taken.
    """

    def __init__(self) -> None:
        self._kept = _Memory()
        self._before = _Memory()
        self._devices: set[torch.device] = set()
        self._reserving: Job[None] | None = None

    def reserve(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make memory for the first snapshot ready in a thread; where there is too little, the snapshot will ask for it again.

        Args:
            tensors: those that will be in it, as far as known. Only what is on the host counts: page-locked memory is got from the
                CUDA driver, and a graph may be captured meanwhile, which no other thread may disturb.
        """
        sizes = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if _on_host(tensor)}  # each once, as in the snapshot
        if sum(sizes.values()) >= _WORTH:
            self._reserving = Job(partial(_fill, self._kept, sizes.values()))
            self._reserving.start()

    def take(self, states: Mapping[str, Any], weights: Set[Place] = frozenset()) -> tuple[dict[str, Encoded], set[Place]]:
        """Take apart the states of tracked objects, and copy their tensors to the host.

        Args:
            states: the state of each, by name.
            weights: where floating tensors lie that shall be looked at on the way.

        Returns:
            the states taken apart, and those of the weights that were found finite.

        Raises:
            CheckpointError: a state cannot be stored; the message has its path.
        """
        self._end_reserving()
        self._before, self._kept = self._kept, _Memory()
        finite: set[Place] = set()
        found = {name: encode(state, name, partial(self._copy, weights, finite)) for name, state in states.items()}
        for device in self._devices:
            torch.cuda.synchronize(device)  # once for all its copies: none is on its way when the next step begins
        self._before = _Memory()
        return found, finite

    def close(self) -> None:
        """Let go of the memory."""
        self._end_reserving()
        self._kept = _Memory()

    def _end_reserving(self) -> None:
        if self._reserving is not None:
            self._reserving.cancel()
            self._reserving.wait()
            self._reserving = None

    def _copy(self, weights: Set[Place], finite: set[Place], name: str, value: torch.Tensor) -> torch.Tensor:
        memory = self._before.take(value.nbytes, value.is_cuda)
        if memory is None:
            memory = torch.empty(value.nbytes, dtype=torch.uint8, pin_memory=value.is_cuda)
        self._kept.add(memory)
        target = memory.view(value.dtype).view(value.shape)
        if value.is_cuda:
            self._devices.add(value.device)
        if (found := place_of(value)) is None or found not in weights or value.is_complex():
            return target.copy_(value, non_blocking=value.is_cuda)
        if _copied_finite(target.view(-1), value.view(-1)):
            finite.add(found)
        return target


class _Memory:
    """Pieces of memory by their size: it matters to nobody what was in them."""

    def __init__(self) -> None:
        self._pieces: defaultdict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)

    def add(self, piece: torch.Tensor) -> None:
        self._pieces[len(piece), piece.is_pinned()].append(piece)

    def take(self, size: int, pinned: bool) -> torch.Tensor | None:
        found = self._pieces[size, pinned]
        return found.pop() if found else None


def _fill(memory: _Memory, sizes: Iterable[int], check: Callable[[], None]) -> None:
    """Make pieces of memory that are there in truth: the system hands out promises, and keeps them where a page is first written to."""
    for size in sizes:
        check()
        piece = torch.empty(size, dtype=torch.uint8)
        piece.numpy().fill(0)  # by this thread alone, and without the interpreter's lock
        memory.add(piece)


def _copied_finite(target: torch.Tensor, value: torch.Tensor) -> bool:
    """Copy a flat tensor, and say whether it is finite as far as its sum tells: see `Tracked.check_finite`.

    Part by part: each is summed while it is in the cache still, which costs half of what another pass over memory does.
    """
    part, total = _PART * torch.get_num_threads(), 0.0
    wide = torch.promote_types(value.dtype, torch.float32)
    for start in range(0, len(value), part):
        here = slice(start, start + part)
        total += float(target[here].copy_(value[here]).sum(dtype=wide))
    return math.isfinite(total)
