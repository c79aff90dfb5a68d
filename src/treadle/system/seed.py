"""Random generators: Python's, NumPy's and torch's, seeded, saved and put back together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_SEED32 = 0xFFFFFFFF


def seed(number: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every device's), to build a model the same way twice.

    A run seeds by itself; call this before building a model outside of one.

    Args:
        number: any non-negative integer.

    Example:
        >>> seed(42)
        >>> a = torch.rand(2); seed(42); bool((a == torch.rand(2)).all())
        True
    """
    seed_here(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def seed_here(number: int) -> None:
    """Seed the three generators of this process's CPU: cheap enough to do before each sample."""
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number & _SEED32)


def generators() -> dict[str, Callable[[], Any]]:
    """Every generator that a run may draw from, as a function that gives its state."""
    found: dict[str, Callable[[], Any]] = {"python": random.getstate, "numpy": np.random.get_state, "torch": torch.get_rng_state}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state
    return found


def get_rng_state() -> dict[str, Any]:
    """The state of every generator that a run may draw from."""
    return {name: get() for name, get in generators().items()}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `get_rng_state` gave. Generators of devices that are not here are left alone."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every generator as it was found, also after an exception."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def cpu_state() -> tuple[object, ...]:
    """The state of this process's three generators, to be compared with another: whether anything was drawn between them."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, np.asarray(keys).tobytes(), *rest, torch.get_rng_state().numpy().tobytes()
