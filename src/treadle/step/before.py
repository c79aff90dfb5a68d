"""Before the step: what a forward pass moves by itself, as it was, so that a step can be taken back or made again.

Weights wait for the update; random generators, BatchNorm's statistics and other buffers do not. What never moves is not
copied: after the first step, and then ever more seldom, all of it is looked at, and what moved is remembered from there on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from treadle.system.seed import generators

_LARGE = 2**18
"""Elements above which a buffer is taken for a table that stands still."""


class Before:
    """Generators and buffers as they were when the step began."""

    def __init__(self) -> None:
        self._generators = generators()
        self._states: dict[str, Any] = {}
        self._moving: list[str] = []
        self._homes: dict[str, tuple[nn.Module, str]] = {}
        self._copies: dict[str, torch.Tensor] = {}
        self._moved: list[str] = []
        self._steps, self._next = 0, 0
        self._is_fresh = False  # whether all of it was looked at when this step began

    def watch(self, models: Iterable[tuple[str, nn.Module]]) -> None:
        """Know the models of a run, by name."""
        self._homes = {
            f"{name}.{path}.{key}": (module, key)
            for name, model in models
            for path, module in model.named_modules()
            for key, buffer in module._buffers.items()
            if buffer is not None and buffer.numel() <= _LARGE
        }

    def mark(self) -> None:
        """A step begins: remember how things are. Costs nothing where nothing moves."""
        self._is_fresh = self._steps == self._next
        if self._is_fresh:
            self._look()
        self._steps += 1
        for name in self._moving:
            self._states[name] = self._generators[name]()
        for name in self._moved:
            module, key = self._homes[name]
            self._copies[name].copy_(module._buffers[key])  # type: ignore[arg-type]

    def generators(self) -> tuple[dict[str, Any], list[str]]:
        """The state of each generator when the step began; and which of them moved for the first time in many steps, so that nobody knows when."""
        now = {name: get() for name, get in self._generators.items()}
        known = [*self._moving, *(now if self._is_fresh else ())]
        doubtful = [name for name, state in now.items() if name not in known and not _same(state, self._states.get(name, state))]
        return {**now, **self._states}, doubtful

    def put_back(self) -> None:
        """Put the buffers back."""
        for name, copy in self._copies.items():
            module, key = self._homes[name]
            buffer = module._buffers[key]
            if buffer is not None and buffer.shape == copy.shape:
                buffer.data.copy_(copy)

    def _look(self) -> None:
        """See what moved since the last time."""
        now = {name: get() for name, get in self._generators.items()}
        self._moving += [name for name in now if name not in self._moving and not _same(now[name], self._states.get(name, now[name]))]
        self._states = now
        buffers = {name: buffer.detach() for name, (module, key) in self._homes.items() if (buffer := module._buffers[key]) is not None}
        fresh = {name: buffer.clone() for name, buffer in buffers.items() if name not in self._copies or self._copies[name].shape != buffer.shape}
        self._moved += [name for name in buffers if name not in self._moved and name not in fresh and not _same(buffers[name], self._copies[name])]
        for name, buffer in buffers.items():
            if name not in fresh:
                self._copies[name].copy_(buffer)
        self._copies |= fresh
        self._next = max(1, 2 * self._steps)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one is other or (one.dtype == other.dtype and torch.equal(one, other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
