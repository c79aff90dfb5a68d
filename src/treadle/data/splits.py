"""A split while it is looked at: how far it was read, and the digests of what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Subset

from treadle.data.content import BYTES, input_part
from treadle.data.items import Ask, Viewer
from treadle.data.rows import Rows

TWICE = 8
"""Items that are read a second time, under other seeds."""
BLOCK = 64
"""Items that are asked for at once."""
ROWS_BYTES = 2**24
"""Of data in memory, bytes that are digested at once."""
Digests = NDArray[np.uint64]


class Split:
    """One split.

    Args:
        name: such as "train".
        viewer: reads its items.
        by_rows: whether all splits are in memory, so that their rows can be digested many at a time, and compared bit by bit.
    """

    def __init__(self, name: str, viewer: Viewer, by_rows: bool) -> None:
        source = viewer.source
        self.name, self.total, self.read, self.random = name, source.length, 0, False
        self.notes: list[str] = []
        self.done = not viewer.can_look
        """Whether nothing is left to read."""
        self._viewer = viewer
        self._rows: tuple[Rows, Rows | None] | None = None
        self._whole: list[Any] = []
        self._inputs: list[Any] = []
        self.base: Any = None
        self.chosen: NDArray[np.int64] | None = None
        """The dataset that has the items, under all Subsets, and which of its items these are; None for all of them."""
        if source.kind == "indexed":
            self.base, self.chosen = _unwrapped(source.data)
        if self.done:
            self.notes.append(f"{name} cannot be compared: {viewer.name} {viewer.why_not}")
        elif by_rows and source.kind == "tensors":
            part, rest = _parted(source.data)
            length = source.length or 0
            self._rows = (Rows(part, source.index, length), None if rest is None else Rows(rest, source.index, length))

    def go_on(self, seconds: float, tell: Callable[[], None]) -> None:
        """Read on for some time, at least one item."""
        clock = self._viewer.clock
        began = clock()
        if self._rows is None and not self.read:
            self._see_whether_random(seconds / 4)
        while not self.done:
            left = seconds - (clock() - began)
            if self._rows is not None:
                self._read_rows()
            else:
                self._read_items(max(0.0, left))
            tell()
            if clock() - began >= seconds:
                return

    def _see_whether_random(self, seconds: float) -> None:
        few = list(range(min(TWICE, self.total or 0)))
        first, second = (self._viewer.look(Ask(few, epoch, seconds / 2)) for epoch in (0, 1))
        self.random = any(one != other for one, other in zip(first.whole, second.whole, strict=False))
        if self.random:
            self.done = True
            self.notes.append(
                f"items of {self.name} are random ({self._viewer.name} gives another one each time), so exact duplicates cannot be seen; "
                "give the data without augmentation to `treadle check-data FILE --test FUNCTION`"
            )

    def _read_items(self, seconds: float) -> None:
        total = self.total or 0
        look = self._viewer.look(Ask(range(self.read, min(total, self.read + BLOCK)), seconds=seconds))
        self._whole.append(_as_digests(look.whole))
        self._inputs.append(_as_digests(look.input[: len(look.whole)]))
        self.read += len(look.whole)
        self.done = self.read == total or bool(look.error)
        if look.error:
            self.notes.append(f"{self.name} was read up to item {self.read:,} only: {look.error}")

    def _read_rows(self) -> None:
        assert self._rows is not None
        part, rest = self._rows
        size = max(1, ROWS_BYTES // max(1, part.bytes_a_row + (rest.bytes_a_row if rest else 0)))
        stop = min(self.total or 0, self.read + size)
        inputs = part.digests(self.read, stop)
        whole = inputs if rest is None else rest.digests(self.read, stop, inputs)
        for found, digests in ((self._inputs, inputs), (self._whole, whole)):
            found.append(np.stack([digests, np.zeros_like(digests)], axis=1))
        self.read, self.done = stop, stop == self.total

    def whole(self) -> Digests:
        """Of the items that were read; shape (read, 2)."""
        return _joined(self._whole)

    def inputs(self) -> Digests:
        """Of what of them the model sees; shape (read, 2)."""
        return _joined(self._inputs)

    def same(self, ours: NDArray[np.int64], other: Split, theirs: NDArray[np.int64], which: str) -> NDArray[np.bool_]:
        """Whether items of the same digest are the same; digests of 16 bytes say so by themselves."""
        if self._rows is None or other._rows is None:
            return np.ones(len(ours), dtype=bool)
        (part, rest), (their_part, their_rest) = self._rows, other._rows
        equal = part.same(ours, their_part, theirs)
        if which == "whole" and rest is not None and their_rest is not None:
            equal &= rest.same(ours, their_rest, theirs)
        return equal & ((rest is None) == (their_rest is None) or which == "inputs")


def _parted(data: Any) -> tuple[Any, Any]:
    """Columns that are the input, and the others; None where there are none."""
    part = input_part(data)
    if part is data:
        return data, None
    others = data.items() if isinstance(data, Mapping) else enumerate(data)
    return part, {str(name): column for name, column in others if column is not part}


def _unwrapped(data: Any) -> tuple[Any, NDArray[np.int64] | None]:
    """The dataset under all Subsets, and which of its items these are; None for all."""
    if type(data) is not Subset:
        return data, None
    base, inner = _unwrapped(data.dataset)
    chosen = np.asarray(data.indices, dtype=np.int64).reshape(-1)
    chosen = np.where(chosen < 0, chosen + len(data.dataset), chosen)  # type: ignore[arg-type]
    return base, chosen if inner is None else inner[chosen]


def _as_digests(found: list[bytes]) -> Digests:
    return np.frombuffer(b"".join(found), dtype=np.uint64).reshape(-1, BYTES // 8)


def _joined(found: list[Digests]) -> Digests:
    return np.concatenate(found) if found else np.zeros((0, BYTES // 8), dtype=np.uint64)
