"""The ends of data: last batches, small and empty datasets, streams without an end."""

import itertools

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from treadle.core.errors import DataError
from treadle.data import Batches
from treadle.data.loader import Loader


class Map(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(float(index))


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


KINDS = {"tensors": lambda n: (torch.arange(float(n)),), "indexed": Map, "streamed": lambda n: Stream(range(n))}
ALL = [(kind, workers) for kind in KINDS for workers in (0, 2)]


def sizes(loader, epochs=1):
    return [(batch.samples, batch.ends_epoch) for batch in loader.batches(epochs=epochs)]


@pytest.mark.parametrize(
    ("length", "drop_last", "expected"),
    [
        (8, False, [4, 4]),
        (8, True, [4, 4]),
        (10, False, [4, 4, 2]),
        (10, True, [4, 4]),
        (3, False, [3]),
        (1, False, [1]),
        (4, True, [4]),
    ],
)
@pytest.mark.parametrize(("kind", "workers"), ALL)
def test_an_epoch_has_every_sample_and_only_drop_last_leaves_a_short_batch_out(kind, workers, length, drop_last, expected):
    loader = Loader(KINDS[kind](length), batch_size=4, drop_last=drop_last, workers=workers)
    epoch = [(size, number == len(expected)) for number, size in enumerate(expected, 1)]
    assert sizes(loader, epochs=2) == epoch * 2
    known = kind != "streamed"
    assert loader.epoch_steps == (len(expected) if known else None)
    assert loader.epoch_size == (sum(expected) if known else None)


def test_drop_last_leaves_out_other_samples_each_epoch():
    loader = Loader(Map(10), batch_size=4, drop_last=True)
    left = [set(range(10)) - set(torch.cat([b.parts[0] for b in loader.batches(epoch, 0, epochs=1)]).tolist()) for epoch in range(20)]
    assert set().union(*left) == set(range(10))


@pytest.mark.parametrize("kind", ["tensors", "indexed"])
def test_drop_last_that_leaves_nothing_is_refused_at_once(kind):
    with pytest.raises(DataError, match="drop_last leaves no batch: the dataset has 3 samples, a batch 4"):
        Loader(KINDS[kind](3), batch_size=4, drop_last=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_drop_last_that_leaves_nothing_of_a_stream_is_refused(workers):
    with pytest.raises(DataError, match="gave no full batch in epoch 1"):
        next(Loader(Stream(range(3)), batch_size=4, drop_last=True, workers=workers).batches())


@pytest.mark.parametrize(
    "make",
    [
        lambda: [],
        lambda: (),
        lambda: {},
        lambda: Map(0),
        lambda: torch.empty(0, 3),
        lambda: (torch.empty(0, 3), torch.empty(0)),
        lambda: TensorDataset(torch.empty(0, 3)),
        lambda: Subset(TensorDataset(torch.ones(3)), []),
        lambda: Subset(Map(3), []),
        lambda: datasets.Dataset.from_dict({"x": []}),
        lambda: DataLoader(Map(0), batch_size=2),
        lambda: Batches([]),
    ],
)
def test_empty_data_is_refused_at_once(make):
    with pytest.raises(DataError, match="empty"):
        Loader(make(), batch_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_yields_nothing_is_refused(workers):
    with pytest.raises(DataError, match="Stream gave no batch in epoch 1"):
        next(Loader(Stream([]), batch_size=2, workers=workers).batches())


def test_a_stream_that_can_be_read_only_once_is_refused_in_the_second_epoch():
    with pytest.raises(DataError, match="Stream gave no batch in epoch 2"):
        sizes(Loader(Stream(iter(range(4))), batch_size=2), epochs=2)


def test_a_function_that_returns_nothing_is_refused():
    with pytest.raises(DataError, match="gave nothing in epoch 1"):
        next(Loader(Batches(lambda: []), batch_size=2).batches())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_without_an_end_is_read_as_far_as_is_asked(workers):
    loader = Loader(Stream(itertools.count()), batch_size=4, workers=workers)
    read = [(batch.parts[0].tolist(), batch.ends_epoch) for batch in itertools.islice(loader.batches(), 3)]
    assert read == [([0, 1, 2, 3], False), ([4, 5, 6, 7], False), ([8, 9, 10, 11], False)]
    assert loader.epoch_steps is None


@pytest.mark.parametrize("once", [iter, lambda items: (item for item in items)], ids=["iterator", "generator"])
def test_batches_that_can_be_read_only_once_are_refused_in_the_second_epoch(once):
    loader = Loader(Batches(once(list(torch.arange(6.0).split(2)))), batch_size=2)
    batches = loader.batches(epochs=2)
    assert [next(batches).ends_epoch for _ in range(3)] == [False, False, True]
    with pytest.raises(DataError, match=r"in epoch 2: .*an iterator, which can be read only once; give a list, or a function"):
        next(batches)


def test_a_look_at_the_first_batch_loses_nothing_of_batches_that_can_be_read_only_once():
    loader = Loader(Batches(iter(list(torch.arange(6.0).split(2)))), batch_size=2)
    assert loader.peek().tolist() == [0, 1]
    assert [batch.parts[0].tolist() for batch in loader.batches(epochs=1)] == [[0, 1], [2, 3], [4, 5]]


def test_batches_are_never_cut_or_dropped():
    loader = Loader(Batches(list(torch.arange(7.0).split(3))), batch_size=2, drop_last=True)
    assert sizes(loader) == [(3, False), (3, False), (1, True)]
    assert (loader.epoch_size, loader.epoch_steps) == (3, 3)
