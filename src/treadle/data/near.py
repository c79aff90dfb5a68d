"""Near-duplicates across splits: items whose thumbnails correlate.

The score is the normalised cross-correlation of two thumbnails (see `thumbnail`): 1 where they are alike up to brightness and
contrast. It is computed for all pairs, a block of them in one matrix product.

Source:
    the coefficient: Lewis, Fast Normalized Cross-Correlation, 1995, equation 2, without a shift; small grey images as the
    fingerprint of a large one: Torralba, Fergus and Freeman, 80 Million Tiny Images, 2008, section III.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from treadle.data.items import Ask, Clock, Viewer
from treadle.data.loader import Loader

LEAST, LISTED = 0.95, 20
"""The smallest score that is listed, and how many pairs are."""
BLOCK = 64
BYTES = 2**30
"""Memory for the thumbnails of a split; what is beyond is not read."""


@dataclass(frozen=True, order=True)
class NearPair:
    """Two items that are nearly the same: the splits, the indices, and the correlation of their thumbnails."""

    one: str
    mine: int
    other: str
    theirs: int
    score: float


@dataclass(frozen=True)
class Near:
    """The nearest pairs across splits, the nearest first, exact duplicates left out; and what could not be compared."""

    pairs: tuple[NearPair, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass
class _Small:
    """Thumbnails of a split: one a row, the indices that they are of, and the digests of their inputs."""

    name: str
    numbers: NDArray[np.float32]
    indices: list[int]
    inputs: list[bytes]


def find_near(
    loaders: Mapping[str, Loader],
    limit_seconds: float | None,
    seed: int,
    *,
    clock: Clock = time.perf_counter,
    watch: Callable[[int, int | None], None] | None = None,
) -> Near:
    """Find the nearest pairs of items across splits.

    Args:
        loaders: the splits by name.
        limit_seconds: the time there is; None takes what it needs.
        seed: the run's seed, under which items are drawn.
        clock: tells the time in seconds.
        watch: told how much is done, of how much.

    Example:
        >>> image = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> loaders = {"train": Loader(image, batch_size=1), "valid": Loader(2 * image[:1] + 0.1, batch_size=1)}
        >>> near = find_near(loaders, None, seed=0).pairs[0]
        >>> near.mine, near.theirs, round(near.score, 3)
        (0, 0, 1.0)
    """
    deadline = float("inf") if limit_seconds is None else clock() + limit_seconds
    notes: list[str] = []
    sizes = [loader.source.length or 0 for loader in loaders.values()]
    products = sum(a * b for a, b in combinations(sizes, 2)) // 10**4  # a matrix product takes some ten thousandth of a read
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if watch is not None:
            watch(done, sum(sizes) + products)

    small = []
    for place, name in enumerate(sorted(loaders, key=lambda name: loaders[name].source.length or 0)):
        share = clock() + (deadline - clock()) / (len(loaders) - place + 1)
        small.append(_read(name, loaders[name], seed, clock, share, notes, tell))
    order = {name: place for place, name in enumerate(loaders)}
    small.sort(key=lambda one: order[one.name])
    found: list[tuple[float, NearPair]] = []
    for one, other in combinations(small, 2):
        if one.numbers.shape[1] != other.numbers.shape[1]:
            if len(one.indices) and len(other.indices):
                notes.append(f"{one.name} and {other.name} have inputs of different sizes, so their items were not compared for nearness")
        elif not _compare(one, other, found, clock, deadline, tell):
            notes.append(f"the time was over before all of {one.name} was compared with {other.name} for nearness")
    pairs = tuple(pair for _, pair in sorted(found, key=lambda item: (-item[0], item[1].mine, item[1].theirs)))
    return Near(pairs, tuple(notes))


def _read(name: str, loader: Loader, seed: int, clock: Clock, until: float, notes: list[str], tell: Callable[[int], None]) -> _Small:
    total, read = loader.source.length or 0, 0
    small = _Small(name, np.zeros((0, 0), np.float32), [], [])
    rows: list[NDArray[np.float32]] = []
    with Viewer(loader, seed, clock) as viewer:
        if not viewer.can_look:
            notes.append(f"{name} cannot be compared: {viewer.name} is {loader.source.kind}")
            return small
        while read < total and clock() < until and sum(row.nbytes for row in rows[:1]) * len(rows) < BYTES:
            look = viewer.look(Ask(range(read, min(total, read + BLOCK)), seconds=until - clock(), small=True))
            for place, row in enumerate(look.small):
                if row is not None and (not rows or len(row) == len(rows[0])):
                    rows.append(row)
                    small.indices.append(read + place)
                    small.inputs.append(look.input[place])
            read += len(look.whole)
            tell(len(look.whole))
            if look.error:
                notes.append(f"{name} was read up to item {read:,} only: {look.error}")
                break
    if len(rows) < total:
        notes.append(f"{len(rows):,} of {total:,} {name} items were compared for nearness: images of one size, or vectors of 8 to 1024 numbers")
    return _Small(name, np.stack(rows) if rows else small.numbers, small.indices, small.inputs)


def _compare(one: _Small, other: _Small, found: list[tuple[float, NearPair]], clock: Clock, deadline: float, tell: Callable[[int], None]) -> bool:
    """Keep the nearest of all pairs of two splits; says whether the time sufficed."""
    ours, theirs = torch.from_numpy(one.numbers), torch.from_numpy(other.numbers).T
    step = max(1, 2**24 // max(1, len(other.indices)))
    for start in range(0, len(ours), step):
        if clock() >= deadline:
            return False
        scores = ours[start : start + step] @ theirs
        least = max(LEAST, found[0][0]) if len(found) >= LISTED else LEAST
        for row, column in (scores >= least).nonzero().tolist():
            mine, yours, score = start + row, column, min(1.0, float(scores[row, column]))
            if one.inputs[mine] == other.inputs[yours] or (len(found) >= LISTED and score <= found[0][0]):
                continue
            pair = NearPair(one.name, one.indices[mine], other.name, other.indices[yours], score)
            (heapq.heappushpop if len(found) >= LISTED else heapq.heappush)(found, (score, pair))
        tell(scores.numel() // 10**4)
    return True
