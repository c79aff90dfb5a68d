"""Preparation: a function of a whole batch, on the training device, with random numbers that belong to each sample.

It runs in the training process when a step takes its batch, never before: what it draws from torch's own generators is
drawn as dropout draws, and a resume goes on there. What it draws from a `Draw` depends on the sample alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from treadle.core.errors import DataError
from treadle.core.mix import mix
from treadle.core.structure import describe
from treadle.data.batch import Batch, count_samples, sent, split
from treadle.data.ended import ended
from treadle.data.order import Indices, hashed, mixed

PREPARE = 15
"""What a seed is for; each purpose has a stream of its own."""
Prepare = Callable[..., Any]


class Draw:
    """Random numbers for each sample of a batch, from (seed, epoch, sample): the same on every device, in any batch.

    Args:
        seed: the run's seed.
        epoch: epochs finished; or for each sample which time it comes, int64 of shape (samples,).
        ids: which samples; int64 of shape (samples,).
        device: where the numbers are wanted.

    Example:
        >>> draw = Draw(seed=0, epoch=3, ids=np.arange(4), device=torch.device("cpu"))
        >>> shift, turn = draw(2), draw(1)
        >>> shift.shape, turn.shape, bool((turn == draw(1)).any())
        (torch.Size([4, 2]), torch.Size([4, 1]), False)
    """

    def __init__(self, seed: int, epoch: int | Indices, ids: Indices, device: torch.device) -> None:
        self._seed, self._epoch, self._ids, self._device = seed, epoch, ids, device
        self._given = 0

    def __call__(self, count: int) -> torch.Tensor:
        """Some further numbers for each sample: float32 in [0, 1), of shape (samples, count)."""
        numbers = range(self._given, self._given + count)
        self._given += count
        if isinstance(self._epoch, int):
            keys = np.array([mix(self._seed, self._epoch, number, PREPARE) for number in numbers], dtype=np.uint64)
        else:
            keys = mixed(self._seed, self._epoch[:, None], np.array(numbers), PREPARE)
        bits = hashed(self._ids[:, None], keys) >> np.uint64(40)  # as many as a float32 has
        return sent(torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24)), self._device)


def takes_draw(prepare: Prepare) -> bool:
    """Whether a function wants random numbers of each sample: it has a parameter named ``draw``."""
    try:
        return "draw" in inspect.signature(prepare).parameters
    except (TypeError, ValueError):  # of a builtin nobody knows
        return False


def prepared(
    batches: Iterator[Batch], prepare: Prepare, seed: int, micro_batch: int | None, device: torch.device, epoch: int, into: int
) -> Iterator[Batch]:
    """Batches as a function makes them of whole ones, cut into micro-batches afterwards: how they are cut changes no draw.

    Raises:
        DataError: the function gave nothing, or a batch of another length that cannot be cut.
    """
    draws = takes_draw(prepare)
    for batch in batches:
        whole = batch.parts[0]
        try:
            if draws:
                # A stream's samples have no index: they are known by their place in the epoch.
                ids = np.arange(into, into + batch.positions) if batch.ids is None else batch.ids
                ready = prepare(whole, draw=Draw(seed, epoch if batch.turns is None else batch.turns, ids, device))
            else:
                ready = prepare(whole)
        except StopIteration as error:
            raise ended(f"prepare {name_of(prepare)}") from error
        except Exception as error:
            error.add_note(f"raised while {name_of(prepare)} prepared a batch of {describe(whole)}")
            raise
        parts, counts = _cut(ready, prepare, batch.samples, micro_batch)
        yield replace(batch, parts=parts, counts=counts)
        epoch, into = (epoch + 1, 0) if batch.ends_epoch else (epoch, into + batch.positions)


def name_of(prepare: Prepare) -> str:
    """A function as messages call it."""
    return getattr(prepare, "__qualname__", None) or repr(prepare)


def _cut(ready: Any, prepare: Prepare, samples: int, micro_batch: int | None) -> tuple[list[Any], list[int]]:
    if ready is None:
        raise DataError(f"{name_of(prepare)} gave None for a batch; prepare has to return the batch")
    if micro_batch is None or micro_batch >= samples:
        return [ready], [samples]
    if (count := count_samples(ready)) != samples:
        raise DataError(
            f"{name_of(prepare)} made {count} samples of {samples}, so the batch cannot be cut by machine.micro_batch={micro_batch}; "
            "keep one row a sample, such as (samples, views, ...)"
        )
    return split(ready, samples, micro_batch)
