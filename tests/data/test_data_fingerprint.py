"""Fingerprints: which data it is, read without leaving a trace, and what differs in words."""

import json
import os
import random

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from treadle.data import Batches
from treadle.data.fingerprint import _chosen, differences, fingerprint
from treadle.data.loader import Loader
from treadle.data.sources import resolve


class Map:
    """Samples by index, some of them changed."""

    def __init__(self, length=200, changed=(), noise=False):
        self.length, self.changed, self.noise = length, changed, noise
        self.own = np.random.default_rng(3), random.Random(3), torch.Generator().manual_seed(3), np.random.RandomState(3)
        self.transforms = [{"jitter": random.Random(4)}]
        self.reads = 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads += 1
        for one in (*self.own[:2], self.transforms[0]["jitter"]):
            one.random()
        self.own[3].random_sample()
        torch.rand(1, generator=self.own[2])
        value = float(index + 1000 * (index in self.changed))
        return (torch.tensor([value]) + torch.rand(1) * self.noise * random.random(), index % 2)


class OnlyInAWorker(Map):
    """As one that opens a file lazily: the handle must not be there when workers are forked."""

    home = os.getpid()

    def __getitem__(self, index):
        assert os.getpid() != self.home, "read in the training process"
        return super().__getitem__(index)


class Raises(Map):
    def __getitem__(self, index):
        if index >= 5:
            raise KeyError("ünreadable")
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __iter__(self):
        raise AssertionError("must not be read")


def of(data, seed=0, **settings):
    return fingerprint(Loader(data, batch_size=4, **settings), seed)


def again(facts):
    return json.loads(json.dumps(facts))


@pytest.mark.parametrize(
    ("data", "kind", "name", "item"),
    [
        ((torch.zeros(9, 2), torch.arange(9)), "tensors", "tensors", "(float32[2], int64[])"),
        ({"x": torch.zeros(9, 2)}, "tensors", "tensors", "{'x': float32[2]}"),
        (Subset(TensorDataset(torch.arange(9)), [3, 4]), "tensors", "Subset of tensors", "(int64[])"),
        (Subset(Map(), range(9)), "indexed", "Subset of Map", "(float32[1], int)"),
        (["ä", "b"], "indexed", "list", "str"),
    ],
)
def test_the_facts(data, kind, name, item):
    facts = of(data)
    length = facts["length"]
    assert (facts["kind"], facts["type"], facts["item"], facts["read"], len(facts["hashes"])) == (kind, name, item, length, length)
    assert differences(again(facts), of(data)) == []


def test_at_most_64_items_are_read_and_mostly_the_same_where_the_dataset_grows():
    facts = of(Map(100_000))
    assert facts["read"] == 64 and "0" in facts["hashes"]
    assert len(set(_chosen(100_000)) & set(_chosen(99_000))) > 55
    assert len(set(_chosen(65))) == 64 and set(_chosen(64)) == set(range(64))
    assert len(set(_chosen(10**15))) == 64


def test_differences_have_both_values():
    before = of(Map(100, changed=(17, 20)))
    assert differences(again(before), of(Map(100))) in (
        ["items: 2 of 64 differ, such as item 17"], ["items: 1 of 64 differ, such as item 17"], ["items: 1 of 64 differ, such as item 20"], []
    )  # fmt: skip
    assert differences(of(Map(60, changed=(17, 20))), of(Map(60))) == ["items: 2 of 60 differ, such as item 17"]
    assert differences({"kind": "indexed", "length": 55000}, {"kind": "indexed", "length": None}) == ["length: 55,000 -> unknown"]
    lines = differences(of((torch.zeros(60, 2),)), of((torch.zeros(60, 3),)))
    assert lines == ["item: (float32[2]) -> (float32[3])", "items: 60 of 60 differ, such as item 0"]
    assert differences({}, {}) == []


def test_one_changed_label_of_many_in_memory_is_seen():
    images, labels = torch.randn(5000, 3), torch.zeros(5000, dtype=torch.int64)
    other = labels.clone()
    other[next(i for i in range(5000) if i not in set(_chosen(5000)))] = 1
    assert differences(of((images, labels)), of((images, other))) == ["items: some differ, though none of the 64 that were looked at one by one"]


def test_nan_is_equal_to_itself():
    data = (torch.full((3, 2), float("nan")),)
    assert differences(again(of(data)), of(data)) == []


def test_random_items_are_the_same_under_the_same_seed_only():
    one, same, other = of(Map(noise=True)), of(Map(noise=True)), of(Map(noise=True), seed=1)
    assert one["random"] and differences(one, same) == []
    assert differences(one, other) == []
    assert differences(of(Map()), of(Map(), seed=1)) == []


def test_random_items_of_changed_data_differ_under_the_same_seed():
    assert differences(of(Map(60, noise=True)), of(Map(60, changed=(17,), noise=True))) == ["items: 1 of 60 differ, such as item 17"]


class Own(Map):
    """Random by a generator that nobody seeds, as some libraries for augmentation are."""

    def __init__(self, length=60):
        super().__init__(length)
        self.own = (np.random.default_rng(), random.Random(), torch.Generator(), np.random.RandomState())

    def __getitem__(self, index):
        return (super().__getitem__(index)[0] + self.own[0].random(), index % 2)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("length", [1, 60])
def test_what_is_random_by_a_generator_of_its_own_is_known_and_refuses_nothing(workers, length):
    one, other = of(Own(length), workers=workers), again(of(Own(length), workers=workers))
    assert one["hashes"] != other["hashes"] and one["random"] and not one["seeded"]
    assert differences(one, other) == differences(other, one) == []
    assert differences(one, of(Own(length + 1)))[0].startswith("length: ")
    assert of(Map(noise=True))["seeded"] and "seeded" not in of(Map())


@pytest.mark.parametrize("workers", [0, 1])
def test_no_generator_moves(workers):
    data = Map(noise=True)

    def states():
        numpy, own, torch_own, old = data.own
        return [
            *(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
            *(numpy.bit_generator.state, own.getstate(), torch_own.get_state().tolist(), old.get_state()[1].tolist()),
            data.transforms[0]["jitter"].getstate(),
        ]

    before = states()
    of(data, workers=workers)
    assert states() == before
    assert (data.reads > 0) == (workers == 0)


def test_with_workers_items_are_read_as_workers_read_them_and_never_here():
    facts = of(OnlyInAWorker(), workers=1)
    assert "error" not in facts and facts["read"] == 64
    assert facts["hashes"] == of(Map())["hashes"]
    assert "read in the training process" in of(OnlyInAWorker())["error"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_raises_says_what(workers):
    facts = of(Raises(60), workers=workers)
    assert facts["error"] == "item 5 raised KeyError: 'ünreadable'"
    assert facts["read"] == 5
    assert differences(facts, of(Map(60))) == ["type: Raises -> Map", "error: item 5 raised KeyError: 'ünreadable' -> none"]


class Refused(Map):
    """Data behind an address that is another one each time, and opens it."""

    def __getitem__(self, index):
        words = f"https://me:mypassword@host/a.tar?X-Amz-Signature={random.SystemRandom().random()}&token=mytoken"
        raise OSError(f"403 for {words}, HF_TOKEN=mytoken, ghp_a1B2c3D4e5F6g7H8i9J0k1L2 (url: /a?sig=mytoken)")


def test_what_a_dataset_raised_is_kept_without_secrets_and_compared_by_its_type():
    one, other = of(Refused(60)), of(Refused(60))
    assert one["error"] == "item 0 raised OSError: 403 for https://...@host/a.tar?... HF_TOKEN=..., ghp_... (url: /a?...)"
    assert differences(one, other) == []
    assert differences({**one, "error": "item 0 raised OSError: at 0x1"}, {**one, "error": "item 0 raised OSError: at 0x2"}) == []
    assert differences(one, {**one, "error": "item 0 raised KeyError: 1"})[0].startswith("error: item 0 raised OSError")


class Dies(Map):
    def __getitem__(self, index):
        os._exit(3)


def test_a_process_that_dies_is_an_error_in_the_fingerprint_and_ends_nothing():
    assert "the process that read it raised RuntimeError" in of(Dies(), workers=1)["error"]


def test_unhashable_items_are_said_to_be():
    assert of([lambda: 1])["error"].startswith("item 0 is unhashable: function cannot be pickled")


@pytest.mark.parametrize(
    ("data", "kind", "name", "length"),
    [
        (Stream(), "streamed", "Stream", None),
        (Batches([torch.zeros(3)]), "batched", "list", 1),
        (Batches(lambda: iter([])), "batched", "<lambda>", None),
    ],
)
def test_streams_and_batches_are_not_read(data, kind, name, length):
    facts = of(data)
    assert (facts["kind"], facts["type"], facts["length"]) == (kind, name, length)
    assert "not read" in facts["note"] and "hashes" not in facts
    assert differences(again(facts), of(data)) == []


def test_a_slow_dataset_is_left_after_a_while():
    ticks = iter(range(10**6))
    facts = fingerprint(Loader(Map(), batch_size=1), 0, clock=lambda: next(ticks) * 0.1)
    assert facts["read"] == 3
    assert differences(facts, of(Map())) == []


def test_a_source_will_do():
    assert fingerprint(resolve(Map(60), "sequential"), 0) == of(Map(60))
