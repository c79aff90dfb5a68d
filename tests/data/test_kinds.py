"""Kinds of data: what each is read as, and what is refused."""

import collections
import random

import datasets
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate, random_split

from treadle.core.errors import DataError
from treadle.data import Batches, Samples, fetch
from treadle.data import loader as loader_module
from treadle.data.loader import Loader

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
Pair = collections.namedtuple("Pair", "x y")
PAIRS = list(zip(X, Y, strict=True))
COLUMNS = {"x": X.tolist(), "y": Y.tolist()}


class Map(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


class MyTensors(TensorDataset):
    """A subclass may compute something: it must be asked."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 100, y


KINDS = {
    "tuple": ("tensors", (X, Y), (X, Y)),
    "arrays": ("tensors", (X.numpy(), Y.numpy()), (X, Y)),
    "tensor and array": ("tensors", (X, Y.numpy()), (X, Y)),
    "dict": ("tensors", {"x": X, "y": Y}, {"x": X, "y": Y}),
    "dict of arrays": ("tensors", {"x": X.numpy(), "y": Y.numpy()}, {"x": X, "y": Y}),
    "named tuple": ("tensors", Pair(X, Y), Pair(X, Y)),
    "tensor": ("tensors", X, X),
    "array": ("tensors", X.numpy(), X),
    "TensorDataset": ("tensors", TensorDataset(X, Y), (X, Y)),
    "Subset": ("tensors", Subset(TensorDataset(X, Y), [5, 0, 2]), (X[[5, 0, 2]], Y[[5, 0, 2]])),
    "Subset, range": ("tensors", Subset(TensorDataset(X, Y), range(1, 4)), (X[1:4], Y[1:4])),
    "Subset, negative": ("tensors", Subset(TensorDataset(X, Y), [-1, 0]), (X[[-1, 0]], Y[[-1, 0]])),
    "Subset of Subset": ("tensors", Subset(Subset(TensorDataset(X, Y), [5, 0, 2]), [2, 0]), (X[[2, 5]], Y[[2, 5]])),
    "subclass of TensorDataset": ("indexed", MyTensors(X, Y), [X + 100, Y]),
    "Subset of a subclass": ("indexed", Subset(MyTensors(X, Y), [1]), [X[[1]] + 100, Y[[1]]]),
    "list": ("indexed", PAIRS, [X, Y]),
    "map": ("indexed", Map(), [X, Y]),
    "Subset of map": ("indexed", Subset(Map(), [4, 1]), [X[[4, 1]], Y[[4, 1]]]),
    "ConcatDataset": ("indexed", ConcatDataset([Map(), Map()]), [torch.cat([X, X]), torch.cat([Y, Y])]),
    "range": ("indexed", range(6), Y),
    "datasets.Dataset": ("indexed", datasets.Dataset.from_dict(COLUMNS).with_format("torch"), {"x": X, "y": Y}),
    "stream": ("streamed", Stream(), [X, Y]),
    "datasets.IterableDataset": ("streamed", datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset().with_format("torch"), {"x": X, "y": Y}),
}


def whole(data, **settings):
    """All of an epoch as one batch."""
    batch = next(Loader(data, batch_size=12, sampler="sequential", **settings).batches())
    assert batch.ends_epoch
    return batch.parts[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_read_as_what_it_is(name, workers):
    kind, data, expected = KINDS[name]
    assert Loader(data, batch_size=2).source.kind == kind
    found = whole(data, workers=workers)
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_random_splits_of_tensors_are_in_memory_and_share_out_every_sample():
    parts = random_split(TensorDataset(X, Y), [4, 2], torch.Generator().manual_seed(1))
    inner = random_split(parts[0], [3, 1], torch.Generator().manual_seed(2))
    read = [whole(part) for part in (*inner, parts[1])]
    assert sorted(torch.cat([y for _, y in read]).tolist()) == Y.tolist()
    assert all(torch.equal(x, X[y]) for x, y in read)


def test_the_ids_of_a_batch_name_its_samples():
    subset = Subset(TensorDataset(X, Y), [5, 0, 2])
    for batch in Loader(subset, batch_size=2).batches(epochs=2):
        assert torch.equal(batch.parts[0][1], torch.stack([subset[index][1] for index in batch.ids]))


def test_a_batch_may_be_changed_in_place_without_changing_the_data():
    loader = Loader((X.clone(),), batch_size=6, sampler="sequential")
    next(loader.batches()).parts[0][0].zero_()
    assert torch.equal(next(loader.batches()).parts[0][0], X)


@pytest.mark.parametrize("name", [name for name, (kind, *_) in KINDS.items() if kind == "tensors"])
def test_data_in_memory_is_read_without_a_data_loader_or_python_for_each_sample(name, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("must not be used for data in memory")

    for owner, attribute in [
        (loader_module, "DataLoader"),
        (fetch.Fetch, "__getitem__"),
        (fetch, "seed_here"),
        (TensorDataset, "__getitem__"),
        (Subset, "__getitem__"),
        (Subset, "__getitems__"),
        (torch.Tensor, "__iter__"),
        (random, "seed"),
    ]:
        monkeypatch.setattr(owner, attribute, forbidden)
    loader = Loader(KINDS[name][1], batch_size=2, micro_batch=1, workers=2)
    assert sum(batch.samples for batch in loader.batches(epochs=1)) == loader.source.length


def test_data_in_memory_costs_one_index_operation_a_tensor(monkeypatch):
    calls, select = [], torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *args: calls.append(args) or select(*args))
    loader = Loader((torch.zeros(3000, 2), torch.zeros(3000)), batch_size=1000)
    assert [batch.samples for batch in loader.batches(epochs=1)] == [1000] * 3
    assert len(calls) == 3 * 2


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.fixture
def every_warning():
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
@pytest.mark.parametrize("layout", [read_only, lambda array: array[::-1], lambda array: array[::2]], ids=["read-only", "backwards", "strided"])
def test_numpy_arrays_are_read_whatever_their_layout(layout):
    array = layout(X.numpy())
    assert whole((array,))[0].tolist() == array.tolist()


# --- what the user says about samples ---


def test_a_sampler_of_the_data_wins_over_the_one_of_the_config():
    loader = Loader(Samples(PAIRS, sampler="sequential"), batch_size=6, sampler="shuffle")
    assert torch.equal(next(loader.batches()).parts[0][1], Y)


@pytest.mark.parametrize("data", [PAIRS, TensorDataset(X, Y), (X, Y)], ids=["list", "TensorDataset", "tuple of tensors"])
def test_an_own_collate_gets_the_samples(data):
    found = whole(Samples(data, collate=lambda samples: [y.item() for _, y in samples]))
    assert found == Y.tolist()


def test_an_own_collate_gets_the_samples_of_a_dict_of_tensors():
    assert whole(Samples({"x": X, "y": Y}, collate=lambda samples: default_collate(samples)["y"])).tolist() == Y.tolist()


def test_a_stream_is_read_by_one_worker_and_a_note_says_so():
    loader = Loader(Stream(), batch_size=4, workers=3)
    assert sum(batch.samples for batch in loader.batches(epochs=1)) == 6
    assert any("one worker" in note for note in loader.notes)


# --- what is refused ---


def test_a_plain_generator_is_refused_and_batches_suggested():
    with pytest.raises(DataError, match=r"generator is no dataset.*treadle\.Batches if each of its items is a batch"):
        Loader((item for item in PAIRS), batch_size=2)


@pytest.mark.parametrize("data", [3, None, object()])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(DataError, match="is no dataset: give something with __len__ and __getitem__"):
        Loader(data, batch_size=2)


@pytest.mark.parametrize("data", [(X, Y[:4]), {"x": X, "y": Y[:4]}, (X.numpy(), Y[:4].numpy()), (X, torch.tensor(1.0))])
def test_tensors_of_different_lengths_are_refused(data):
    with pytest.raises(DataError, match=r"must have the same length, got \(6, 2\), "):
        Loader(data, batch_size=2)


@pytest.mark.parametrize(
    "data",
    [COLUMNS, {"x": X, "y": Y.tolist()}, (X, Y.tolist()), datasets.DatasetDict(train=datasets.Dataset.from_dict(COLUMNS))],
    ids=["dict of lists", "dict of tensor and list", "tuple of tensor and list", "DatasetDict"],
)
def test_columns_that_are_not_all_tensors_are_refused_and_not_read_as_samples(data):
    with pytest.raises(DataError):
        Loader(data, batch_size=2)


@pytest.mark.parametrize("given", [3, None])
def test_batches_of_what_cannot_be_iterated_are_refused(given):
    with pytest.raises(DataError, match=r"treadle\.Batches takes an iterable of batches, or a function"):
        Loader(Batches(given), batch_size=2)


@pytest.mark.parametrize("batch", [["a", "b"], (1, 2.0), torch.tensor(1.0), None])
def test_a_batch_whose_samples_cannot_be_counted_is_refused(batch):
    with pytest.raises(DataError, match="cannot count the samples of a batch without a tensor"):
        next(Loader(Batches([batch]), batch_size=2).batches())


def test_no_batch_is_passed_over_in_silence():
    with pytest.raises(DataError):
        next(Loader(Batches([None, X]), batch_size=2).batches())


# --- exceptions of the user's code ---


class Unreadable(Exception):
    pass


class Broken(Map):
    def __getitem__(self, index):
        if index == 3:
            raise Unreadable("cannot read image")
        return X[index]


def test_an_exception_of_a_sample_arrives_as_it_is_with_a_note_naming_the_sample():
    batches = Loader(Broken(), batch_size=2, sampler="sequential").batches()
    assert next(batches).samples == 2
    with pytest.raises(Unreadable, match=r"^cannot read image") as caught:
        next(batches)
    assert caught.value.__notes__ == ["raised by sample 3 of Broken"]


def test_an_exception_in_a_worker_keeps_its_type_and_names_the_sample():
    with pytest.raises(Unreadable, match=r"cannot read image[\s\S]*raised by sample 3 of Broken"):
        list(Loader(Broken(), batch_size=2, workers=2).batches(epochs=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_a_stream_keeps_its_type(workers):
    class BrokenStream(IterableDataset):
        def __iter__(self):
            yield X[0]
            raise Unreadable("torn file")

    with pytest.raises(Unreadable, match="torn file"):
        next(Loader(BrokenStream(), batch_size=2, workers=workers).batches())


# --- batches of somebody else ---


@pytest.mark.parametrize(
    "make",
    [
        lambda batches: batches,
        lambda batches: tuple(batches),
        lambda batches: lambda: iter(batches),
        lambda batches: lambda: list(batches),
        lambda batches: DataLoader(TensorDataset(X), batch_size=4, collate_fn=lambda samples: torch.stack([x for (x,) in samples])),
        lambda batches: DataLoader(StreamOfX(), batch_size=4),
    ],
    ids=["list", "tuple", "function, iterator", "function, list", "loader", "loader of a stream"],
)
def test_batches_come_in_their_own_order_and_size(make):
    loader = Loader(Batches(make([X[:4], X[4:]])), batch_size=3)
    found = list(loader.batches(epochs=2))
    assert [batch.parts[0].tolist() for batch in found] == [X[:4].tolist(), X[4:].tolist()] * 2
    assert [(batch.counts, batch.positions, batch.ends_epoch) for batch in found] == [([4], 1, False), ([2], 1, True)] * 2


class StreamOfX(IterableDataset):
    def __iter__(self):
        return iter(X)
