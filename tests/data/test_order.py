"""The order: a pure function of seed, epoch and position, a permutation at any length, in constant memory."""

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import DataError
from treadle.data import order as order_module
from treadle.data.loader import Loader
from treadle.data.order import BLOCK, Reader, Replacement, Sequential, Shuffle, Weighted

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 10**6)
PROFILE = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def whole(length, seed=0, epoch=0, order=None):
    return (order or Shuffle()).indices(seed, epoch, np.arange(length), length)


@PROFILE
@given(length=st.integers(1, 3000), seed=SEEDS, epoch=EPOCHS)
def test_every_epoch_is_a_permutation(length, seed, epoch):
    assert np.array_equal(np.sort(whole(length, seed, epoch)), np.arange(length))


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 99_991, 2**18, 1000**2 + 1])
def test_a_large_epoch_is_a_permutation(length):
    assert np.bincount(whole(length, 3, 1), minlength=length).max() == 1


@PROFILE
@given(length=st.integers(100, 3000), seed=st.integers(0, 2**62), epoch=EPOCHS, other=st.integers(1, 1000))
def test_other_seeds_and_other_epochs_give_another_order(length, seed, epoch, other):
    here = whole(length, seed, epoch)
    assert not np.array_equal(here, whole(length, seed, epoch + other))
    assert not np.array_equal(here, whole(length, seed + other, epoch))


@pytest.mark.parametrize("order", [Shuffle(), Sequential(), Replacement(), Weighted(np.arange(1.0, 501.0))], ids=lambda o: type(o).__name__)
@PROFILE
@given(seed=SEEDS, epoch=EPOCHS, data=st.data())
def test_a_sample_depends_on_seed_epoch_and_position_alone(order, seed, epoch, data):
    positions = np.array(data.draw(st.lists(st.integers(0, 499), min_size=1, max_size=20)))
    assert np.array_equal(order.indices(seed, epoch, positions, 500), whole(500, seed, epoch, order)[positions])


@pytest.mark.parametrize("vary", ["seed", "epoch"])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_small_lengths_reach_every_permutation_evenly(length, vary):
    draws, kinds = 12_000, math.factorial(length)
    found = Counter(tuple(whole(length, **{vary: number}).tolist()) for number in range(draws))
    expected, freedom = draws / kinds, kinds - 1
    chi_square = sum((found[order] - expected) ** 2 / expected for order in itertools.permutations(range(length)))
    assert len(found) == kinds
    assert chi_square < freedom + 6 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("length", [7, 8, 9, 10, 25])
def test_odd_and_even_permutations_are_equally_likely(length):
    def is_odd(order):
        return sum(a > b for a, b in itertools.combinations(order, 2)) % 2

    odd = sum(is_odd(whole(length, seed).tolist()) for seed in range(1000))
    assert 400 < odd < 600


@pytest.mark.parametrize(("length", "apart"), [(10**6, 1), (10**6, 1000), (10**12, 1), (10**12, 10**6)])
def test_where_one_sample_stands_says_nothing_about_another(length, apart):
    def spread(here, there):
        """Chi-square of the way from one to the other, in 100 bins."""
        bins = np.bincount((there - here) % length // (length // 100), minlength=100)
        return ((bins - len(here) / 100) ** 2 / (len(here) / 100)).sum()

    positions = np.random.default_rng(0).integers(0, length - apart, 20_000)
    here = Shuffle().indices(1, 1, positions, length)
    others = [(1, 1, positions + apart), (1, 2, positions), (2, 1, positions)]
    assert all(spread(here, Shuffle().indices(*other, length)) < 99 + 6 * math.sqrt(2 * 99) for other in others)


@pytest.mark.parametrize("length", [10**9, 10**12])
def test_a_huge_epoch_has_no_collisions(length):
    count = 4_000_000  # a random function would collide about 8 times at 10^12
    positions = length // 3 + np.arange(count)
    indices = np.sort(Shuffle().indices(5, 2, positions, length))
    assert indices[0] >= 0
    assert indices[-1] < length
    assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize("length", [10**9, 10**12])
@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_reading_a_huge_order_anywhere_takes_no_more_memory_than_a_small_one(length, share):
    def peak(size):
        tracemalloc.start()
        Reader(Shuffle(), 1, size).read(4, int((size - 2 * BLOCK) * share), 64)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return allocated

    small = peak(4 * BLOCK)
    assert peak(length) < 1.5 * small
    assert small < 4 * 2**20


def test_a_dataset_of_any_length_starts_in_its_middle_in_constant_memory():
    tracemalloc.start()
    batch = next(Loader(range(10**12), batch_size=64).batches(epoch=7, into=64 * 10**9))
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.parts[0].tolist() == batch.ids.tolist()
    assert batch.samples == 64
    assert allocated < 4 * 2**20


@pytest.mark.parametrize("length", [10**3, 3 * BLOCK + 7, 10**9, 10**12])
def test_reading_blocks_equals_reading_one_by_one(length):
    start = max(0, length - BLOCK - 300)
    block = Reader(Shuffle(), 9, length).read(2, start, 300)
    single = [Shuffle().indices(9, 2, np.array([position]), length).item() for position in range(start, start + 300)]
    assert block.tolist() == single


@PROFILE
@given(length=st.integers(1, 3 * BLOCK), seed=SEEDS, epoch=EPOCHS, data=st.data())
def test_a_reader_reads_the_same_from_any_start(length, seed, epoch, data):
    reader, expected = Reader(Shuffle(), seed, length), whole(length, seed, epoch)
    for _ in range(4):
        start = data.draw(st.integers(0, length - 1))
        count = data.draw(st.integers(1, min(100, length - start)))
        assert np.array_equal(reader.read(epoch, start, count), expected[start : start + count])


def test_a_reader_goes_from_epoch_to_epoch_and_back():
    reader = Reader(Shuffle(), 1, 50)
    for epoch in (0, 1, 0, 7):
        assert np.array_equal(reader.read(epoch, 10, 20), whole(50, 1, epoch)[10:30])


def test_a_batch_larger_than_a_block_is_read_whole():
    length = 3 * BLOCK
    assert np.array_equal(np.sort(Reader(Shuffle(), 0, length).read(0, 0, length)), np.arange(length))


@pytest.mark.parametrize("sampler", ["shuffle", "sequential"])
def test_shuffle_and_sequential_read_every_sample_once_an_epoch(sampler):
    batches = list(Loader(list(range(10)), batch_size=4, sampler=sampler).batches(epochs=2))
    epochs = [torch.cat([batch.parts[0] for batch in batches[start : start + 3]]).tolist() for start in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert all(epoch == list(range(10)) for epoch in epochs) == (sampler == "sequential")
    assert (epochs[0] == epochs[1]) == (sampler == "sequential")


def test_replacement_draws_each_sample_equally_often_and_some_twice():
    length = 100
    drawn = np.bincount(np.concatenate([whole(length, 1, epoch, Replacement()) for epoch in range(200)]), minlength=length)
    assert ((drawn - 200) ** 2 / 200).sum() < 99 + 6 * math.sqrt(2 * 99)
    assert len(set(whole(length, 1, 0, Replacement()).tolist())) < length


@pytest.mark.parametrize("weights", [[1, 2, 3, 4], [0, 1, 0, 3], [5, 0, 0, 0], [0.5, 1e-3, 0, 0.2]])
def test_weighted_draws_in_proportion_and_never_a_weight_of_zero(weights):
    copies, epochs = 1000, 10
    order = Weighted(weights * copies)
    drawn = np.concatenate([whole(4 * copies, 2, epoch, order) for epoch in range(epochs)])
    share = np.bincount(drawn % 4, minlength=4) / len(drawn)
    expected = np.array(weights) / sum(weights)
    assert np.allclose(share, expected, atol=4 * 0.5 / math.sqrt(len(drawn)))
    assert (share[expected == 0] == 0).all()


@pytest.mark.parametrize("drawn", [0, 2**64 - 1], ids=["least", "greatest"])
def test_the_extreme_draws_never_take_a_weight_of_zero(drawn, monkeypatch):
    monkeypatch.setattr(order_module, "hashed", lambda positions, key: np.full(len(positions), drawn, dtype=np.uint64))
    assert whole(5, order=Weighted([0.0, 0.0, 0.3, 0.0, 0.0])).tolist() == [2] * 5


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [math.inf, 1.0], [0.0, 0.0], [], [[1.0], [1.0]]])
def test_weights_that_are_no_probabilities_are_refused(weights):
    with pytest.raises(DataError, match="non-negative"):
        Weighted(weights)


@pytest.mark.parametrize("count", [3, 11])
def test_a_wrong_number_of_weights_is_refused(count):
    with pytest.raises(DataError, match=rf"{count} weights.*10 samples"):
        next(Loader(list(range(10)), batch_size=2, sampler=Weighted([1.0] * count)).batches())


class Own:
    """An order that gives what it was told to."""

    def __init__(self, give):
        self.indices = lambda seed, epoch, positions, length: give(positions, length)


@pytest.mark.parametrize("data", [list(range(10)), np.arange(10)], ids=["indexed", "tensors"])
def test_an_own_order_is_followed(data):
    loader = Loader(data, batch_size=4, sampler=Own(lambda positions, length: length - 1 - positions))
    assert [batch.parts[0].tolist() for batch in loader.batches(epochs=1)] == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]


@pytest.mark.parametrize(
    "give",
    [
        lambda positions, length: positions[:-1],
        lambda positions, length: positions + 1,
        lambda positions, length: positions - 1,
        lambda positions, length: positions.astype(float),
        lambda positions, length: positions[:, None],
        lambda positions, length: None,
    ],
    ids=["too few", "beyond the end", "negative", "fractions", "two dimensions", "nothing"],
)
@pytest.mark.parametrize("data", [list(range(10)), np.arange(10)], ids=["indexed", "tensors"])
def test_a_bad_own_order_is_refused(data, give):
    with pytest.raises(DataError, match=r"Own must give .*0\.\.9"):
        next(Loader(data, batch_size=4, sampler=Own(give)).batches())


def test_a_misspelt_sampler_is_answered_with_the_nearest_name():
    with pytest.raises(DataError, match=r"'sequental'.*did you mean 'sequential'"):
        Loader([1, 2], batch_size=1, sampler="sequental")


def test_an_object_that_is_no_order_is_refused():
    with pytest.raises(DataError, match="must have a method indices"):
        Loader([1, 2], batch_size=1, sampler=[0, 1])
