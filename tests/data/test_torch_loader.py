"""torch's DataLoader: its settings are honoured; its order is made again from seed and position, or refused."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from treadle.core.errors import DataError
from treadle.data import Batches
from treadle.data.loader import Loader

ITEMS = list(range(10))


class WhoReads(Dataset):
    """Each sample says which worker read it, -1 for the main process, and whether the worker was set up."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        info = get_worker_info()
        return -1 if info is None else info.id, int(os.environ.get("TREADLE_TEST_SET_UP", "0"))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ITEMS)


def read(loader, epochs=1):
    return [batch.parts[0].tolist() for batch in loader.batches(epochs=epochs)]


def test_its_batch_size_is_used_and_a_note_says_so():
    loader = Loader(DataLoader(ITEMS, batch_size=3), batch_size=5)
    assert [len(batch) for batch in read(loader)] == [3, 3, 3, 1]
    assert any("batch_size 3 of the DataLoader is used, not 5" in note for note in loader.notes)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("data", [ITEMS, Stream(), TensorDataset(torch.arange(10))], ids=["list", "stream", "tensors"])
def test_its_drop_last_is_used(data, drop_last):
    loader = Loader(DataLoader(data, batch_size=4, drop_last=drop_last), batch_size=4, drop_last=not drop_last)
    assert [batch.samples for batch in loader.batches(epochs=1)] == ([4, 4] if drop_last else [4, 4, 2])


@pytest.mark.parametrize("data", [ITEMS, Stream(), TensorDataset(torch.arange(10))], ids=["list", "stream", "tensors"])
def test_its_collate_function_is_used(data):
    loader = Loader(DataLoader(data, batch_size=4, collate_fn=lambda samples: torch.full((len(samples),), 7)), batch_size=4)
    assert read(loader) == [[7, 7, 7, 7], [7, 7, 7, 7], [7, 7]]


@pytest.mark.parametrize(("own", "configured", "expected"), [(2, 0, {0, 1}), (0, 2, {-1})])
def test_its_workers_are_used(own, configured, expected):
    loader = Loader(DataLoader(WhoReads(), batch_size=2, num_workers=own), batch_size=2, workers=configured)
    readers = {who for batch in loader.batches(epochs=2) for who in batch.parts[0][0].tolist()}
    assert readers == expected


def set_up(worker):
    os.environ["TREADLE_TEST_SET_UP"] = "1"


def test_its_workers_are_set_up_as_it_says():
    loader = Loader(DataLoader(WhoReads(), batch_size=2, num_workers=1, worker_init_fn=set_up), batch_size=2)
    assert all(flag == 1 for batch in loader.batches(epochs=1) for flag in batch.parts[0][1].tolist())
    assert "TREADLE_TEST_SET_UP" not in os.environ


def test_its_order_is_made_from_the_seed_and_a_note_says_so():
    loader = Loader(DataLoader(ITEMS, batch_size=4, shuffle=True), batch_size=4, seed=6)
    assert read(loader, 2) == read(Loader(ITEMS, batch_size=4, seed=6), 2)
    assert any("the order is Treadle's own (shuffle, from the seed)" in note for note in loader.notes)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "sequential"),
        ({"shuffle": True}, "shuffle"),
        ({"sampler": SequentialSampler(ITEMS)}, "sequential"),
        ({"sampler": RandomSampler(ITEMS)}, "shuffle"),
        ({"sampler": RandomSampler(ITEMS, replacement=True)}, "replacement"),
    ],
)
def test_the_samplers_of_torch_are_understood(arguments, name):
    loader = Loader(DataLoader(ITEMS, batch_size=4, **arguments), batch_size=4, sampler="shuffle", seed=2)
    assert read(loader, 3) == read(Loader(ITEMS, batch_size=4, sampler=name, seed=2), 3)


def test_a_weighted_sampler_keeps_its_weights():
    sampler = WeightedRandomSampler([0.0, 1.0, 3.0, 0.0], num_samples=4)
    loader = Loader(DataLoader([0, 1, 2, 3], batch_size=4, sampler=sampler), batch_size=4)
    drawn = Counter(np.concatenate(read(loader, 1000)).tolist())
    assert set(drawn) == {1, 2}
    assert drawn[2] / 4000 == pytest.approx(0.75, abs=0.03)


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(9, -1, -1))

    def __len__(self):
        return 10


UNKNOWN = {
    "own sampler": {"batch_size": 4, "sampler": Backwards()},
    "list as sampler": {"batch_size": 4, "sampler": ITEMS[::-1]},
    "weighted without replacement": {"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * 10, 10, replacement=False)},
    "batch sampler": {"batch_sampler": BatchSampler(SequentialSampler(ITEMS), 4, False)},
    "own batches": {"batch_sampler": [[9], [0, 1], [2, 3, 4]]},
    "no batches": {"batch_size": None},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_order_that_cannot_be_made_again_is_refused_with_advice(name):
    with pytest.raises(DataError, match=r"wrap it in treadle\.Batches\(loader\) to keep its own batches"):
        Loader(DataLoader(ITEMS, **UNKNOWN[name]), batch_size=4)


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(ITEMS, num_samples=4),
        RandomSampler(ITEMS, replacement=True, num_samples=30),
        WeightedRandomSampler([1.0] * 10, num_samples=30),
        SequentialSampler(range(5)),
    ],
    ids=["fewer", "more, replacement", "more, weighted", "other data"],
)
def test_a_sampler_of_another_length_than_the_data_is_honoured_or_refused(sampler):
    try:
        loader = Loader(DataLoader(ITEMS, batch_size=2, sampler=sampler), batch_size=2)
    except DataError:
        return
    assert loader.epoch_size == len(sampler)


def test_wrapped_in_batches_it_keeps_its_own_batches():
    own = DataLoader(ITEMS, batch_sampler=[[9], [0, 1], [2, 3, 4]])
    assert read(Loader(Batches(own), batch_size=4), 2) == [[9], [0, 1], [2, 3, 4]] * 2


def test_wrapped_in_batches_its_shuffling_comes_from_the_seed():
    def epochs(seed):
        found = read(Loader(Batches(DataLoader(ITEMS, batch_size=5, shuffle=True)), batch_size=5, seed=seed), 2)
        return [found[0] + found[1], found[2] + found[3]]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == ITEMS
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]


def test_wrapped_in_batches_it_may_have_workers():
    own = DataLoader(WhoReads(), batch_size=5, num_workers=2)
    readers = {who for batch in Loader(Batches(own), batch_size=5).batches(epochs=1) for who in batch.parts[0][0].tolist()}
    assert readers == {0, 1}
