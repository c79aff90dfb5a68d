"""What iterators cannot be made of, and what a user's function may not do in them: said at once, and never passed over in silence."""

import itertools
import json
import random
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import treadle
from treadle.checkpoint.restore import read_checkpoint
from treadle.core.errors import DataError
from treadle.data import Batches, Infinite, Samples, bucket, cache, load_by_random_id, mix, pad
from treadle.data import map as mapped
from treadle.data import zip as zipped
from treadle.data.loader import Loader

ITEMS = [float(number) for number in range(6)]


class Stream(IterableDataset):
    def __init__(self, items, length=None):
        self.items = items
        if length is not None:
            self.__class__, self.length = Counted, length

    def __iter__(self):
        return iter(self.items)


class Counted(Stream):
    def __len__(self):
        return self.length


def same(item):
    return item


def nothing_left(*_):
    return next(iter([]))


# --- when it is made ---

REFUSED = {
    "no function": (lambda: mapped(ITEMS, 3), "takes a function of an item, got 3"),
    "threads by name": (lambda: mapped(ITEMS, same, threads="processes"), "got 'processes'; processes are machine.workers"),
    "threads below 0": (lambda: mapped(ITEMS, same, threads=-1), "threads must be a whole number .* got -1"),
    "map of a generator": (lambda: mapped((item for item in ITEMS), same), r"map was given an iterator \(generator\), which can be read only once"),
    "map of a stream": (lambda: mapped(Stream(ITEMS), same), "treadle.data.map needs samples by index, and Stream has an order of its own"),
    "map of batches": (lambda: mapped(Batches([torch.zeros(2)]), same), "map needs samples by index, and Batches has an order of its own"),
    "map of a loader": (lambda: mapped(DataLoader(ITEMS), same), "map needs samples by index, and DataLoader has an order of its own"),
    "map of nothing": (lambda: mapped([], same), "the dataset list is empty"),
    "map of no data": (lambda: mapped(3, same), "int is no dataset"),
    "zip of nothing": (lambda: zipped(), "treadle.data.zip was given no dataset"),
    "zip of lengths": (lambda: zipped(ITEMS, range(5)), "datasets of one length, got list of 6, range of 5"),
    "zip with a sampler": (lambda: zipped(ITEMS, Samples(ITEMS, sampler="shuffle")), "dataset 1 can have no sampler"),
    "zip with a collate": (lambda: zipped(ITEMS, Samples(ITEMS, collate=list)), "dataset 1 says collate, .* wrap the result in treadle.Samples"),
    "mix of nothing": (lambda: mix([]), "treadle.data.mix was given no dataset"),
    "mix, an empty one": (lambda: mix([ITEMS, []], [1, 1]), "the dataset list is empty"),
    "mix, few weights": (lambda: mix([ITEMS, ITEMS], [1]), "1 weights were given for 2 datasets"),
    "mix, a weight of 0": (lambda: mix([ITEMS, ITEMS], [1, 0]), r"weights must be positive finite numbers, got \[1.0, 0.0\]; leave out"),
    "mix, below 0": (lambda: mix([ITEMS, ITEMS], [1, -1]), "weights must be positive"),
    "mix, nan": (lambda: mix([ITEMS, ITEMS], [1, float("nan")]), "weights must be positive"),
    "mix, next to nothing": (lambda: mix([ITEMS, ITEMS], [1, 1e-6]), "dataset 1 has 1e-06 of all weights; the least is 1/4096"),
    "mix, sampler and no weights": (lambda: mix([Samples(ITEMS, sampler="shuffle")]), "dataset 0 has a sampler, and it is drawn by that only where"),
    "mix of buckets": (lambda: mix([bucket(ITEMS, range(6))], [1]), "dataset 0 makes whole batches; make them of the mix"),
    "mix of endless": (lambda: mix([Infinite(ITEMS, batches_per_epoch=2)], [1]), "dataset 0 says batches_per_epoch"),
    "no ids": (lambda: load_by_random_id(same, ids=[]), "ids is empty"),
    "ids of a set": (lambda: load_by_random_id(same, ids={1, 2}), r"ids must be a list, .* got set; give sorted\(ids\)"),
    "ids, no function": (lambda: load_by_random_id(ids=[1]), "was given no function"),
    "ids in place of a function": (lambda: load_by_random_id([1, 2], ids=[1]), r"takes functions of an id, got \[1, 2\]"),
    "ids, few weights": (lambda: load_by_random_id(same, ids=[1, 2], weights=[1]), "1 weights were given for 2 ids"),
    "ids, weights of 0": (lambda: load_by_random_id(same, ids=[1, 2], weights=[0, 0]), "non-negative"),
    "ids, below 0": (lambda: load_by_random_id(same, ids=[1, 2], weights=[1, -1]), "non-negative"),
    "endless, 0": (lambda: Infinite(ITEMS, batches_per_epoch=0), "batches_per_epoch must be a whole number above 0, got 0"),
    "endless, below 0": (lambda: Infinite(ITEMS, batches_per_epoch=-3), "got -3"),
    "endless, half": (lambda: Infinite(ITEMS, batches_per_epoch=2.5), "got 2.5"),
    "endless, none": (lambda: Infinite(ITEMS, batches_per_epoch=None), "say how many batches an epoch has"),
    "endless, no batch": (lambda: Infinite(ITEMS, batches_per_epoch=1, batch_size=0), "batch_size must be a whole number above 0, got 0"),
    "endless, empty": (lambda: Infinite([], batches_per_epoch=1), "empty"),
    "endless iterator": (lambda: Infinite(iter(ITEMS), batches_per_epoch=1), r"an iterator \(list_iterator\).* a function that makes one"),
    "endless generator function": (lambda: Infinite(lambda: (yield 1), batches_per_epoch=1), "it is a generator; let it return one"),
    "endless function of an index": (lambda: Infinite(same, batches_per_epoch=1), "calls same without arguments, and it has some: missing"),
    "endless stream": (lambda: Infinite(Stream(ITEMS), batches_per_epoch=1), "treadle.data.Infinite needs samples by index, and Stream"),
    "a stream with batches_per_epoch": (lambda: Loader(Samples(Stream(ITEMS), batches_per_epoch=3), batch_size=2), "Stream has epochs of its own"),
    "endless, no transform": (lambda: Infinite(ITEMS, 5, batches_per_epoch=1), "takes a function of an item, got 5"),
    "bucket, both": (lambda: bucket(ITEMS, range(6), batch_size=2, max_tokens=9), "give batch_size or max_tokens, not both"),
    "bucket, 0 tokens": (lambda: bucket(ITEMS, range(6), max_tokens=0), "max_tokens must be a whole number above 0"),
    "bucket, few tokens": (lambda: bucket(ITEMS, [3, 9, 2, 1, 1, 1], max_tokens=8), "sample 1 is 9 long, and max_tokens is 8; give at least 9"),
    "bucket, few lengths": (lambda: bucket(ITEMS, [1, 2]), "2 lengths were given for 6 samples"),
    "bucket, a length of 0.5": (lambda: bucket(ITEMS, [1, 2, 0.5, 1, 1, 1]), "the length of sample 2 must be a whole number >= 0, got 0.5"),
    "bucket, below 0": (lambda: bucket(ITEMS, lambda item: -1), "the length of sample 0 must be a whole number >= 0, got -1"),
    "bucket, no order": (lambda: bucket(ITEMS, range(6), buckets=[3, 2]), "buckets must be a number, or greatest lengths that ascend"),
    "bucket, 0 buckets": (lambda: bucket(ITEMS, range(6), buckets=0), "buckets must be a whole number above 0"),
    "bucket, sampler": (lambda: bucket(Samples(ITEMS, sampler="shuffle"), range(6)), "its source can have no sampler"),
    "bucket of endless": (lambda: bucket(Infinite(ITEMS, batches_per_epoch=3), range(6)), r"Infinite goes around it: Infinite\(bucket"),
    "bucket, StopIteration": (lambda: bucket(ITEMS, nothing_left), "nothing_left, asked for the length of sample 0, raised StopIteration"),
    "pad, 0": (lambda: pad(multiple_of=0), "multiple_of must be a whole number above 0"),
    "cache in a file": (lambda: cache(ITEMS, __file__), "is a file; give a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_when_it_is_made(name):
    make, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        make()


def test_a_length_function_that_raises_is_named_with_its_sample():
    with pytest.raises(ZeroDivisionError) as caught:
        bucket(ITEMS, lambda item: 1 // (item - 2))
    assert "was asked for the length of sample 2 of list" in caught.value.__notes__[0]


# --- when it is read ---


class Lost(Exception):
    pass


def lose_three(item):
    if item == 3:
        raise Lost("cannot decode")
    return item


@pytest.mark.parametrize("threads", [0, 3])
def test_an_exception_of_a_mapped_function_arrives_as_it_is_at_its_sample(threads):
    batches = Loader(mapped(ITEMS, lose_three, threads=threads), batch_size=2, sampler="sequential").batches()
    assert next(batches).parts[0].tolist() == [0, 1]
    with pytest.raises(Lost, match=r"^cannot decode") as caught:
        next(batches)
    name = "map(list, lose_three)"
    assert caught.value.__notes__ == ["raised by lose_three, mapped over item 3 of list", f"raised by sample 3 of {name}"]


def test_a_function_that_draws_in_threads_is_refused():
    alone = threading.Lock()

    def draw(item):
        with alone:
            return item + random.random()

    with pytest.raises(DataError, match="draw draws random numbers in threads"):
        next(Loader(mapped(ITEMS, draw, threads=2), batch_size=2).batches())


# --- StopIteration ---


class Ending(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return nothing_left() if index == 3 else float(index)


def ends_at_three(item):
    return nothing_left() if item == 3 else item


def ending_collate(samples):
    return nothing_left() if 3.0 in samples else torch.tensor(samples)


def generated():
    yield torch.zeros(2)
    yield nothing_left()


class Generated(IterableDataset):
    def __iter__(self):
        yield 1.0
        yield nothing_left()


class MappedByPython(IterableDataset):
    def __iter__(self):
        return map(ends_at_three, ITEMS)


class EndingBatches(Ending):
    def __getitem__(self, index):
        return nothing_left() if index == 1 else torch.zeros(2)


STOPS = {
    "__getitem__": (Ending(), "sample 3 of Ending raised StopIteration"),
    "map": (mapped(ITEMS, ends_at_three), "ends_at_three, mapped over item 3 of list, raised StopIteration"),
    "map, threads": (mapped(ITEMS, ends_at_three, threads=2), "ends_at_three, mapped over item 3 of list, raised StopIteration"),
    "transform": (Infinite(ITEMS, ends_at_three, batches_per_epoch=9), "ends_at_three, mapped over item 3 of list, raised StopIteration"),
    "load": (load_by_random_id(ends_at_three, ids=[3, 3]), "ends_at_three, called for the id 3, raised StopIteration"),
    "collate": (Samples(ITEMS, collate=ending_collate), "collate ending_collate raised StopIteration"),
    "stream, built-in map": (MappedByPython(), "ends_at_three, called for item 3 of MappedByPython, raised StopIteration"),
    "stream's collate": (Samples(Stream(ITEMS), collate=ending_collate), "collate ending_collate raised StopIteration"),
    "function": (Infinite(nothing_left, batches_per_epoch=9), "sample 0 of nothing_left raised StopIteration"),
}  # fmt: skip


IN_WORKERS = ("__getitem__", "map", "collate", "stream, built-in map")


@pytest.mark.parametrize(("name", "workers"), [(name, 0) for name in STOPS] + [(name, 2) for name in IN_WORKERS])
def test_stop_iteration_of_a_user_does_not_end_the_epoch(name, workers):
    data, message = STOPS[name]
    with pytest.raises(DataError, match=message):
        list(Loader(data, batch_size=2, sampler="sequential", workers=workers).batches(epochs=1))


def floats_end(item):
    return nothing_left() if item == 3 else torch.tensor([item])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Samples((torch.zeros(4),), prepare=nothing_left), "prepare nothing_left raised StopIteration"),
        (Batches(EndingBatches()), "batch 1 of EndingBatches raised StopIteration"),
        (Batches(lambda: map(floats_end, ITEMS)), "floats_end, called for item 3 of <lambda>, raised StopIteration"),
    ],
    ids=["prepare", "batch by index", "batches by map"],
)
def test_stop_iteration_where_batches_come_whole_does_not_end_the_epoch(data, message):
    with pytest.raises(DataError, match=message):
        list(Loader(data, batch_size=2).batches(epochs=1))


@pytest.mark.parametrize(("data", "name"), [(Generated(), "Generated"), (Batches(generated), "generated")])
def test_stop_iteration_in_a_generator_is_an_error_that_names_it(data, name):
    with pytest.raises(RuntimeError, match="generator raised StopIteration") as caught:
        list(Loader(data, batch_size=1).batches(epochs=1))
    assert caught.value.__notes__ == [f"raised by item 1 of {name}, in epoch 1"]


class Iterator:
    """One that is at its end, as iterators say it."""

    def __init__(self):
        self.inner = iter(ITEMS)

    def __iter__(self):
        return self

    def __next__(self):
        return self.more()

    def more(self):
        return next(self.inner)


def timed(function):
    def call(self):
        return function(self)

    return call


class Decorated(Iterator):
    __next__ = timed(Iterator.__next__)


ENDS = {
    "class": Iterator, "decorated": Decorated, "map": lambda: map(same, ITEMS), "list": lambda: iter(ITEMS),
    "map of a class": lambda: map(same, Iterator()), "chain": lambda: itertools.chain(Iterator()), "generator": lambda: (item for item in ITEMS),
}  # fmt: skip


@pytest.mark.parametrize("items", [make() for make in ENDS.values()], ids=ENDS)
def test_the_end_of_an_iterator_is_its_end(items):
    assert sum(batch.samples for batch in Loader(Stream(items), batch_size=2).batches(epochs=1)) == 6


# --- a promised length ---


class Promising:
    """Batches that say how many they are."""

    def __init__(self, promised, given):
        self.promised, self.given = promised, given

    def __len__(self):
        return self.promised

    def __iter__(self):
        return (torch.zeros(2) for _ in range(self.given))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("given", "told"), [(4, "gave 4"), (7, "gave more")])
def test_a_stream_that_breaks_its_promise_is_refused_before_the_epoch_is_over(given, told, workers):
    read = []
    with pytest.raises(DataError, match=f"Counted promised 6 samples by its __len__, and {told} in epoch 1"):
        for batch in Loader(Stream(range(given), length=6), batch_size=2, workers=workers).batches():
            read.append(batch.ends_epoch)
    assert not any(read)


@pytest.mark.parametrize(("given", "told"), [(2, "gave 2"), (4, "gave more")])
def test_batches_that_break_their_promise_are_refused_before_the_epoch_is_over(given, told):
    read = []
    with pytest.raises(DataError, match=f"Promising promised 3 batches by its __len__, and {told} in epoch 1"):
        read.extend(batch.ends_epoch for batch in Loader(Batches(Promising(3, given)), batch_size=2).batches())
    assert not any(read)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stream_that_keeps_its_promise_has_epochs_of_that_length(drop_last):
    read = Loader(Stream(range(7), length=7), batch_size=2, drop_last=drop_last)
    expected = [2, 2, 2] if drop_last else [2, 2, 2, 1]
    assert [batch.samples for batch in read.batches(epochs=2)] == expected * 2
    assert (read.epoch_size, read.epoch_steps, read.epoch_samples) == (sum(expected), len(expected), sum(expected))
    assert [batch.samples for batch in read.batches(into=4, epochs=1)] == expected[2:]


def test_a_promise_is_held_from_the_middle_too():
    with pytest.raises(DataError, match="promised 9 samples by its __len__, and gave 7"):
        list(Loader(Stream(range(7), length=9), batch_size=2).batches(into=4, epochs=1))


# --- in a run ---


class Rows(Dataset):
    """Pairs for a model; from the thirtieth that is asked for on, they end, for whoever takes that for an end."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.asked += 1
        return (torch.zeros(2), torch.zeros(1)) if self.asked < 30 else nothing_left()


def test_a_run_whose_data_ends_in_silence_has_failed(tmp_path):
    config = treadle.Config(run_dir=str(tmp_path / "run"), duration="100 steps", batch_size=2, data=treadle.DataConfig(leaks="off"))
    with pytest.raises(DataError, match="of Rows raised StopIteration"):
        treadle.train(nn.Linear(2, 1), nn.MSELoss(), Rows(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), config=config)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert 0 < record["steps"] < 100


def test_a_capsule_of_a_step_knows_its_samples(tmp_path):
    def objective(model, batch):
        loss = model(batch[0]).mean()
        return loss * float("nan") if batch[1].sum() > 4 else loss

    config = treadle.Config(run_dir=str(tmp_path / "run"), duration="100 steps", batch_size=2, log=treadle.LogConfig(every="1 step"))
    data = Infinite(mix([[(torch.ones(2), 0.0)] * 3, [(torch.ones(2), 5.0)]], [7, 1]), batches_per_epoch=50)
    with pytest.raises(treadle.errors.NonFiniteLoss):
        treadle.train(nn.Linear(2, 1), objective, data, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), config=config)
    (kept,) = (tmp_path / "run" / "capsules").glob("step-*")
    assert 3 in read_checkpoint(kept)[1]["ids"]
