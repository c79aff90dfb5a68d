"""Datasets made of datasets: the same samples whatever reads them, from any position, each as often as was said."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

import treadle
from treadle.core.structure import leaves
from treadle.data import Infinite, Samples, bucket, cache, load_by_random_id, mix, pad
from treadle.data import map as mapped
from treadle.data import zip as zipped
from treadle.data.fingerprint import differences, fingerprint
from treadle.data.leaks import find_leaks
from treadle.data.loader import Loader

PROFILE = settings(deadline=None, derandomize=True, max_examples=40, database=None)
X = torch.arange(30.0).reshape(15, 2)


def drawn(index):
    """An item that is another one each time: of all three generators."""
    return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def more(item):
    return torch.cat([item, drawn(-1)])


def doubled(item):
    return 2 * item


def doubled_pair(item):
    return 2 * item[0], item[1]


def made():
    return drawn(7)


class Drawn(Dataset):
    def __init__(self, length=11):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return drawn(index)


TEXTS = [torch.arange(number % 5 + 1) for number in range(23)]
SOURCES = {
    "map": mapped(Drawn(), more),
    "map, threads": mapped(mapped(list(range(11)), doubled, threads=3), drawn),
    "map of tensors": mapped((X, X), lambda item: (item[0] + torch.rand(()), item[1])),
    "zip": zipped(Drawn(), list(range(11)), X[:11]),
    "mix": mix([Drawn(), mapped(list(range(100, 105)), drawn)], [3, 1]),
    "mix, no weights": mix([Drawn(), Drawn(3)]),
    "mix in mix": mix([mix([Drawn(4), Drawn(3)], [1, 2]), Samples(Drawn(5), sampler="sequential")], [0.25, 0.75]),
    "bucket": Samples(bucket(TEXTS, len, buckets=3), collate=pad(multiple_of=2)),
    "bucket, tokens": Samples(bucket(TEXTS, [len(text) for text in TEXTS], max_tokens=12), collate=pad()),
    "bucket of tensors": bucket((X, X), range(15), batch_size=3),
    "cache": mapped(cache(mapped(list(range(11)), doubled)), drawn),
    "ids": load_by_random_id(drawn, doubled, ids=[3, 5, 8, 13], weights=[1, 2, 3, 0]),
    "infinite": Infinite(Drawn(), more, batches_per_epoch=5),
    "infinite, tensors": Infinite((X, X), batches_per_epoch=6),
    "infinite, function": Infinite(made, doubled, batches_per_epoch=4, batch_size=3),
    "infinite, weighted": Infinite(Samples(Drawn(), sampler=treadle.data.Weighted(range(11))), batches_per_epoch=4),
    "infinite, bucket": Samples(Infinite(bucket(TEXTS, len, max_tokens=12), batches_per_epoch=5), collate=pad()),
    "infinite, mix": Infinite(mix([Drawn(), X.double().repeat(1, 2)], [1, 1]), batches_per_epoch=5),
    "infinite, ids": Infinite(load_by_random_id(drawn, ids=range(5)), batches_per_epoch=5),
}  # fmt: skip
READ = ("map, threads", "mix", "bucket, tokens", "infinite", "infinite, function", "infinite, ids", "cache")


def seen(batch):
    return [leaf.tolist() for leaf in leaves(batch.parts)], batch.samples, batch.positions, batch.ends_epoch, batch.ids.tolist()


def loader(source, **more):
    return Loader(source, **{"batch_size": 4, "seed": 5, **more})


# --- position is state ---


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_reading_from_any_position_goes_on_as_reading_from_the_start(name, drop_last):
    read = loader(SOURCES[name], drop_last=drop_last)
    expected, epoch, into, starts = [], 0, 0, []
    for batch in read.batches(epochs=3):
        starts.append((epoch, into))
        expected.append(seen(batch))
        epoch, into = (epoch + 1, 0) if batch.ends_epoch else (epoch, into + batch.positions)
    assert (epoch, into) == (3, 0)
    assert len(expected) == 3 * read.epoch_steps
    for number, start in enumerate(starts):
        torch.rand(number)  # another process would have drawn something else by now
        rest = itertools.islice(loader(SOURCES[name], drop_last=drop_last).batches(*start), len(expected) - number)
        assert [seen(batch) for batch in rest] == expected[number:]


@pytest.mark.parametrize("name", READ)
def test_the_number_of_workers_changes_nothing(name):
    one, two = ([seen(batch) for batch in loader(SOURCES[name], workers=workers).batches(epochs=2)] for workers in (0, 2))
    assert one == two


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "bucket"])
def test_cut_into_micro_batches_the_samples_are_the_same(name):
    if isinstance(SOURCES[name], Samples) and SOURCES[name].collate is not None:
        return
    whole, cut = (loader(SOURCES[name], micro_batch=size).batches(epochs=2) for size in (None, 2))
    for one, other in zip(whole, cut, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert leaves(one.parts[0])[0].tolist() == torch.cat([leaves(part)[0] for part in other.parts]).tolist()


@pytest.mark.parametrize("name", SOURCES)
def test_another_seed_gives_another_order(name):
    one, other = ([seen(batch) for batch in loader(SOURCES[name], seed=seed).batches(epochs=1)] for seed in (5, 6))
    assert one != other


def test_going_on_a_billion_steps_later_reads_one_batch():
    asked = []
    data = Infinite(mix([range(10**9), range(5)], [1, 1]), lambda item: asked.append(item) or item, batches_per_epoch=1000)
    batch = next(loader(data).batches(epoch=10**6, into=400))
    assert batch.samples == len(asked) == 4


# --- Infinite ---


@PROFILE
@given(length=st.integers(1, 20), size=st.integers(1, 9), batches=st.integers(1, 9), epochs=st.integers(1, 4))
def test_an_endless_dataset_is_one_permutation_after_another_and_every_batch_is_full(length, size, batches, epochs):
    read = Loader(Infinite(list(range(length)), batches_per_epoch=batches, batch_size=size), batch_size=99, seed=3)
    found = list(read.batches(epochs=epochs))
    ids = np.concatenate([batch.ids for batch in found])
    assert [batch.samples for batch in found] == [size] * batches * epochs
    assert [batch.ends_epoch for batch in found] == ([False] * (batches - 1) + [True]) * epochs
    assert all(sorted(ids[start : start + length]) == list(range(length)) for start in range(0, len(ids) - length + 1, length))
    assert (read.epoch_size, read.epoch_steps, read.epoch_samples) == (size * batches, batches, size * batches)


@pytest.mark.parametrize("data", [Drawn(12), (X[:12], X[:12])], ids=["indexed", "tensors"])
def test_it_is_the_run_that_it_would_be_without_cut_elsewhere(data):
    """Order and augmentation of the n-th permutation are those of the n-th epoch, of what is prepared too."""

    def prepare(batch, draw):
        return [*leaves(batch), draw(2)]

    plain = loader(Samples(data, prepare=prepare)).batches(epochs=5)
    endless = loader(Infinite(Samples(data, prepare=prepare), batches_per_epoch=5)).batches(epochs=3)
    for one, other in zip(plain, endless, strict=True):
        assert [leaf.tolist() for leaf in leaves(one.parts)] == [leaf.tolist() for leaf in leaves(other.parts)]


def test_a_sample_that_comes_again_within_an_epoch_is_augmented_anew():
    for data in (Infinite(Drawn(2), batches_per_epoch=10), load_by_random_id(drawn, ids=[1, 1]), Infinite(made, batches_per_epoch=10)):
        values = torch.cat([batch.parts[0][:, 1] for batch in loader(data).batches(epochs=1)])
        assert len(set(values.tolist())) == len(values)


def test_draws_of_a_sample_that_comes_again_within_an_epoch_are_new():
    data = Samples((torch.zeros(3, 1),), prepare=lambda batch, draw: draw(1))
    values = torch.cat([batch.parts[0] for batch in loader(Infinite(data, batches_per_epoch=9)).batches(epochs=2)])
    assert len(set(values.flatten().tolist())) == 72


def test_the_config_says_how_large_a_batch_is_unless_the_data_does():
    assert [batch.samples for batch in loader(Infinite(Drawn(), batches_per_epoch=2)).batches(epochs=1)] == [4, 4]
    own = loader(Infinite(Drawn(), batches_per_epoch=2, batch_size=3))
    assert [batch.samples for batch in own.batches(epochs=1)] == [3, 3]
    assert own.notes == ["batch_size 3 of the data is used, not 4 of the config"]


def test_tensors_stay_in_memory_and_are_read_a_batch_at_a_time():
    assert loader(Infinite((X, X), batches_per_epoch=6)).source.kind == "tensors"
    assert loader(Infinite((X, X), doubled_pair, batches_per_epoch=6)).source.kind == "indexed"


def test_an_evaluation_that_takes_fewer_at_once_takes_as_many_in_all():
    read = loader(Infinite(Drawn(), batches_per_epoch=3))
    before = np.concatenate([batch.ids for batch in read.batches(epochs=1)])
    read.batch_size = 2
    assert np.concatenate([batch.ids for batch in read.batches(epochs=1)]).tolist() == before.tolist()


# --- mix, ids, zip, map ---


@PROFILE
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 9), batches=st.integers(1, 3))
def test_shares_are_exact_over_a_period_and_each_dataset_goes_round_in_permutations(weights, seed, batches):
    lengths = [3 + 2 * number for number in range(len(weights))]
    data = mix([[(number, place) for place in range(length)] for number, length in enumerate(lengths)], weights)
    period = int(sum(data.sampler._counts))
    read = Loader(Infinite(data, batches_per_epoch=batches, batch_size=period), batch_size=1, seed=seed)
    taken = [data.dataset[index] for batch in read.batches(epochs=2) for index in batch.ids]
    assert len(taken) == 2 * batches * period
    for start in range(0, len(taken), period):
        found = Counter(number for number, _ in taken[start : start + period])
        assert [found[number] * sum(weights) for number in range(len(weights))] == [weight * period for weight in weights]
    for number, length in enumerate(lengths):  # within a period, which of a dataset's own come first is drawn: they are as many
        found = Counter(place for whose, place in taken if whose == number)
        assert max(found.values()) - min(found[place] for place in range(length)) <= 1


def test_mixed_datasets_stand_in_random_places():
    data = mix([range(1000), range(1000, 2000)], [1, 1])
    which = (next(Loader(data, batch_size=2000).batches()).ids >= 1000).astype(int)
    assert 0.4 < np.mean(which[1:] == which[:-1]) < 0.6


def test_without_weights_each_item_comes_once_an_epoch():
    ids = next(Loader(mix([range(5), range(3)]), batch_size=8).batches()).ids
    assert sorted(ids.tolist()) == list(range(8))
    assert ids.tolist() != list(range(8))


def test_ids_are_drawn_as_often_as_their_weights_say_and_the_step_knows_them():
    names = ["a", "b", "c"]
    data = Infinite(load_by_random_id(names.index, ids=names, weights=[1, 3, 0]), batches_per_epoch=100)
    batches = list(Loader(data, batch_size=100).batches(epochs=1))
    ids = np.concatenate([batch.ids for batch in batches])
    assert torch.cat([batch.parts[0] for batch in batches]).tolist() == ids.tolist()
    assert (ids == 2).sum() == 0
    assert abs((ids == 1).mean() - 0.75) < 4 * 0.5 / 100


def test_what_is_said_of_samples_stays():
    source = Samples(Drawn(), sampler="sequential", collate=list, prepare=len, random=False)
    for made_of_it in (mapped(source, doubled), cache(source), Infinite(source, batches_per_epoch=2)):
        assert (made_of_it.sampler, made_of_it.collate, made_of_it.prepare, made_of_it.random) == ("sequential", list, len, False)
    around = Samples(Infinite(Samples(Drawn(), collate=list), batches_per_epoch=2), collate=tuple)
    read = Loader(around, batch_size=2)
    assert (read.source.collate, read.epoch_steps) == (tuple, 2)


def test_threads_make_the_items_of_a_batch_at_the_same_time():
    import threading

    both = threading.Barrier(4, timeout=60)

    def wait(item):
        both.wait()
        return item

    data = mapped(range(8), wait, threads=4)
    assert [batch.parts[0].tolist() for batch in Loader(data, batch_size=4, sampler="sequential").batches(epochs=1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_threads_below_other_views_work_ahead_too():
    import threading

    both = threading.Barrier(2, timeout=60)

    def wait(item):
        both.wait()
        return item

    inner = mapped(range(4), wait, threads=2)
    for data in (mapped(inner, doubled), zipped(inner, range(4)), cache(inner), mix([inner, range(0, 40, 10)])):
        assert sum(batch.samples for batch in Loader(data, batch_size=2, sampler="sequential").batches(epochs=1)) in (4, 8)


# --- fingerprints and leaks ---


@pytest.mark.parametrize("name", SOURCES)
def test_a_fingerprint_is_the_same_twice_and_changes_no_generator(name):
    before = torch.get_rng_state()
    one, two = (fingerprint(loader(SOURCES[name]), seed=5) for _ in range(2))
    one, two = ({key: value for key, value in facts.items() if key not in ("read", "hashes")} for facts in (one, two))
    assert one == two
    assert "error" not in one
    assert torch.equal(before, torch.get_rng_state())


def test_other_data_below_a_view_is_other_data():
    one, two = (fingerprint(Loader(mapped(cache(list(range(9 + more))), doubled), batch_size=1), seed=0) for more in (0, 1))
    assert differences(one, two) == ["length: 9 -> 10"]
    assert one["type"] == "map(cache(list), doubled)"


def test_items_below_two_views_are_found_to_be_the_same():
    train, valid = Loader(mix([[1.0, 2.0], [3.0, 4.0]], [1, 2]), batch_size=1), Loader(mapped([2.0], lambda item: 2 * item), batch_size=1)
    assert find_leaks({"train": train, "valid": valid}, 5.0, seed=0).pairs[0].matches == ((3, 0),)


def test_what_a_function_makes_is_not_read():
    made_of = loader(Infinite(made, batches_per_epoch=2))
    assert fingerprint(made_of, seed=0) == {"kind": "indexed", "type": "made", "length": None, "note": "not read: made has no end"}
    assert find_leaks({"train": made_of, "valid": Loader([1.0], batch_size=1)}, 5.0, seed=0).notes == ("train cannot be compared: made has no end",)
