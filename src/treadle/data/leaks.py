"""Leaks: items of one split that are in another too, found by what is in them.

A validation or test score says nothing about items that were trained on. Two splits of the very same dataset are compared
by their indices, without reading anything; everything else by digests of what is read, the smallest split first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.data.items import Clock, Viewer
from treadle.data.loader import Loader
from treadle.data.splits import Split

LISTED = 1000
"""Matches that are kept of a pair; all of them are counted."""
SAME_ITEM, SAME_INPUT = "same item", "same input, another target"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """Items of one split that are in another.

    Args:
        one: the split in which they are too, such as "train".
        other: the split whose items are counted, such as "valid".
        kind: "same item", or "same input, another target".
        count: how many items of `other` are in `one`.
        matches: index in `one` and index in `other`, in the order of `other`; the first 1,000.
    """

    one: str
    other: str
    kind: str
    count: int
    matches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Coverage:
    """What of a split was looked at.

    Args:
        read: items that were read.
        total: items there are; None where nobody knows.
        random: whether an item is another one each time it is read, so that exact duplicates cannot be seen.
        repeated: items that are the same as an earlier one of the same split.
    """

    read: int
    total: int | None
    random: bool = False
    repeated: int = 0

    @property
    def complete(self) -> bool:
        """Whether all of it was compared."""
        return self.read == self.total and not self.random


@dataclass(frozen=True)
class Leaks:
    """What was found between splits.

    Args:
        pairs: what is in two splits, each pair of splits and kind once.
        coverage: by the name of the split, what of it was looked at.
        notes: what could not be compared, and why.
        seconds: how long it took.
    """

    pairs: tuple[Pair, ...]
    coverage: dict[str, Coverage]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every item of every split was compared."""
        return all(one.complete for one in self.coverage.values())

    @property
    def covered(self) -> str:
        """What was read, in words."""
        parts = [f"{one.read:,} of {one.total:,} {name}" for name, one in self.coverage.items() if one.total is not None]
        return f"read {', '.join(parts) or 'no'} items in {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Leaks:
        """Back from JSON.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        pairs = (Pair(**{**one, "matches": tuple((int(a), int(b)) for a, b in one["matches"])}) for one in facts["pairs"])
        coverage = {str(name): Coverage(**one) for name, one in facts["coverage"].items()}
        return cls(tuple(pairs), coverage, tuple(map(str, facts["notes"])), float(facts["seconds"]))


def find_leaks(
    loaders: Mapping[str, Loader],
    limit_seconds: float | None,
    seed: int,
    *,
    clock: Clock = time.perf_counter,
    watch: Callable[[int, int | None], None] | None = None,
    viewers: Mapping[str, Viewer] | None = None,
) -> Leaks:
    """Find what is in several splits at once.

    What counts is the content: the bits of an item, types and shapes included. An item that has the input of another and
    not its target is a leak as well, of a kind of its own; the input is the first of a tuple, or the field "input", else the
    first field, of a mapping.

    Args:
        loaders: the splits by name, those that are trained on first. Parts of one split, such as ``valid/clean`` and ``valid/noisy``, may overlap.
        limit_seconds: the time there is for reading; None reads everything. It is looked at between items.
        seed: the run's seed, under which items are drawn.
        clock: tells the time in seconds.
        watch: told how many items are read, of how many.
        viewers: read the items, where they are open already.

    Returns:
        what was found, and what of each split was looked at.

    Example:
        >>> train, valid = (Loader(data, batch_size=1) for data in ([1.0, 2.0, 3.0], [3.0]))
        >>> find_leaks({"train": train, "valid": valid}, 2.0, seed=0).pairs[0].matches
        ((2, 0),)
    """
    began = clock()
    with ExitStack() as stack:
        open_viewers = viewers or {name: stack.enter_context(Viewer(loader, seed, clock)) for name, loader in loaders.items()}
        together = all(viewer.source.kind == "tensors" for viewer in open_viewers.values() if viewer.can_look)
        splits = [Split(name, viewer, by_rows=together) for name, viewer in open_viewers.items()]
        _read(splits, limit_seconds, began, clock, watch)
    whole, inputs = _ids(splits, "whole"), _ids(splits, "inputs")
    pairs: list[Pair] = []
    for one, other in combinations(range(len(splits)), 2):
        if _parts_of_one(splits[one].name, splits[other].name):
            continue
        pairs += _between(splits[one], splits[other], (whole[one], whole[other]), (inputs[one], inputs[other]))
    coverage = {
        split.name: Coverage(split.read, split.total, split.random, len(ids) - len(np.unique(ids))) for split, ids in zip(splits, whole, strict=True)
    }
    notes = tuple(note for split in splits for note in split.notes)
    return Leaks(tuple(pairs), coverage, notes, round(clock() - began, 3))


def _read(splits: list[Split], limit: float | None, began: float, clock: Clock, watch: Callable[[int, int | None], None] | None) -> None:
    """Read splits in turn, the smallest first, each for its share of the time that is left; who needs less leaves it to the others."""
    total = sum(split.total or 0 for split in splits if not split.done)

    def tell() -> None:
        if watch is not None:
            watch(sum(split.read for split in splits), total)

    ready = sorted((split for split in splits if not split.done), key=lambda split: split.total or 0)
    while ready:
        for place, split in enumerate(ready):
            left = float("inf") if limit is None else limit - (clock() - began)
            if left <= 0:
                return
            split.go_on(left / (len(ready) - place), tell)
        ready = [split for split in ready if not split.done]


def _ids(splits: list[Split], which: str) -> list[Ids]:
    """Digests as small numbers, the same for the same content over all splits; rows in memory that only seem alike are told apart."""
    digests = [getattr(split, which)() for split in splits]
    bounds = np.cumsum([0, *map(len, digests)])
    ids = _numbered(np.concatenate(digests))
    _, first = np.unique(ids, return_index=True)
    model = first[ids]  # of each item the first one anywhere of the same digest
    for place, split in enumerate(splits):
        mine = np.arange(bounds[place], bounds[place + 1])
        for home, other in enumerate(splits):
            there = model[mine]
            here = mine[(there >= bounds[home]) & (there < bounds[home + 1]) & (there != mine)]
            wrong = here[~split.same(here - bounds[place], other, model[here] - bounds[home], which)]
            ids[wrong] = len(model) + wrong
    return [ids[bounds[place] : bounds[place + 1]] for place in range(len(splits))]


def _numbered(digests: NDArray[np.uint64]) -> Ids:
    """0, 1, ... in place of digests of shape (n, 2)."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.cumsum(new) - 1
    return ids


def _between(one: Split, other: Split, whole: tuple[Ids, Ids], inputs: tuple[Ids, Ids]) -> list[Pair]:
    """What of one split is in another."""
    if one.base is not None and one.base is other.base and one.chosen is None and other.chosen is None:
        every = other.total or 0
        return [Pair(one.name, other.name, SAME_ITEM, every, tuple((index, index) for index in range(min(every, LISTED))))]
    same = _first_of_each(np.concatenate([_shared(one, other), _found(*whole)], axis=1))
    alike = _found(*inputs)
    alike = alike[:, ~np.isin(alike[1], same[1])]
    return [
        Pair(one.name, other.name, kind, found.shape[1], tuple((int(mine), int(theirs)) for mine, theirs in found[:, :LISTED].T))
        for kind, found in ((SAME_ITEM, same), (SAME_INPUT, alike))
        if found.shape[1]
    ]


def _parts_of_one(one: str, other: str) -> bool:
    """Whether two splits are parts of one, such as valid/clean and valid/noisy: nothing is trained on either, so they may overlap."""
    return "/" in one and one.partition("/")[0] == other.partition("/")[0]


def _found(ours: Ids, theirs: Ids) -> Ids:
    """First place in one list, and place in the other, of each of the other's numbers that is in both; shape (2, n)."""
    known, first = np.unique(ours, return_index=True)
    where = np.flatnonzero(np.isin(theirs, known))
    return np.stack([first[np.searchsorted(known, theirs[where])], where])


def _shared(one: Split, other: Split) -> Ids:
    """As `_found`, of the items of the very same dataset; at most one of the splits is all of it."""
    if one.base is None or one.base is not other.base:
        return np.zeros((2, 0), np.int64)
    if one.chosen is None and other.chosen is not None:
        return np.stack([other.chosen, np.arange(len(other.chosen))])
    if other.chosen is None and one.chosen is not None:
        known, first = np.unique(one.chosen, return_index=True)
        return np.stack([first, known])
    assert one.chosen is not None and other.chosen is not None
    return _found(one.chosen, other.chosen)


def _first_of_each(found: Ids) -> Ids:
    """Each place in the other list once."""
    _, first = np.unique(found[1], return_index=True)
    return found[:, first]
