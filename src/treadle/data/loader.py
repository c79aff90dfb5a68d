"""The loader: batches from any source, from any position, for ever.

One iterator serves the whole run: workers live across epochs, and what is read ahead crosses them. Its state is one
number, the position, because order and augmentation are functions of it; a stream adds where it is, in its own words.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from treadle.config.schema import Config
from treadle.core.errors import DataError
from treadle.data import fetch
from treadle.data.ahead import SideStream, one_ahead
from treadle.data.batch import Batch, to_device
from treadle.data.brief import Brief
from treadle.data.epochs import Chunk, Epochs, Even, Grouped
from treadle.data.memory import InMemory, goes_to
from treadle.data.order import Batching, Order
from treadle.data.prepare import prepared
from treadle.data.sources import Workers, resolve
from treadle.data.stream import Mark, Stream, at_hand, batched, can_index, has_state, listed
from treadle.system.cores import loading
from treadle.system.seed import preserved_rng
from treadle.system.signals import deaf_children


class Loader:
    """Batches of a dataset.

    Args:
        data: a dataset, see `treadle.data.sources`.
        batch_size: samples in one optimizer step; a DataLoader's own wins.
        micro_batch: samples in one part of it; None keeps it whole.
        sampler: the order where the data does not name its own.
        seed: what order and augmentation are made from.
        drop_last: leave out the last, smaller batch of an epoch.
        workers: loading processes; a DataLoader's own wins.
        device: where batches go.
        resident: whether data in memory moves to the device as a whole; "auto": where it fits easily.
        brief: how little of it is read; None reads all of it.

    Raises:
        DataError: the data is empty, of no readable kind, or `drop_last` leaves nothing of it.

    Example:
        >>> loader = Loader((torch.arange(10.),), batch_size=4, sampler="sequential")
        >>> [batch.samples for batch in loader.batches(epochs=1)]
        [4, 4, 2]
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int,
        micro_batch: int | None = None,
        sampler: str | Order | Batching = "shuffle",
        seed: int = 0,
        drop_last: bool = False,
        workers: int | str = 0,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        resident: str | bool = "auto",
        brief: Brief | None = None,
    ) -> None:
        self.source = source = resolve(data, sampler)
        self.batch_size = source.batch_size or batch_size
        self.micro_batch, self._brief = micro_batch, brief
        # What is prepared is so as a whole, and cut afterwards.
        self._read_size = None if source.prepare is not None else micro_batch
        self.drop_last = drop_last if source.drop_last is None else source.drop_last
        self.seed, self.device = seed, device
        self.workers = source.workers or Workers(loading(workers))
        self.notes = list(source.notes)
        if source.batch_size and source.batch_size != batch_size:
            whose = "DataLoader" if isinstance(data, DataLoader) else "data"
            self.notes.append(f"batch_size {source.batch_size} of the {whose} is used, not {batch_size} of the config")
        if source.kind == "streamed" and self.workers.count > 1:
            self.workers = Workers(1, self.workers.init, self.workers.context, self.workers.prefetch)
            self.notes.append("an IterableDataset is read by one worker: several would each read all of it")
        self._memory = InMemory(source, goes_to(source, device, resident)) if source.kind == "tensors" else None
        # So many samples they stay, where an evaluation has to take fewer at once.
        self._drawn = source.batches_per_epoch and source.batches_per_epoch * self.batch_size
        if self.epoch_steps == 0:
            raise DataError(f"drop_last leaves no batch: the dataset has {source.length} samples, a batch {self.batch_size}")

    @property
    def epochs(self) -> Epochs | None:
        """What an epoch is; None for batches that come as such, and for what has no known length."""
        source, length = self.source, self.source.length
        if source.kind == "batched" or (length is None and self._drawn is None):
            return None
        if isinstance(source.order, Batching):
            return Grouped(source.order, self.seed, self.batch_size, self.drop_last, source.batches_per_epoch)
        size = self._drawn or length or 0
        if self.drop_last and not self._drawn:
            size = size // self.batch_size * self.batch_size
        return Even(source.order, self.seed, length, self.batch_size, size, endless=self._drawn is not None)

    @property
    def is_even(self) -> bool:
        """Whether it is known before anything is read how many samples each batch holds."""
        return isinstance(self.epochs, Even)

    @property
    def epoch_size(self) -> int | None:
        """Positions in one epoch: samples, or batches where the data comes in batches or is read in brief; None where nobody knows."""
        if self._brief is not None:
            return self.epoch_steps
        epochs = self.epochs
        return self.source.length if epochs is None else epochs.size

    @property
    def epoch_steps(self) -> int | None:
        """Optimizer steps in one epoch; None where nobody knows."""
        epochs = self.epochs
        steps = self.source.length if epochs is None else epochs.steps
        return steps if self._brief is None else self._brief.of(steps)

    @property
    def epoch_samples(self) -> int | None:
        """Samples in one epoch; None where nobody knows."""
        epochs = self.epochs
        if epochs is None or self._brief is None:
            return None if epochs is None else epochs.samples
        return min(epochs.samples, self._brief.steps * self.batch_size) if isinstance(epochs, Even) else None

    def batches(self, epoch: int = 0, into: int = 0, epochs: int | None = None, mark: Mark | None = None) -> Generator[Batch, None, None]:
        """Batches from a position on.

        Args:
            epoch: epochs finished.
            into: positions of the current epoch already used.
            epochs: how many epochs to give; None goes on for ever.
            mark: of the batch that was used last, where the data is a stream.
        """
        batches = self._ready(epoch, into, mark) if self._brief is None else self._brief.batches(self._ready, epoch, into)
        if epochs is not None:
            batches = _up_to(batches, epochs)
        with self._as_found():
            yield from batches

    def outline(self) -> Iterator[tuple[int, int, bool]]:
        """Of each batch of an epoch, and nothing is read: samples (0 where only reading tells), positions, whether it is the last one."""
        epochs, steps, brief = self.epochs, self.epoch_steps or 0, self._brief
        size = epochs.size if isinstance(epochs, Even) else None
        for number in range(steps):
            before = 0 if brief is not None and brief.repeat else number * self.batch_size
            samples = 0 if size is None else min(self.batch_size, size - before)
            yield samples, 1 if size is None or brief is not None else samples, number + 1 == steps

    def _ready(self, epoch: int, into: int, mark: Mark | None) -> Iterator[Batch]:
        batches = self._moved(self._read(epoch, into, mark))
        if self.source.prepare is None:
            return batches
        return prepared(batches, self.source.prepare, self.seed, self.micro_batch, self.device, epoch, into)

    def _moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the device; those of the host go to a GPU one ahead."""
        if self.device.type == "cpu" or (self._memory is not None and self._memory.devices == {self.device}):
            return batches
        if self.device.type == "cuda":
            return one_ahead(batches, SideStream(self.device))
        return (replace(batch, parts=[to_device(part, self.device) for part in batch.parts]) for batch in batches)

    def peek(self) -> Any:
        """The first micro-batch, read in this process and without moving anything; for checks before the start."""
        one = copy(self)
        one.workers, one.source = Workers(0), copy(self.source)
        data = self.source.data
        if hasattr(data, "__next__"):  # an iterator is read only once: what was looked at is put back
            ahead = list(islice(data, 1))
            self.source.data, one.source.data = chain(ahead, data), ahead
        with preserved_rng(), closing(one.batches(epochs=1)) as batches:
            return next(batches).parts[0]

    @contextmanager
    def _as_found(self) -> Iterator[None]:
        """Put a stream that says where it is back to where it was: the next to read the same object begins at the beginning."""
        data = self.source.data
        if not (self._is_stream and has_state(data)):
            yield
            return
        before = deepcopy(data.state_dict())
        try:
            yield
        finally:
            data.load_state_dict(before)

    @property
    def _is_stream(self) -> bool:
        """Whether the data cannot be read at any position at once."""
        return self.source.kind == "streamed" or (self.source.kind == "batched" and not can_index(self.source))

    def way_back(self, into: int, mark: Mark | None) -> str:
        """What it takes to get back to a position of a stream that cannot go there at once; empty where it can."""
        if not self._is_stream or not into or mark is None or mark["owner"] is not None:
            return ""
        name = getattr(self.source.data, "__name__", type(self.source.data).__name__)
        items = f"{into:,} {'samples' if self.source.kind == 'streamed' else 'batches'}"
        return (
            f"{name} has no state_dict() and load_state_dict(), so the first {items} of the epoch are read again to get back to where "
            f"the run was; that took {mark['seconds']:.1f} s before"
        )

    def _read(self, epoch: int, into: int, mark: Mark | None) -> Iterator[Batch]:
        kind, source = self.source.kind, self.source
        if self._memory is not None:
            return self._from_memory(self._memory, epoch, into)
        if kind == "batched" and at_hand(source.data):
            return listed(source.data, self.micro_batch, into)
        if kind == "batched":
            return _isolated(batched(source, self.seed, self.micro_batch, epoch, into, mark))
        if kind == "streamed":
            stream = Stream(source, self.seed, self.batch_size, self._read_size, self.drop_last, epoch, into, mark)
            return self._with_workers(stream, None) if self.workers.count else _isolated(iter(stream))
        samples, epochs = fetch.Fetch(source, self.seed, self._read_size), self.epochs
        assert epochs is not None
        chunks = epochs.chunks(epoch, into)
        return self._with_workers(samples, chunks) if self.workers.count else _isolated(samples[chunk] for chunk in chunks)

    def _from_memory(self, memory: InMemory, epoch: int, into: int) -> Iterator[Batch]:
        epochs = self.epochs
        assert isinstance(epochs, Even)
        reader = epochs.reader()
        turns = reader.turns if epochs.endless else None
        for now, start, count, last in epochs.places(epoch, into):
            batch = memory.batch(reader, now, start, count, self._read_size, last)
            yield batch if turns is None else replace(batch, turns=turns(now, start, count))

    def _with_workers(self, dataset: Any, chunks: Iterator[Chunk] | None) -> Iterator[Batch]:
        workers = self.workers
        loader = DataLoader(
            dataset,
            sampler=chunks,
            batch_size=None,
            collate_fn=_same,
            num_workers=workers.count,
            worker_init_fn=Start(workers.init),
            multiprocessing_context=workers.context,
            prefetch_factor=workers.prefetch,
            pin_memory=self.device.type == "cuda",
            # Its own generator, so that nothing is drawn from the run's.
            generator=torch.Generator().manual_seed(self.seed),
        )
        with deaf_children():
            iterator = iter(loader)
        try:
            yield from iterator
        finally:
            # After an error in a worker, waiting for the garbage collector to end the others takes seconds.
            getattr(iterator, "_shutdown_workers", lambda: None)()


def training_loader(data: Any, config: Config, device: torch.device) -> Loader:
    """A dataset as a config wants it for training."""
    machine = config.machine
    return Loader(
        data,
        batch_size=config.batch_size,
        micro_batch=machine.micro_batch if isinstance(machine.micro_batch, int) else None,
        sampler=config.data.sampler,
        seed=config.seed,
        drop_last=config.drop_last,
        workers=machine.workers,
        device=device,
        resident=machine.resident,
        brief=Brief.asked(config.debug, training=True),
    )


def _same(batch: Any) -> Any:
    return batch


class Start:
    """What a worker does first: stop listening to Ctrl-C, which a server of forks did not pass on; then what the user wants."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker: int) -> None:
        """Begin."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._init is not None:
            self._init(worker)


def _isolated(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Read in this process without moving its random generators."""
    while True:
        with preserved_rng():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _up_to(batches: Iterator[Batch], epochs: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        epochs -= batch.ends_epoch
        if epochs == 0:
            return
