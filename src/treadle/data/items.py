"""Items for a look: read as training reads them, and digested, with everything left as it was found.

Where the loader has worker processes, a dataset may open its files in them and must not do so before they are forked;
so its items are read in one process of the same kind, which is gone afterwards.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from treadle.core.excerpt import excerpt
from treadle.core.mix import mix
from treadle.core.structure import describe, map_leaves
from treadle.data.content import Unhashable, digest, input_part
from treadle.data.fetch import SAMPLE
from treadle.data.loader import Loader, Start
from treadle.data.sources import Source
from treadle.data.thumbnail import thumbnail
from treadle.system.seed import preserved_rng, seed_here
from treadle.system.signals import deaf_children

Clock = Callable[[], float]
_MOST, _DEPTH = 2000, 6
"""Objects that are looked through for generators, and how deep: a dataset may be a large thing."""


@dataclass
class Look:
    """What was seen of some items.

    Args:
        whole: the digest of each item.
        input: the digest of what of it the model sees.
        small: the thumbnail of each, where it was asked for.
        item: the first of them in words, such as "(float32[1, 28, 28], int64[])".
        error: what ended the look before its end; empty where nothing did.
    """

    whole: list[bytes] = field(default_factory=list)
    input: list[bytes] = field(default_factory=list)
    small: list[NDArray[np.float32] | None] = field(default_factory=list)
    item: str = ""
    error: str = ""


@dataclass
class Ask:
    """Which items to look at.

    Args:
        indices: theirs.
        epoch: the one whose seeds they are read under.
        seconds: the time there is.
        small: whether thumbnails are wanted.
        stirred: whether the generators that the dataset holds itself are moved before.
    """

    indices: Sequence[int]
    epoch: int = 0
    seconds: float = float("inf")
    small: bool = False
    stirred: bool = False


class Items:
    """The items of a source that can be had by index, as a dataset whose items are looks.

    Args:
        source: data in memory, or samples by index.
        seed: the run's seed.
        clock: tells the time in seconds.
    """

    def __init__(self, source: Source, seed: int, clock: Clock = time.perf_counter) -> None:
        self._source, self._seed, self._clock = source, seed, clock

    def __getitem__(self, ask: Ask | None) -> Look | None:
        if ask is None:
            return None
        if ask.stirred:
            for one in _generators(self._source.data, set(), _DEPTH):
                _draw(one)
        look, began = Look(), self._clock()
        for index in ask.indices:
            try:
                item = self._item(ask.epoch, index)
                whole, part = digest(item), input_part(item)
                look.input.append(whole if part is item else digest(part))
                look.whole.append(whole)
                look.small += [thumbnail(item)] if ask.small else []
                look.item = look.item or describe(item)
            except Unhashable as error:
                look.error = f"item {index} is unhashable: {error}"
            except Exception as error:
                look.error = f"item {index} raised {excerpt(error)}"
            if look.error or self._clock() - began >= ask.seconds:
                break
        return look

    def _item(self, epoch: int, index: int) -> Any:
        source = self._source
        if source.kind == "tensors":
            row = index if source.index is None else int(source.index[index])
            return map_leaves(lambda leaf: leaf[row], source.data)
        seed_here(mix(self._seed, epoch, index, SAMPLE))
        return source.data[index]


class Viewer:
    """Looks at the items of a loader, as often as asked; a context, whose process is begun when it is first needed.

    Args:
        loader: the data.
        seed: the run's seed.
        clock: tells the time in seconds.

    Example:
        >>> with Viewer(Loader([(1, 2), (1, 3)], batch_size=1), seed=0) as viewer:
        ...     look = viewer.look(Ask([0, 1]))
        >>> len(set(look.whole)), len(set(look.input)), look.item
        (2, 1, '(int, int)')
    """

    def __init__(self, loader: Loader, seed: int, clock: Clock = time.perf_counter) -> None:
        self.loader, self.source, self.clock = loader, loader.source, clock
        self._items = Items(self.source, seed, clock)
        self._asked: deque[Ask] = deque()
        self._answers: Iterator[Look | None] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def can_look(self) -> bool:
        """Whether items can be read by index, so that reading one takes nothing from training."""
        return not self.why_not

    @property
    def why_not(self) -> str:
        """Why items are not read; empty where they can be."""
        if self.source.kind not in ("tensors", "indexed"):
            return f"is {self.source.kind}, and reading it would take from what training reads"
        return "" if self.source.length is not None else "has no end"

    @property
    def name(self) -> str:
        """What the data is, by its type."""
        data = self.source.data
        if self.source.kind == "tensors":
            return "tensors" if self.source.index is None else "Subset of tensors"
        names = []
        while type(data) is Subset:
            names.append("Subset of ")
            data = data.dataset
        return "".join(names) + str(getattr(data, "__name__", type(data).__name__))

    def look(self, ask: Ask) -> Look:
        """Look at items, in this process or in the other one."""
        if self.source.kind == "tensors" or not self.loader.workers.count:
            with preserved_rng(), generators_kept(self.source.data):
                look = self._items[ask]
                assert look is not None
                return look
        try:
            if self._answers is None:
                self._answers = self._begun()
            self._asked.append(ask)
            while (answer := next(self._answers)) is None:
                pass
        except Exception as error:  # the process died, or could not be started
            return Look(error=f"the process that read it raised {excerpt(error)}")
        return answer

    def _begun(self) -> Iterator[Look | None]:
        workers = self.loader.workers
        reader: DataLoader[Any] = DataLoader(
            self._items,  # type: ignore[arg-type]
            sampler=self._asks(),
            batch_size=None,
            collate_fn=_same,
            num_workers=1,
            worker_init_fn=Start(workers.init),
            multiprocessing_context=workers.context,
            prefetch_factor=1,
            generator=torch.Generator().manual_seed(0),  # nothing is drawn from the run's
        )
        with deaf_children():
            answers = iter(reader)
        self._stack.callback(getattr(answers, "_shutdown_workers", lambda: None))
        return answers

    def _asks(self) -> Iterator[Ask | None]:
        """What was asked; a DataLoader wants to know one ahead, and is told that there is nothing yet."""
        while True:
            yield self._asked.popleft() if self._asked else None


def _same(look: Any) -> Any:
    return look


@contextmanager
def generators_kept(data: Any) -> Iterator[None]:
    """Put back the generators that a dataset holds itself: looking at its items must not change what it draws in training."""
    kept = [(item, *_state(item)) for item in _generators(data, set(), _DEPTH)]
    try:
        yield
    finally:
        for _, state, put_back in kept:
            put_back(state)


def _state(item: Any) -> tuple[Any, Callable[[Any], object]]:
    if isinstance(item, torch.Generator):
        return item.get_state(), item.set_state
    if isinstance(item, np.random.RandomState):
        return item.get_state(legacy=False), item.set_state
    if isinstance(item, random.Random):
        return item.getstate(), item.setstate
    return item.bit_generator.state, lambda state: setattr(item.bit_generator, "state", state)


def _draw(item: Any) -> None:
    if isinstance(item, torch.Generator):
        torch.rand(1, generator=item, device=item.device)
    else:
        item.random()


def _generators(value: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Those within reach: in attributes, and in containers of them that are no data themselves."""
    if id(value) in seen or not depth or len(seen) >= _MOST:
        return
    seen.add(id(value))
    if isinstance(value, (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)):
        yield value
        return
    if isinstance(value, (list, tuple)):
        inside: list[Any] = list(value[:100])
    elif isinstance(value, Mapping):
        inside = list(value.values()) if type(value) is dict and len(value) <= 100 else []
    elif isinstance(value, (torch.Tensor, np.ndarray, str, bytes, type, ModuleType)):
        return
    else:
        inside = list(getattr(value, "__dict__", {}).values())
    for item in inside:
        yield from _generators(item, seen, depth - 1)
