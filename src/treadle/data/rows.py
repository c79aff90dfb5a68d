"""Rows of tensors: a digest of each, many at a time, and whether two of them hold the same bits."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from treadle.core.mix import MUL1
from treadle.core.structure import describe, leaves, map_leaves

Words = NDArray[np.uint64]
_WIDE = 2048
"""Bytes of a row from which on a digest a row is faster than a pass over many rows for each of its words."""
_SHIFT = np.uint64(32)


class Rows:
    """Tensors of one length, and some of their rows.

    Args:
        data: a structure of tensors.
        index: which rows these are; None for all.
        length: how many.

    Example:
        >>> rows = Rows((torch.tensor([[1.0], [2.0], [1.0]]),), None, 3)
        >>> (rows.digests(0, 3) == rows.digests(0, 3)[0]).tolist()
        [True, False, True]
    """

    def __init__(self, data: Any, index: torch.Tensor | None, length: int) -> None:
        self._columns: list[torch.Tensor] = leaves(data)
        self._index, self._length = index, length
        self.form = describe(map_leaves(lambda leaf: leaf[0], data))
        """Structure, types and shapes of a row: rows of different forms are different."""

    @property
    def bytes_a_row(self) -> int:
        """Size of one."""
        return sum(column[:1].nbytes for column in self._columns)

    def digests(self, start: int, stop: int, begun: Words | None = None) -> Words:
        """64 bits for each row from one to before another.

        Args:
            start: the first row.
            stop: the row after the last.
            begun: digests of other columns of the same rows, which these go on from.

        Returns:
            shape (stop - start,).
        """
        form = np.uint64(int.from_bytes(hashlib.blake2b(self.form.encode(), digest_size=8).digest(), "little"))
        state = np.full(stop - start, form) if begun is None else (begun ^ form) * np.uint64(MUL1)
        for content in self._bytes(torch.arange(start, stop)):
            words = _hashed_one_by_one(content) if content.shape[1] >= _WIDE else _as_words(content)
            for word in words:
                state ^= word
                state *= np.uint64(MUL1)  # odd, and so is each step of it a bijection: what differs stays different until it meets another word
                state ^= state >> _SHIFT
        return state

    def same(self, ours: NDArray[np.int64], other: Rows, theirs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether rows of these hold the bits of rows of others; shape (n,) for n row numbers of each."""
        if self.form != other.form:
            return np.zeros(len(ours), dtype=bool)
        equal = np.ones(len(ours), dtype=bool)
        step = max(1, 2**24 // max(1, self.bytes_a_row))
        for start in range(0, len(ours), step):
            part = slice(start, start + step)
            for one, two in zip(self._bytes(torch.from_numpy(ours[part])), other._bytes(torch.from_numpy(theirs[part])), strict=True):
                equal[part] &= (one == two).all(axis=1)
        return equal

    def _bytes(self, rows: torch.Tensor) -> list[NDArray[np.uint8]]:
        """The bytes of some rows, a matrix for each column."""
        chosen = rows if self._index is None else self._index[rows.to(self._index.device)]
        found = []
        for column in self._columns:
            values = column.detach().index_select(0, chosen.to(column.device)).cpu().resolve_conj().resolve_neg().contiguous()
            width = values[:1].nbytes
            found.append(values.reshape(-1).view(torch.uint8).numpy().reshape(len(rows), width))
        return found


def _as_words(content: NDArray[np.uint8]) -> Words:
    """The same bytes as 64-bit words, a row of words for each place in a row of bytes."""
    missing = -content.shape[1] % 8
    padded = np.pad(content, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(content)
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _hashed_one_by_one(content: NDArray[np.uint8]) -> Words:
    digests = b"".join(hashlib.blake2b(memoryview(row), digest_size=8).digest() for row in content)
    return np.frombuffer(digests, dtype=np.uint64)[None]
