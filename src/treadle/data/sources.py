"""Sources: what kind of data this is. Said by its type, never guessed from the shape of an item.

a tuple (or dict) of tensors, TensorDataset, and Subsets of it   -> tensors    in memory, read a batch at a time
anything with __len__ and __getitem__                            -> indexed    samples by index
an IterableDataset                                               -> streamed   samples in its own order
treadle.Batches(iterable)                                        -> batched    batches in its own order
torch's DataLoader                                               -> what is in it, with its batch size, collate and workers
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from treadle.core.errors import DataError, did_you_mean
from treadle.core.structure import describe, map_leaves
from treadle.data.order import ENDLESS, NAMED, Batching, Order, Weighted

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Samples:
    """A dataset of samples, with a say in how they are drawn and put together.

    Args:
        dataset: anything with ``__len__`` and ``__getitem__``, a tuple of tensors, or an ``IterableDataset``.
        sampler: "shuffle", "sequential", "replacement", `treadle.data.Weighted`, or any `Order`; config.data.sampler
            unless told.
        collate: a list of samples -> a batch; torch's ``default_collate`` unless told.
        prepare: ``prepare(batch) -> batch`` for a whole batch on the training device, such as `treadle.data.Images`; in training,
            evaluation and prediction alike. Where it has a parameter ``draw``, it is given random numbers for each sample,
            see `treadle.data.prepare.Draw`.
        random: whether a sample may draw random numbers where it is made, so that the generators are seeded for each; that takes
            10 us a sample. False where it does not: then they are not, and a draw is an error.
        batch_size: samples in an optimizer step; the config's unless told.
        batches_per_epoch: optimizer steps in an epoch. The samples are then drawn in one permutation after another, across the
            ends of epochs; unless told, an epoch is one permutation.

    Raises:
        DataError: a number is not positive.

    Example:
        >>> Samples([(1.0, 0), (2.0, 1)], sampler="sequential").sampler
        'sequential'
    """

    dataset: Any
    sampler: str | Order | Batching | None = None
    collate: Collate | None = None
    prepare: Callable[..., Any] | None = None
    random: bool = True
    batch_size: int | None = None
    batches_per_epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "batches_per_epoch"):
            positive(name, getattr(self, name))


@dataclass(frozen=True)
class Batches:
    """Data that is batched already: each item is a batch, in the iterable's own order.

    Args:
        iterable: read once an epoch: a list, a DataLoader whose own order is wanted, or a function that returns an
            iterator. A list is resumed at once; anything else is read again up to where the run was.

    Example:
        >>> batches = Batches([(torch.zeros(4, 2), torch.zeros(4))])
    """

    iterable: Iterable[Any] | Callable[[], Iterable[Any]]


def positive(name: str, value: Any) -> None:
    """Raise where a number is given that is no whole one above zero.

    Raises:
        DataError: it is named.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise DataError(f"{name} must be a whole number above 0, got {value!r}")


@dataclass(frozen=True)
class Workers:
    """Processes that load, as the user set them up."""

    count: int
    init: Callable[[int], None] | None = None
    context: Any = None
    prefetch: int | None = None


@dataclass
class Source:
    """Data and how to read it, as `resolve` understood them."""

    kind: Literal["tensors", "indexed", "streamed", "batched"]
    data: Any
    order: Order | Batching
    collate: Collate = default_collate
    length: int | None = None
    batch_size: int | None = None
    batches_per_epoch: int | None = None
    drop_last: bool | None = None
    workers: Workers | None = None
    index: torch.Tensor | None = None
    prepare: Callable[..., Any] | None = None
    random: bool = True
    notes: list[str] = field(default_factory=list)


def resolve(data: Any, sampler: str | Order | Batching) -> Source:
    """Say what kind of data this is.

    Args:
        data: what the user gave.
        sampler: the order where the data does not name its own.

    Raises:
        DataError: the data is empty, or of no kind that can be read; the message says what can.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, Batches):
        return _batched(data.iterable)
    if isinstance(data, DataLoader):
        return _torch_loader(data)
    data = flattened(data)
    order = order_of(data.sampler if data.sampler is not None else sampler)
    if not (data.prepare is None or callable(data.prepare)):
        raise DataError(f"prepare must be a function of a batch, such as treadle.data.Images(...), got {data.prepare!r}")
    return replace(_samples(data), order=order, prepare=data.prepare, batch_size=data.batch_size, batches_per_epoch=data.batches_per_epoch)


def flattened(data: Any) -> Samples:
    """What is said about samples, in one place: of `Samples` in `Samples`, the outer ones win."""
    if not isinstance(data, Samples):
        return Samples(data)
    if not isinstance(data.dataset, Samples):
        return data
    inner = flattened(data.dataset)
    told = {each.name: getattr(data, each.name) for each in fields(data) if getattr(data, each.name) != each.default}
    return replace(inner, **{**told, "dataset": inner.dataset})


def _samples(data: Samples) -> Source:
    """The kind of a dataset of samples."""
    dataset, collate, order = data.dataset, data.collate or default_collate, NAMED["shuffle"]
    if isinstance(dataset, IterableDataset):
        name = type(dataset).__name__
        if data.sampler is not None:
            raise DataError(f"the IterableDataset {name} has an order of its own, so it takes no sampler")
        if data.batches_per_epoch is not None:
            raise DataError(f"the IterableDataset {name} has epochs of its own, so it takes no batches_per_epoch; give a dataset, or a function")
        return Source("streamed", dataset, order, collate, length=_promised(dataset))
    tensors = _tensors(dataset)
    if tensors is not None and data.collate is None and not isinstance(data.sampler, Batching):
        return tensors
    if tensors is not None and isinstance(dataset, (tuple, Mapping)):
        dataset = Columns(tensors.data, tensors.length or 0)
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        length = _counted(dataset)
        return Source("indexed", dataset, order, collate, length=None if length == ENDLESS else length, random=data.random)
    hint = "; wrap it in treadle.Batches if each of its items is a batch" if hasattr(dataset, "__iter__") else ""
    raise DataError(
        f"{type(dataset).__name__} is no dataset: give something with __len__ and __getitem__, a tuple of tensors, "
        f"a torch IterableDataset or DataLoader, or treadle.Batches(iterable){hint}"
    )


def order_of(sampler: str | Order | Batching) -> Order | Batching:
    """The order of a name, or the one that was given.

    Raises:
        DataError: it is none.
    """
    if not isinstance(sampler, str):
        if not (hasattr(sampler, "indices") or isinstance(sampler, Batching)):
            raise DataError(f"sampler must have a method indices(seed, epoch, positions, length), got {sampler!r}; names: {', '.join(NAMED)}")
        return sampler
    if sampler not in NAMED:
        raise DataError(f"unknown sampler {sampler!r}{did_you_mean(sampler, NAMED)}")
    return NAMED[sampler]


def _promised(dataset: Any) -> int | None:
    """How many samples a stream says that it has."""
    if not hasattr(dataset, "__len__"):
        return None
    with suppress(TypeError):  # a __len__ that says so by raising
        return _counted(dataset)
    return None


def _counted(dataset: Any) -> int:
    length = len(dataset)
    if length == 0:
        raise DataError(f"the dataset {type(dataset).__name__} is empty")
    return length


class Calls:
    """A function that makes one sample, as a dataset without an end: the sample at an index is what a call under its seed gives.

    Args:
        function: called without arguments.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.__name__ = getattr(function, "__qualname__", None) or type(function).__name__

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:
        return self._function()


# --- in memory ---


class Columns:
    """Tensors of the same length, as a dataset of samples."""

    __name__ = "tensors"

    def __init__(self, columns: Any, length: int) -> None:
        self._columns, self._length = columns, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return map_leaves(lambda leaf: leaf[index], self._columns)


def _tensors(dataset: Any) -> Source | None:
    """The in-memory source of a dataset that is nothing but tensors; None for any other."""
    if type(dataset) is Subset:
        inner = _tensors(dataset.dataset)
        if inner is None:
            return None
        chosen = torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))
        chosen = torch.where(chosen < 0, chosen + (inner.length or 0), chosen)
        return replace(inner, index=chosen if inner.index is None else inner.index[chosen], length=_counted(dataset))
    if type(dataset) is TensorDataset:
        dataset = tuple(dataset.tensors)
    columns = _columns(dataset)
    found = [isinstance(column, (torch.Tensor, np.ndarray)) for column in columns]
    if not all(found) or not found:
        if any(found) or (columns and isinstance(dataset, Mapping) and 0 not in dataset):
            raise DataError(f"a {type(dataset).__name__} is a dataset only where it holds nothing but tensors, one a field; got {describe(dataset)}")
        return None
    data = map_leaves(_as_tensor, dataset)
    lengths = {len(column) if column.ndim else -1 for column in _columns(data)}
    if len(lengths) != 1 or -1 in lengths:
        raise DataError(f"tensors of a dataset must have the same length, got {', '.join(str(tuple(t.shape)) for t in _columns(data))}")
    if lengths == {0}:
        raise DataError("the dataset is empty: its tensors have no items")
    return Source("tensors", data, NAMED["shuffle"], length=lengths.pop())


def _columns(dataset: Any) -> list[Any]:
    if isinstance(dataset, Mapping) and dataset:
        return list(dataset.values())
    if isinstance(dataset, tuple):
        return list(dataset)
    return [dataset] if isinstance(dataset, (torch.Tensor, np.ndarray)) else []


def _as_tensor(column: Any) -> torch.Tensor:
    if isinstance(column, np.ndarray) and any(stride < 0 for stride in column.strides):
        column = np.ascontiguousarray(column)
    with warnings.catch_warnings():  # nothing here writes to what may only be read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(column)


# --- batched by somebody else ---


def _batched(iterable: Any) -> Source:
    length = None
    if hasattr(iterable, "__len__"):
        with suppress(TypeError):  # a DataLoader of a stream has a __len__ that raises
            length = len(iterable)
        if length == 0:
            raise DataError("treadle.Batches was given an empty iterable")
    elif not hasattr(iterable, "__iter__") and not callable(iterable):
        raise DataError(f"treadle.Batches takes an iterable of batches, or a function that returns one; got {type(iterable).__name__}")
    source = Source("batched", iterable, NAMED["sequential"], length=length)
    if isinstance(iterable, DataLoader) and iterable.persistent_workers:
        source.notes.append("warning: persistent workers keep their random state from epoch to epoch, so a resume of this DataLoader is not exact")
    return source


def _torch_loader(loader: DataLoader[Any]) -> Source:
    keep = "wrap it in treadle.Batches(loader) to keep its own batches and order (a resume then reads it again from its start)"
    if loader.batch_size is None or (loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler):
        raise DataError(f"this DataLoader makes its batches by itself (batch_sampler, or batch_size=None); {keep}")
    order: str | Order | None = None
    if not isinstance(loader.dataset, IterableDataset):
        order = _torch_order(loader.sampler, keep)
        if len(loader.sampler) != len(loader.dataset):  # type: ignore[arg-type]
            raise DataError(f"the DataLoader's sampler gives {len(loader.sampler)} of {len(loader.dataset)} samples an epoch; {keep}")  # type: ignore[arg-type]
    source = resolve(Samples(loader.dataset, order, None if loader.collate_fn is default_collate else loader.collate_fn), "shuffle")
    context = loader.multiprocessing_context
    source.batch_size, source.drop_last = loader.batch_size, loader.drop_last
    source.workers = Workers(loader.num_workers, loader.worker_init_fn, context, loader.prefetch_factor)
    source.notes.append(
        f"DataLoader: its batch size {loader.batch_size}, collate function and {loader.num_workers} workers are kept; "
        f"the order is Treadle's own ({type(source.order).__name__.lower()}, from the seed), so that a resume is exact"
    )
    return source


def _torch_order(sampler: Any, keep: str) -> str | Order:
    if type(sampler) is SequentialSampler:
        return "sequential"
    if type(sampler) is RandomSampler:
        return "replacement" if sampler.replacement else "shuffle"
    if type(sampler) is WeightedRandomSampler and sampler.replacement:
        return Weighted(sampler.weights.tolist())
    raise DataError(f"the order of a {type(sampler).__name__} cannot be made from a seed and a position; {keep}")
