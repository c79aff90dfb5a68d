"""Views: datasets that are made of other datasets, item by item, when an item is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from treadle.core.errors import DataError
from treadle.data.sources import Columns, Samples, resolve


class View:
    """A dataset made of others. Nothing is read before an item is asked for.

    Args:
        sources: the datasets that it is made of.
    """

    def __init__(self, *sources: Any) -> None:
        self._sources = sources

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    @property
    def threaded(self) -> bool:
        """Whether anything in it is done by threads, and so wants to know ahead what a batch needs."""
        return any(isinstance(source, View) and source.threaded for source in self._sources)

    def ahead(self, indices: list[int]) -> None:
        """Told which items of a batch are asked for next."""
        for source in self._sources:
            ahead_of(source, indices)


def ahead_of(source: Any, indices: list[int]) -> None:
    """Tell a dataset which items are asked for next, where it wants to know."""
    if isinstance(source, View) and source.threaded:
        source.ahead(indices)


def over(source: Any, make: Callable[[Any], Any], who: str) -> Any:
    """A dataset made of another; what `Samples` says of the other is said of it, too.

    Args:
        source: a dataset, or `Samples`.
        make: makes it of something with ``__getitem__``.
        who: the function that asks, for messages.

    Raises:
        DataError: the source cannot be read by index.
    """
    if isinstance(source, Samples):
        return replace(source, dataset=over(source.dataset, make, who))
    return make(by_index(source, who))


def by_index(source: Any, who: str) -> Any:
    """What was given as something with ``__len__`` and ``__getitem__``.

    Raises:
        DataError: it is empty, or of another kind; the message says what to do with that.
    """
    if hasattr(source, "__next__"):
        raise DataError(
            f"{who} was given an iterator ({type(source).__name__}), which can be read only once and begins nowhere else; "
            "give a dataset, or in treadle.data.Infinite a function that makes one sample"
        )
    found = None if isinstance(source, DataLoader) else resolve(source, "sequential")  # raises where it is empty, or no data
    if found is None or found.kind not in ("tensors", "indexed"):
        raise DataError(f"{who} needs samples by index, and {name_of(source)} has an order of its own; give a dataset with __len__ and __getitem__")
    if found.kind == "tensors" and isinstance(source, (tuple, Mapping)):
        return Columns(found.data, found.length or 0)
    return source


def apart(sources: Sequence[Any], who: str) -> list[Samples]:
    """Several sources of one dataset; each as `Samples`.

    Raises:
        DataError: there are none; or `collate`, `prepare` or a number of one could not be kept.
    """
    if not sources:
        raise DataError(f"{who} was given no dataset")
    found = [source if isinstance(source, Samples) else Samples(source) for source in sources]
    for number, one in enumerate(found):
        told = [name for name in ("collate", "prepare", "batch_size", "batches_per_epoch") if getattr(one, name) is not None]
        if told:
            raise DataError(f"{who}: dataset {number} says {' and '.join(told)}, which is for all of them to say: wrap the result in treadle.Samples")
    return found


def name_of(data: Any) -> str:
    """A dataset, a stream or a function, as messages call it."""
    return getattr(data, "__qualname__", None) or getattr(data, "__name__", None) or type(data).__name__
