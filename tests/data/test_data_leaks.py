"""Leaks: planted duplicates are found, exactly those, and what could not be compared is said."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, Subset, TensorDataset

from treadle.data import rows as rows_module
from treadle.data.leaks import SAME_INPUT, SAME_ITEM, Leaks, find_leaks
from treadle.data.loader import Loader
from treadle.data.near import find_near


class Map:
    """Samples by index: a list, asked one at a time."""

    def __init__(self, items):
        self.items, self.reads = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.items[index]


class Noisy(Map):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.rand(x.shape), y


class OnlyInAWorker(Map):
    home = os.getpid()

    def __getitem__(self, index):
        assert os.getpid() != self.home, "read in the training process"
        return super().__getitem__(index)


class Raises(Map):
    def __getitem__(self, index):
        if index == 4:
            raise OSError("torn file")
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __iter__(self):
        raise AssertionError("must not be read")


class Clock:
    """A second each time that somebody looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def leaks(limit=None, clock=None, workers=0, **splits):
    loaders = {name: Loader(data, batch_size=4, workers=workers) for name, data in splits.items()}
    found = find_leaks(loaders, limit, 0, **({} if clock is None else {"clock": clock}))
    assert Leaks.from_json(json.loads(json.dumps(found.to_json()))) == found
    return found


def short(found):
    return [(pair.one, pair.other, pair.kind, pair.count, pair.matches) for pair in found.pairs]


def planted(width=5):
    """40 and 12 rows; train 17 = valid 3, train 5 = valid 9, and train 30 has the input of valid 11 with another label."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, width, generator=generator), torch.arange(40)
    u, v = torch.randn(12, width, generator=generator), torch.arange(12) + 100
    for mine, theirs in ((17, 3), (5, 9)):
        u[theirs], v[theirs] = x[mine], y[mine]
    u[11] = x[30]
    return (x, y), (u, v)


FOUND = [("train", "valid", SAME_ITEM, 2, ((17, 3), (5, 9))), ("train", "valid", SAME_INPUT, 1, ((30, 11),))]
FORMS = {
    "tuple": lambda data: data,
    "arrays": lambda data: tuple(column.numpy() for column in data),
    "dict": lambda data: {"input": data[0], "target": data[1]},
    "dict, another order": lambda data: {"target": data[1], "input": data[0]},
    "TensorDataset": lambda data: TensorDataset(*data),
    "Subset": lambda data: Subset(TensorDataset(torch.cat([data[0] * 3, data[0]]), torch.cat([data[1]] * 2)), range(len(data[0]), 2 * len(data[0]))),
    "map": lambda data: Map(list(zip(*data, strict=True))),
    "map of dicts": lambda data: Map([{"image": x.numpy(), "label": int(y)} for x, y in zip(*data, strict=True)]),
    "list": lambda data: [(x.tolist(), str(y)) for x, y in zip(*data, strict=True)],
}


@pytest.mark.parametrize("width", [1, 5, 600])
@pytest.mark.parametrize("form", FORMS)
def test_planted_duplicates_are_found_at_their_indices_and_a_changed_label_is_told_apart(form, width):
    train, valid = (FORMS[form](data) for data in planted(width))
    found = leaks(train=train, valid=valid)
    assert short(found) == FOUND
    assert found.complete and found.notes == ()
    assert {name: (one.read, one.total) for name, one in found.coverage.items()} == {"train": (40, 40), "valid": (12, 12)}


@pytest.mark.parametrize("one", ["tuple", "map", "TensorDataset"])
@pytest.mark.parametrize("other", ["tuple", "map", "Subset"])
def test_splits_of_different_kinds_are_compared(one, other):
    train, valid = planted()
    assert short(leaks(train=FORMS[one](train), valid=FORMS[other](valid))) == FOUND


def test_with_workers_nothing_is_read_in_this_process():
    train, valid = (OnlyInAWorker(list(zip(*data, strict=True))) for data in planted())
    found = leaks(train=train, valid=valid, workers=2)
    assert short(found) == FOUND and found.complete


def test_clean_splits_have_no_leaks():
    found = leaks(train=(torch.arange(10.0),), valid=(torch.arange(10.0, 20),), test=(torch.arange(20.0, 30),))
    assert found.pairs == () and found.complete
    assert found.covered.startswith("read 10 of 10 train, 10 of 10 valid, 10 of 10 test items in ")


def test_bits_count_and_not_values():
    assert leaks(train=torch.tensor([0.0]), valid=torch.tensor([-0.0])).pairs == ()
    assert leaks(train=torch.tensor([float("nan")]), valid=torch.tensor([float("nan")])).pairs[0].count == 1
    assert leaks(train=torch.zeros(3, 1), valid=torch.zeros(3, 1, dtype=torch.float64)).pairs == ()
    assert leaks(train=torch.zeros(3, 2), valid=torch.zeros(3, 2, 1)).pairs == ()


def test_constant_inputs_are_reported_and_duplicates_within_a_split_are_counted_apart():
    found = leaks(train=(torch.zeros(6, 2), torch.tensor([0, 0, 0, 1, 1, 2])), valid=(torch.zeros(3, 2), torch.tensor([0, 1, 7])))
    assert short(found) == [("train", "valid", SAME_ITEM, 2, ((0, 0), (3, 1))), ("train", "valid", SAME_INPUT, 1, ((0, 2),))]
    assert (found.coverage["train"].repeated, found.coverage["valid"].repeated) == (3, 0)


@pytest.mark.parametrize("wrap", [list, lambda items: [f"é{item}" for item in items]])
def test_subsets_of_the_very_same_dataset_are_compared_by_index_without_reading(wrap):
    base = Map(wrap(range(50)))
    train, valid = Subset(Subset(base, range(10, 50)), [0, 1, -1]), Subset(base, [3, 11, 49])
    found = leaks(limit=0.0, clock=Clock(), train=train, valid=valid)
    assert short(found) == [("train", "valid", SAME_ITEM, 2, ((1, 1), (2, 2)))]
    assert base.reads == []
    assert not found.complete


def test_a_dataset_and_a_part_of_it_share_that_part_whatever_its_size():
    base = range(10**12)
    whole = leaks(limit=0.0, clock=Clock(), train=base, valid=Subset(base, [7, 8]))
    assert short(whole) == [("train", "valid", SAME_ITEM, 2, ((7, 0), (8, 1)))]
    assert short(leaks(limit=0.0, clock=Clock(), train=Subset(base, [7, 8]), valid=base)) == [("train", "valid", SAME_ITEM, 2, ((0, 7), (1, 8)))]
    assert leaks(limit=0.0, clock=Clock(), train=base, valid=base).pairs[0].count == 10**12


def test_random_items_cannot_be_compared_and_this_is_said_but_shared_indices_are_seen():
    base = Noisy([(torch.zeros(3), 0)] * 20)
    found = leaks(train=Subset(base, range(15)), valid=Subset(base, range(14, 20)))
    assert short(found) == [("train", "valid", SAME_ITEM, 1, ((14, 0),))]
    assert [one.random for one in found.coverage.values()] == [True, True] and not found.complete
    assert "items of train are random (Subset of Noisy gives another one each time), so exact duplicates cannot be seen" in found.notes[0]
    assert "treadle check-data" in found.notes[0]


def test_streams_are_said_to_be_no_matter_of_comparison():
    found = leaks(train=Stream(), valid=(torch.zeros(3),))
    assert found.pairs == () and not found.complete
    assert found.notes[0].startswith("train cannot be compared: Stream is streamed")
    assert found.coverage["train"].total is None


def test_a_dataset_that_raises_is_compared_up_to_there():
    items = [(torch.tensor([float(i)]), i) for i in range(9)]
    found = leaks(train=Map(items[2:]), valid=Raises(items))
    assert short(found) == [("train", "valid", SAME_ITEM, 2, ((0, 2), (1, 3)))]
    assert found.notes == ("valid was read up to item 4 only: item 4 raised OSError: torn file",)
    assert found.coverage["valid"].read == 4


def test_unhashable_items_are_said_to_be():
    assert "is unhashable" in leaks(train=[lambda: 1], valid=[1]).notes[0]


def test_the_time_is_looked_at_between_items_and_the_smallest_split_is_read_first():
    items = [(torch.tensor([float(i)]), i) for i in range(1000)]
    train, valid = Map(items), Map(items[:10])
    found = leaks(limit=100.0, clock=Clock(), train=train, valid=valid)
    assert found.coverage["valid"].read == 10
    assert 0 < found.coverage["train"].read < 100
    assert found.pairs[0].count == 10
    assert not found.complete
    assert leaks(limit=100.0, clock=Clock(), train=Map(items), valid=Map(items[:10])) == found


def test_a_small_slow_split_does_not_take_all_of_the_time():
    items = [(torch.tensor([float(i)]), i) for i in range(1000)]
    found = leaks(limit=60.0, clock=Clock(), train=Map(items), valid=Map(items[:900]), test=Map(items[:800]))
    assert min(one.read for one in found.coverage.values()) > 3


def test_rows_whose_digests_collide_are_compared_by_their_bits(monkeypatch):
    monkeypatch.setattr(rows_module.Rows, "digests", lambda self, start, stop, begun=None: np.zeros(stop - start, dtype=np.uint64))
    found = leaks(train=(torch.arange(5.0),), valid=(torch.tensor([7.0, 8.0]),))
    assert found.pairs == ()


def test_each_match_is_counted_and_the_first_thousand_are_listed():
    pair = leaks(train=torch.arange(3000), valid=torch.arange(2500)).pairs[0]
    assert (pair.count, len(pair.matches), pair.matches[999]) == (2500, 1000, (999, 999))


@settings(max_examples=60, deadline=None)
@given(
    train=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=40),
    valid=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=40),
    form=st.sampled_from(["tuple", "map", "list", "dict"]),
)
def test_exactly_what_is_in_both_is_found(train, valid, form):
    given_ = [FORMS[form]((torch.tensor([[x, 1] for x, _ in data]), torch.tensor([y for _, y in data]))) for data in (train, valid)]
    found = {pair.kind: pair for pair in leaks(train=given_[0], valid=given_[1]).pairs}
    inputs = [x for x, _ in train]
    same = [(train.index(item), place) for place, item in enumerate(valid) if item in train]
    alike = [(inputs.index(item[0]), place) for place, item in enumerate(valid) if item not in train and item[0] in inputs]
    for kind, expected in ((SAME_ITEM, same), (SAME_INPUT, alike)):
        assert list(found[kind].matches if kind in found else ()) == expected


def test_progress_is_told_to_the_end():
    told = []
    loaders = {name: Loader(torch.arange(float(size)), batch_size=1) for name, size in (("train", 30), ("valid", 5))}
    find_leaks(loaders, None, 0, watch=lambda done, of: told.append((done, of)))
    assert told[-1] == (35, 35)


def test_mnist_has_no_image_twice_and_one_that_is_planted_is_found():
    mnist = pytest.importorskip("treadle_mnist")
    train, (images, labels) = mnist.load("train"), mnist.load("test")
    found = leaks(train=train, test=(images, labels))
    assert found.pairs == () and found.complete
    assert [one.repeated for one in found.coverage.values()] == [0, 0]
    images = images.copy()
    images[9_999] = train[0][41]
    pair = leaks(train=train, test=(images, labels)).pairs[0]
    assert (pair.count, pair.matches) == (1, ((41, 9_999),))


# --- near-duplicates ---


@pytest.mark.parametrize("make", [lambda images: images, lambda images: Map([(image.numpy(), 0) for image in images])], ids=["tensors", "map"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_brighter_noisier_copy_is_the_nearest_pair_and_an_exact_one_is_left_out(make, workers):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 24, 24, generator=generator)
    others = torch.rand(10, 1, 24, 24, generator=generator)
    others[4] = 0.7 * images[21] + 0.2 + 0.02 * torch.rand(1, 24, 24, generator=generator)
    others[6] = images[2]
    near = find_near({"train": Loader(make(images), batch_size=1, workers=workers), "valid": Loader(make(others), batch_size=1)}, None, 0)
    assert [(pair.one, pair.mine, pair.other, pair.theirs) for pair in near.pairs] == [("train", 21, "valid", 4)]
    assert near.pairs[0].score > 0.98 and near.notes == ()


def test_what_is_neither_image_nor_vector_is_said_not_to_be_compared():
    near = find_near({"train": Loader(["a", "b"], batch_size=1), "valid": Loader(torch.zeros(3, 2), batch_size=1)}, None, 0)
    assert near.pairs == ()
    assert near.notes[0].startswith("0 of 2 train items were compared for nearness")


def test_only_the_nearest_are_listed_and_the_limit_is_kept():
    x = torch.linspace(0, 1, 16).repeat(50, 1) + 0.01 * torch.rand(50, 16, generator=torch.Generator().manual_seed(0))
    loaders = {"train": Loader(x[:30], batch_size=1), "valid": Loader(x[30:], batch_size=1)}
    near = find_near(loaders, None, 0)
    scores = [pair.score for pair in near.pairs]
    assert len(scores) == 20 and scores == sorted(scores, reverse=True)
    assert any("time was over" in note or "were compared" in note for note in find_near(loaders, 3.0, 0, clock=Clock()).notes)
