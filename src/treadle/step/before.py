"""Before the step: what a forward pass moves by itself, as it was, so that a step can be taken back or made again.

Weights wait for the update; random generators, BatchNorm's statistics and other buffers do not. The state of a
generator takes microseconds to get, so of one that never moves it is not asked for at each step: at first, and then ever
more seldom, all of them are looked at, and those that moved are remembered from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from treadle.step.buffers import Buffers
from treadle.system.seed import generators, set_rng_state

States = dict[str, Any]


class Stateful(Protocol):
    """What can say how it is, and be put back."""

    def state_dict(self) -> Any:
        """How it is."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Make it so again."""


class Before:
    """Generators and buffers as they were when the step began."""

    def __init__(self) -> None:
        self._generators = generators()
        self._own: Mapping[str, Stateful] = {}
        self._own_states: States = {}
        self._states: States = {}
        self._moving: list[str] = []
        self._buffers = Buffers()
        self._steps, self._next = 0, 0
        self._is_fresh = False  # whether all of them were looked at when this step began
        self._always = False  # whether they are at each step

    def watch(self, models: Iterable[tuple[str, nn.Module]], own: Mapping[str, Stateful]) -> None:
        """Know what to remember.

        Args:
            models: those of the run, by name.
            own: random generators that the run tracks, by name.
        """
        self._own = own
        self._buffers.watch(models)

    def look_always(self) -> None:
        """From here on look at every generator at each step: every step may have to be made again."""
        self._always = True

    def mark(self) -> None:
        """A step begins: remember how things are. Costs next to nothing where nothing moves."""
        self._is_fresh = self._always or self._steps == self._next
        if self._is_fresh:
            self._look()
        self._steps += 1
        for name in self._moving:
            self._states[name] = self._generators[name]()
        if self._own:
            self._own_states = {name: item.state_dict() for name, item in self._own.items()}
        self._buffers.mark(look=self._is_fresh)

    def generators(self) -> States:
        """The state of each of the process's generators when the step began."""
        return {name: self._states[name] if name in self._states else get() for name, get in self._generators.items()}

    def own_generators(self) -> States:
        """The same, of those that the run tracks."""
        return dict(self._own_states)

    def doubtful_generators(self) -> list[str]:
        """Generators that moved for the first time in many steps, so that nobody knows whether in this one."""
        if self._is_fresh:
            return []
        unsure = {name: get for name, get in self._generators.items() if name not in self._moving and name in self._states}
        return [name for name, get in unsure.items() if not _same(get(), self._states[name])]

    def doubtful_buffers(self) -> list[str]:
        """Large buffers that moved for the first time, and so were not copied."""
        return self._buffers.doubtful()

    def put_back(self) -> None:
        """Put the buffers back."""
        self._buffers.put_back()

    def put_back_generators(self) -> None:
        """Put the generators back, those of the run too."""
        set_rng_state(self.generators())
        for name, item in self._own.items():
            item.load_state_dict(self._own_states[name])

    def _look(self) -> None:
        """See which generators moved since the last time."""
        now = {name: get() for name, get in self._generators.items()}
        self._moving += [name for name in now if name not in self._moving and not _same(now[name], self._states.get(name, now[name]))]
        self._states = now
        self._next = max(1, 2 * self._steps)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one is other or (isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, (tuple, list)):
        return isinstance(other, (tuple, list)) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
