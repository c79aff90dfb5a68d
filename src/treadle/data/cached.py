"""A cache: items that are slow to make, made once.

On disk, an entry is a file of its own, which begins with the checksum of the rest and appears by a rename: it is whole, or
not there, or seen to be damaged and made again.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
import warnings
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from treadle.core.errors import DataError
from treadle.core.excerpt import excerpt
from treadle.data.content import Unhashable, digest
from treadle.data.views import View, ahead_of, name_of, over
from treadle.system.seed import cpu_state, preserved_rng

SUM = 32
"""Bytes of a checksum."""
SHARD = 1000
"""Entries in a folder."""


def cache(source: Any, folder: str | os.PathLike[str] | None = None) -> Any:
    """A dataset whose items are made once, and then remembered.

    It goes around what is slow and always the same, such as decoding; what draws random numbers goes around it:
    ``map(cache(map(files, decode), "cache"), augment)``. Each time it is asked, an item is a copy of its own.

    Args:
        source: a dataset, a tuple of tensors, or `treadle.Samples`, of which all that it says stays.
        folder: where items are kept, for all workers, runs and programs that give the same folder; entries are named after
            the index, and after a fingerprint of the source: its length and three of its items. They are pickles, so give
            a folder that nobody else writes to. Unless told, each process that loads remembers the items that it made.

    Returns:
        a dataset of the same length; `treadle.Samples` where that was given.

    Raises:
        DataError: the source cannot be read by index; when an item is made: it drew random numbers, or cannot be pickled.

    Warns:
        RuntimeWarning: an entry is damaged; it is made again.

    Example:
        >>> squares = cache(range(4))
        >>> squares[3], squares[3]
        (3, 3)
    """
    place = None if folder is None else Path(folder)
    if place is not None and place.exists() and not place.is_dir():
        raise DataError(f"treadle.data.cache: {os.fspath(place)!r} is a file; give a folder")
    return over(source, lambda data: Cached(data, place), "treadle.data.cache")


class Cached(View):
    """See `cache`."""

    def __init__(self, source: Any, folder: Path | None) -> None:
        super().__init__(source)
        self._source, self._folder = source, folder
        self._kept: dict[int, bytes] = {}
        self.__name__ = f"cache({name_of(source)})"

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        found = self._entry(index)
        if found is None:
            return self._made(index)
        try:
            return pickle.loads(found)
        except Exception as error:  # it is whole, and from a program that had other classes
            self._warn(index, f"cannot be read: {excerpt(error)}")
            return self._made(index)

    def ahead(self, indices: list[int]) -> None:
        """See `View.ahead`."""
        missing = [index for index in indices if not (index in self._kept if self._folder is None else self._file(index).exists())]
        if missing:
            ahead_of(self._source, missing)

    def _entry(self, index: int) -> bytes | None:
        """The bytes of an item that was made before."""
        if self._folder is None:
            return self._kept.get(index)
        try:
            content = self._file(index).read_bytes()
        except FileNotFoundError:
            return None
        if content[:SUM] == hashlib.sha256(content[SUM:]).digest():
            return content[SUM:]
        self._warn(index, "is damaged")
        return None

    def _made(self, index: int) -> Any:
        """Make an item and keep it."""
        before = cpu_state()
        item = self._source[index]
        if cpu_state() != before:
            raise DataError(
                f"item {index} of {name_of(self._source)} draws random numbers, and a cache would repeat the first ones for ever; "
                "put what draws around the cache: map(cache(data), augment)"
            )
        try:
            content = _pickled(item)
        except Exception as error:
            what = f"item {index} of {name_of(self._source)}"
            raise DataError(f"{what} cannot be kept in a cache, because it cannot be pickled: {excerpt(error)}") from error
        if self._folder is None:
            self._kept[index] = content
        else:
            _write(self._file(index), hashlib.sha256(content).digest() + content)
        return item

    def _warn(self, index: int, what: str) -> None:
        warnings.warn(f"the cache entry {self._file(index)} {what}; it is made again", RuntimeWarning, stacklevel=4)

    def _file(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / self._key / str(index // SHARD) / f"{index}.pickle"

    @cached_property
    def _key(self) -> str:
        """What tells this source from others; found out in the process that reads, which may open files for it."""
        length = len(self._source)
        with preserved_rng():
            few = [self._source[index] for index in sorted({0, length // 2, length - 1})]
        try:
            return digest([length, few]).hex()
        except Unhashable as error:
            raise DataError(f"{name_of(self._source)} cannot be kept in a cache, because it cannot be told from another: {error}") from None


class _Pickler(pickle.Pickler):
    """Pickles of a tensor its own numbers: pickle would take all memory that it is a part of, and ten times as long."""

    def reducer_override(self, value: Any) -> Any:
        """How a tensor is pickled; anything else as ever."""
        if type(value) is not torch.Tensor or value.requires_grad or value.layout is not torch.strided:
            return NotImplemented
        try:
            return _tensor, (value.resolve_conj().resolve_neg().numpy(),)
        except (TypeError, RuntimeError):  # of another device, or of a dtype that NumPy does not have
            return value.clone().__reduce_ex__(5)  # type: ignore[no-untyped-call]


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array)


def _pickled(item: Any) -> bytes:
    found = io.BytesIO()
    _Pickler(found, protocol=5).dump(item)
    return found.getvalue()


def _write(file: Path, content: bytes) -> None:
    """Whole, or not there. Nothing is lost with an entry, so no disk is waited for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as open_file:
            open_file.write(content)
        os.replace(beside, file)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(beside).unlink()
        raise
