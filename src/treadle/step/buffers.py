"""Buffers: what models hold that is no weight, as it was when the step began.

BatchNorm's statistics, the vectors of a spectral norm and the like move in the forward pass, before anybody knows
whether the step is good. Small buffers are copied at each step, in one call. A large one is mostly a table that stands
still: it is copied at the first step, and after that only where it has moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_
from typing import NamedTuple

import torch
from torch import nn

_SMALL = 2**18
"""Elements up to which a buffer is copied without asking whether it moves."""
_HUGE = 2**28
"""Bytes above which a buffer is not copied: memory for it would be missing elsewhere."""


class _Home(NamedTuple):
    """Where a buffer is."""

    name: str
    place: dict[str, torch.Tensor | None]
    key: str


class Buffers:
    """The buffers of some models, and a copy of those that a forward pass may move."""

    def __init__(self) -> None:
        self._models: list[tuple[str, nn.Module]] = []
        self._homes: list[_Home] = []
        self._seen: list[torch.Tensor | None] = []
        self._moving: set[tuple[int, str]] = set()
        self._resting: list[tuple[_Home, torch.Tensor, int]] = []  # large ones, each with its version when it was looked at
        self._kept: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._is_first = True

    def watch(self, models: Iterable[tuple[str, nn.Module]]) -> None:
        """Know the models, by name."""
        self._models, self._is_first = list(models), True

    def mark(self, look: bool) -> None:
        """A step begins: remember how they are.

        Args:
            look: also look for buffers that are new in the models.
        """
        if look:
            self._homes = _homes(self._models)
        if not self._homes:
            return
        now = [place.get(key) for _, place, key in self._homes]
        if look or len(now) != len(self._seen) or not all(map(is_, now, self._seen)) or self._have_woken():
            self._sort(now)
            return
        if self._kept:
            try:
                with torch.no_grad():
                    torch._foreach_copy_(self._copies, self._kept)
            except RuntimeError:  # one of them has another shape now
                self._sort(now)

    def put_back(self) -> None:
        """Make them what they were, also those that were replaced by assignment."""
        for home, buffer in zip(self._homes, self._seen, strict=True):
            home.place[home.key] = buffer
        for buffer, copy in zip(self._kept, self._copies, strict=True):
            if buffer.shape == copy.shape:
                buffer.data.copy_(copy)
            else:
                buffer.data = copy.clone()

    def doubtful(self) -> list[str]:
        """Those that moved in this step, and of which there is no copy."""
        return [
            home.name for home, buffer, version in self._resting if _version(buffer) != version and all(buffer is not kept for kept in self._kept)
        ]

    def _have_woken(self) -> bool:
        return any(_version(buffer) != version for _, buffer, version in self._resting)

    def _sort(self, now: list[torch.Tensor | None]) -> None:
        """Tell those that are copied from those that rest, and copy them."""
        self._moving |= {(id(home.place), home.key) for home, buffer, version in self._resting if _version(buffer) != version}
        known = {(id(home.place), home.key): buffer for home, buffer in zip(self._homes, now, strict=True)}
        for home, buffer, _ in self._resting:
            if known.get((id(home.place), home.key), buffer) is not buffer:  # replaced by assignment
                self._moving.add((id(home.place), home.key))
        self._seen, self._resting, self._kept = now, [], []
        for home, found in zip(self._homes, now, strict=True):
            if found is None or found.layout is not torch.strided or found.is_meta:
                continue
            is_large = found.numel() > _SMALL
            if is_large and (id(home.place), home.key) not in self._moving:
                self._resting.append((home, found, _version(found)))
                if not self._is_first or found.nbytes > _HUGE:
                    continue
            self._kept.append(found)
        self._copies = [buffer.detach().clone() for buffer in self._kept]
        self._is_first = False


def _homes(models: Iterable[tuple[str, nn.Module]]) -> list[_Home]:
    """Every buffer that is there, once: modules that two models share are the first one's."""
    seen: set[nn.Module] = set()
    return [
        _Home(f"{name}.{path}.{key}" if path else f"{name}.{key}", module._buffers, key)
        for name, model in models
        for path, module in model.named_modules(memo=seen)
        for key in module._buffers
    ]


def _version(buffer: torch.Tensor) -> int:
    """A number that every operation in place makes larger."""
    return 0 if buffer.is_inference() else buffer._version
