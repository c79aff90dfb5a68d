"""Data without an end: epochs that are a number of batches, and samples loaded by ids that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from inspect import isgeneratorfunction, signature
from typing import Any

from treadle.core.errors import DataError
from treadle.data.ended import ended
from treadle.data.mapped import map as mapped
from treadle.data.order import NAMED, Indices, Order, Weighted
from treadle.data.sources import Calls, Samples, flattened
from treadle.data.views import View, by_index, name_of


def Infinite(source: Any, *transforms: Callable[[Any], Any], batches_per_epoch: int, batch_size: int | None = None) -> Samples:  # noqa: N802
    """Data whose epochs are a number of batches, whatever there is of it.

    A dataset is drawn in one permutation after another, across the ends of epochs: after any number of batches each sample
    came as often as any other, give or take one, and every batch is full. The order is a function of seed and position, so a
    run that goes on is there at once. The first epochs have the samples, and the augmentation, that they have without this.

    Args:
        source: a dataset, a tuple of tensors, or `treadle.Samples`, of which all that it says stays; or a function without
            arguments that makes one sample, with random numbers of torch, NumPy or Python, which are seeded for each call.
        transforms: functions of a sample, applied one after the other, as by `treadle.data.map`.
        batches_per_epoch: optimizer steps in an epoch.
        batch_size: samples in a batch; the config's unless told.

    Returns:
        `treadle.Samples`, for all that takes data.

    Raises:
        DataError: the source can be read only once or only in its own order, or a number is not positive.

    Example:
        >>> data = Infinite([1, 2, 3], lambda item: 2 * item, batches_per_epoch=100, batch_size=8)
        >>> data.batches_per_epoch, data.dataset[0]
        (100, 2)
    """
    who = "treadle.data.Infinite"
    if batches_per_epoch is None:
        raise DataError(f"{who}: say how many batches an epoch has: batches_per_epoch=1000")
    is_dataset = isinstance(source, Samples) or hasattr(source, "__getitem__") or hasattr(source, "__iter__")
    if callable(source) and not is_dataset:
        source = Samples(Calls(_checked(source, who)), sampler="sequential")
    by_index(flattened(source).dataset, who)
    source = flattened(reduce(mapped, transforms, source))
    told = {"batches_per_epoch": batches_per_epoch, "batch_size": source.batch_size if batch_size is None else batch_size}
    return Samples(source.dataset, source.sampler, source.collate, source.prepare, source.random, **told)


def _checked(function: Callable[..., Any], who: str) -> Callable[[], Any]:
    """A function that can be called for a sample."""
    name = name_of(function)
    if isgeneratorfunction(function):
        raise DataError(f"{who} calls {name} for each sample, and it is a generator; let it return one sample, and draw what differs")
    try:
        signature(function).bind()
    except ValueError:
        pass  # of a builtin nobody knows
    except TypeError as error:
        raise DataError(f"{who} calls {name} without arguments, and it has some: {error}; draw in it what differs") from None
    return function


def load_by_random_id(*loads: Callable[[Any], Any], ids: Sequence[Any], weights: Sequence[float] | None = None) -> Samples:
    """A dataset of what functions load for ids that are drawn at random, an id as often as its weight says.

    Draws are independent of each other, so an id may come twice in a row; it is augmented anew each time. An epoch is as
    many draws as there are ids, unless `Infinite` says how long it is. ``step.ids`` are the places of the drawn ids in `ids`.

    Args:
        loads: functions of an id. What several give is a tuple, what one gives is the sample.
        ids: such as file names; sorted, where they come from a folder.
        weights: one non-negative number for each id; alike unless told.

    Returns:
        `treadle.Samples`.

    Raises:
        DataError: there are no ids or functions, or weights are not one non-negative finite number each.

    Example:
        >>> data = load_by_random_id(str.upper, len, ids=["one", "three"], weights=[1, 3])
        >>> data.dataset[1]
        ('THREE', 5)
    """
    who = "treadle.data.load_by_random_id"
    for load in loads:
        if not callable(load):
            raise DataError(f"{who} takes functions of an id, got {load!r}; ids are given by name: ids=[...]")
    if not loads:
        raise DataError(f"{who} was given no function that loads")
    if not hasattr(ids, "__getitem__") or not hasattr(ids, "__len__"):
        raise DataError(f"{who}: ids must be a list, so that a place in it names an id; got {type(ids).__name__}; give sorted(ids)")
    if len(ids) == 0:
        raise DataError(f"{who}: ids is empty")
    if weights is not None and len(weights) != len(ids):
        raise DataError(f"{who}: {len(weights)} weights were given for {len(ids)} ids; give one each")
    return Samples(Loaded(loads, ids), sampler=Draws(NAMED["replacement"] if weights is None else Weighted(weights)))


class Draws:
    """An order of independent draws, each of which is told from all others.

    Args:
        order: which sample each draw gives.
    """

    def __init__(self, order: Order) -> None:
        self._order = order

    def indices(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """See `Order.indices`."""
        return self._order.indices(seed, epoch, positions, length)

    def turns(self, seed: int, epoch: int, positions: Indices, length: int) -> Indices:
        """The number of each draw."""
        return epoch * length + positions


class Loaded(View):
    """What functions give for ids; see `load_by_random_id`."""

    def __init__(self, loads: Sequence[Callable[[Any], Any]], ids: Sequence[Any]) -> None:
        super().__init__()
        self._loads, self._ids = loads, ids
        self.__name__ = f"load_by_random_id({', '.join(name_of(load) for load in loads)})"

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        one = self._ids[index]
        found = []
        for load in self._loads:
            try:
                found.append(load(one))
            except StopIteration as error:
                raise ended(f"{name_of(load)}, called for the id {one!r},") from error
            except Exception as error:
                error.add_note(f"raised by {name_of(load)}, called for the id {one!r}")
                raise
        return tuple(found) if len(found) > 1 else found[0]
