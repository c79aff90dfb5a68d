"""Random generators of the user's own, as objects with state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class OwnGenerator:
    """A generator that can be tracked like a model.

    Args:
        get: gives its state.
        put: puts a state back.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
        self._get, self._put = get, put

    def state_dict(self) -> dict[str, Any]:
        """Where the generator is."""
        return {"state": self._get()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it there again."""
        self._put(state["state"])


def with_state(item: Any) -> Any:
    """The object itself, or what stands for it where it is a generator of torch, NumPy or Python.

    Example:
        >>> generator = torch.Generator()
        >>> before = with_state(generator).state_dict()
        >>> a = torch.rand(2, generator=generator)
        >>> with_state(generator).load_state_dict(before)
        >>> bool((a == torch.rand(2, generator=generator)).all())
        True
    """
    if isinstance(item, torch.Generator):
        return OwnGenerator(item.get_state, item.set_state)
    if isinstance(item, np.random.Generator):
        return OwnGenerator(lambda: item.bit_generator.state, lambda state: setattr(item.bit_generator, "state", state))
    if isinstance(item, np.random.RandomState):
        return OwnGenerator(lambda: item.get_state(legacy=False), item.set_state)
    if isinstance(item, random.Random):
        return OwnGenerator(item.getstate, item.setstate)
    return item
