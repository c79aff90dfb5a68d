"""Memory: the largest tensors by name, and the peak of each phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from treadle.core.structure import leaves

WEIGHTS, BUFFERS, GRADIENTS, STATE, SAVED, BATCH = "parameters", "buffers", "gradients", "optimizer state", "saved for backward", "batch"
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Held:
    """A tensor that takes memory.

    Args:
        kind: parameters, buffers, gradients, optimizer state, saved for backward, or batch.
        name: of the parameter, buffer or module that it belongs to.
        shape: its shape.
        dtype: such as "float32".
        bytes: size of its memory.
    """

    kind: str
    name: str
    shape: list[int]
    dtype: str
    bytes: int

    @classmethod
    def of(cls, kind: str, name: str, tensor: torch.Tensor) -> Held:
        """Describe a tensor."""
        return cls(kind, name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.nbytes)


class Tensors:
    """What is saved for one backward pass: that of the pass that saved most.

    Args:
        known: addresses of memory that is held anyway, such as that of weights.
    """

    def __init__(self, known: set[int]) -> None:
        self._known = known
        self._now: dict[int, Held] = {}
        self.most: list[Held] = []

    def add(self, tensor: torch.Tensor, owner: str) -> None:
        """A tensor is saved; one that shares its memory with another counts once, for who saved it first."""
        held, address = Held.of(SAVED, owner, tensor), id(tensor)
        if tensor.layout is torch.strided:  # a view keeps all of its storage
            storage = tensor.untyped_storage()
            held, address = replace(held, bytes=storage.nbytes()), storage.data_ptr()
        if address not in self._known and address not in self._now:
            self._now[address] = held

    def settle(self) -> None:
        """A backward pass begins, and lets go of them."""
        if sum(held.bytes for held in self._now.values()) > sum(held.bytes for held in self.most):
            self.most = list(self._now.values())
        self._now = {}


def held_by(models: Mapping[str, nn.Module], optimizers: Iterable[Optimizer], batch: Any) -> list[Held]:
    """Weights, gradients, optimizer states, buffers and the batch, as they are now."""
    found: list[Held] = []
    names: dict[int, str] = {}
    for key, model in models.items():
        prefix = "" if len(models) == 1 else f"{key}."
        for name, parameter in model.named_parameters():
            names[id(parameter)] = prefix + name
            found.append(Held.of(WEIGHTS, prefix + name, parameter))
            if parameter.grad is not None:
                found.append(Held.of(GRADIENTS, prefix + name, parameter.grad))
        found += [Held.of(BUFFERS, prefix + name, buffer) for name, buffer in model.named_buffers()]
    for optimizer in optimizers:
        for moved, state in optimizer.state.items():
            name = names.get(id(moved), "?")
            found += [Held.of(STATE, f"{key} of {name}", value) for key, value in state.items() if isinstance(value, torch.Tensor)]
    found += [Held.of(BATCH, f"part {place}", leaf) for place, leaf in enumerate(leaves(batch)) if isinstance(leaf, torch.Tensor)]
    return found


def sums(held: Iterable[Held]) -> dict[str, int]:
    """Bytes of each kind."""
    found: dict[str, int] = {}
    for one in held:
        found[one.kind] = found.get(one.kind, 0) + one.bytes
    return found


class Peaks:
    """The most memory in use during each phase: of the device where that is a GPU, else of the process.

    Args:
        device: where it is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.peaks: dict[str, int] = {}

    def changed(self, before: str, after: str) -> None:
        """A phase ends."""
        if (peak := self._take()) is not None:
            self.peaks[before] = max(peak, self.peaks.get(before, 0))

    def _take(self) -> int | None:
        """The peak since the last call, in bytes; None where the system does not tell."""
        if self._device.type == "cuda":
            peak = int(torch.cuda.max_memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
            return peak
        with suppress(OSError, IndexError, ValueError):
            peak = 1024 * int(_STATUS.read_text().partition("VmHWM:")[2].split()[0])
            _RESET.write_text("5")  # Linux: the peak of resident memory starts anew
            return peak
        return None
