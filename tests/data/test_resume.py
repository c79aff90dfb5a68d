"""Position is state: reading from any position gives what reading from the start gives there."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

from treadle.core.structure import leaves
from treadle.data import Batches, Samples, Weighted
from treadle.data.loader import Loader

LENGTH, BATCH, EPOCHS = 10, 4, 2


def sample(index):
    return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class Map(Dataset):
    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return sample(index)


class Stream(IterableDataset):
    def __iter__(self):
        return (sample(index) for index in range(LENGTH))


class ShufflingStream(IterableDataset):
    def __iter__(self):
        return iter([sample(index) for index in torch.randperm(LENGTH).tolist()])


class MapOfBatches(Map):
    def __getitem__(self, index):
        return torch.stack([sample(index)] * 3)


def generated():
    for index in range(5):
        yield torch.stack([sample(index)] * 3)


def shuffled():
    """Draws as soon as it is called, not when the first batch is asked for."""
    return [torch.full((3,), float(index)) for index in torch.randperm(5)]


X = torch.arange(20.0)
SOURCES = {
    "tensors": (X, -X),
    "subset": random_split(TensorDataset(X, -X), [10, 10], torch.Generator().manual_seed(0))[0],
    "map": Map(),
    "list": list(range(LENGTH)),
    "weighted": Samples(Map(), sampler=Weighted(range(1, LENGTH + 1))),
    "replacement": Samples(Map(), sampler="replacement"),
    "stream": Stream(),
    "shuffling stream": ShufflingStream(),
    "batches: list": Batches(list(X.split(3))),
    "batches: map": Batches(MapOfBatches()),
    "batches: generator function": Batches(generated),
    "batches: function that draws": Batches(shuffled),
    "batches: shuffling loader": Batches(DataLoader(Map(), batch_size=3, shuffle=True)),
    "loader": DataLoader(Map(), batch_size=3, shuffle=True),
}
WITH_WORKERS = ("map", "stream", "shuffling stream")
CASES = [(name, 0) for name in SOURCES] + [(name, 2) for name in WITH_WORKERS]


def seen(batch):
    ids = None if batch.ids is None else batch.ids.tolist()
    return [leaf.tolist() for leaf in leaves(batch.parts)], batch.counts, batch.positions, batch.ends_epoch, ids


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("name", "workers"), CASES)
def test_reading_from_any_position_continues_as_reading_from_the_start(name, workers, drop_last):
    loader = Loader(SOURCES[name], batch_size=BATCH, seed=5, workers=workers, drop_last=drop_last)
    expected, epoch, into, starts = [], 0, 0, []
    for batch in loader.batches(epochs=EPOCHS):
        starts.append((epoch, into))
        expected.append(seen(batch))
        epoch, into = (epoch + 1, 0) if batch.ends_epoch else (epoch, into + batch.positions)
    assert (epoch, into) == (EPOCHS, 0)
    for number, start in enumerate(starts):
        torch.rand(number)  # another process would have drawn something else by now
        rest = itertools.islice(loader.batches(*start), len(expected) - number)
        assert [seen(batch) for batch in rest] == expected[number:]


@pytest.mark.parametrize("name", ["tensors", "map", "weighted", "stream", "batches: generator function"])
def test_reading_continues_in_a_loader_made_anew_with_other_workers_and_micro_batches(name):
    def samples(epoch, into, batches, **settings):
        read = Loader(SOURCES[name], batch_size=BATCH, seed=5, **settings).batches(epoch, into)
        return [torch.cat([leaves(part)[0] for part in batch.parts]).tolist() for batch in itertools.islice(read, batches)]

    step = 1 if name.startswith("batches") else BATCH
    assert samples(1, step, 3, workers=1, micro_batch=2) == samples(1, 0, 4)[1:]


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "list"])
def test_two_epochs_differ_where_anything_is_drawn(name):
    per_epoch = [[seen(batch) for batch in Loader(SOURCES[name], batch_size=BATCH).batches(epoch, 0, epochs=1)] for epoch in (0, 1)]
    assert (per_epoch[0] == per_epoch[1]) == (name == "batches: list")
