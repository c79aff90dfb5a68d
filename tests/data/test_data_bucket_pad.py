"""Batches of samples of one length or so, and their padding."""

import collections

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.errors import DataError
from treadle.data import Padded, Samples, bucket, load_by_random_id, pad
from treadle.data.loader import Loader

PROFILE = settings(deadline=None, derandomize=True, max_examples=60, database=None)
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=40)
Pair = collections.namedtuple("Pair", "text label")


def batches(lengths, epoch=0, batch_size=4, drop_last=False, seed=1, **settings):
    sampler = bucket(list(range(len(lengths))), lengths, **settings).sampler
    return sampler.batches(seed, epoch, batch_size, drop_last)


@PROFILE
@given(lengths=LENGTHS, size=st.integers(1, 9), buckets=st.integers(1, 6), epoch=st.integers(0, 3))
def test_every_sample_comes_once_an_epoch_in_as_many_batches_as_without_buckets(lengths, size, buckets, epoch):
    found = batches(lengths, epoch, size, buckets=buckets)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert sorted(map(len, found), reverse=True)[:-1] == [size] * (len(found) - 1)
    assert len(found) == -(-len(lengths) // size)


@PROFILE
@given(lengths=LENGTHS, tokens=st.integers(12, 60), buckets=st.integers(1, 6))
def test_no_batch_has_more_tokens_with_its_padding_than_was_said(lengths, tokens, buckets):
    epochs = [batches(lengths, epoch, max_tokens=tokens, buckets=buckets) for epoch in range(4)]
    for found in epochs:
        assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
        assert all(len(batch) * max(lengths[index] for index in batch) <= tokens for batch in found)
    assert len({len(found) for found in epochs}) == 1


@PROFILE
@given(lengths=LENGTHS, size=st.integers(1, 9))
def test_drop_last_leaves_out_what_fills_no_batch(lengths, size):
    found = batches(lengths, batch_size=size, drop_last=True)
    assert [len(batch) for batch in found] == [size] * (len(lengths) // size)


def test_lengths_of_augmented_samples_are_the_same_in_each_process():
    class Cropped:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            return "x" * int(torch.randint(1, 20, ()))

    def order(process):
        torch.manual_seed(process)  # as little is known of the generators when a program starts
        return [batch.tolist() for batch in bucket(Cropped(), len).sampler.batches(1, 0, 4, False)]

    assert order(1) == order(2)


def test_what_has_an_order_of_its_own_is_told_what_to_give_instead():
    drawn = load_by_random_id(str, ids=["a", "b"])
    with pytest.raises(DataError, match=r"made by load_by_random_id, mix or Infinite.*give it map\(ids, load\)"):
        bucket(drawn, len)


def test_little_of_a_batch_is_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    found = batches(lengths, batch_size=10)
    padded = sum(len(batch) * lengths[batch].max() for batch in found)
    plain = sum(10 * lengths[start : start + 10].max() for start in range(0, 1000, 10))
    assert lengths.sum() <= padded < 1.1 * lengths.sum()
    assert plain > 1.7 * lengths.sum()


def test_both_the_samples_of_a_batch_and_the_order_of_batches_are_others_in_each_epoch():
    lengths = list(range(1, 41))
    one, two, again = (batches(lengths, epoch, buckets=2) for epoch in (0, 1, 0))
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in again]
    assert {frozenset(batch.tolist()) for batch in one} != {frozenset(batch.tolist()) for batch in two}
    assert [lengths[batch[0]] > 20 for batch in one] != sorted(lengths[batch[0]] > 20 for batch in one)


def test_own_buckets_hold_up_to_their_greatest_length():
    found = batches([1, 5, 6, 7, 9, 2, 3, 8], batch_size=2, buckets=[5])
    groups = {frozenset(batch.tolist()) for batch in found}
    assert {index for group in groups if group <= {0, 1, 5, 6} for index in group} == {0, 1, 5, 6}
    assert len(groups) == 4


def test_the_lengths_are_those_of_a_function_of_samples_in_memory_too():
    data = (torch.tensor([3, 1, 3, 1]), torch.arange(4))
    found = Loader(bucket(data, lambda item: int(item[0]), buckets=[1]), batch_size=2).batches(epochs=1)
    assert {tuple(sorted(batch.parts[0][1].tolist())) for batch in found} == {(0, 2), (1, 3)}


def test_asking_for_lengths_moves_no_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    bucket([1, 2], lambda item: int(torch.randint(5, ())))
    assert torch.equal(before, torch.get_rng_state())


def test_a_position_of_a_run_is_a_batch_and_samples_are_counted_all_the_same():
    read = Loader(bucket([0] * 10, [1] * 10, max_tokens=4), batch_size=99)
    assert (read.epoch_size, read.epoch_steps, read.epoch_samples) == (3, 3, 10)
    assert [(batch.samples, batch.positions) for batch in read.batches(epochs=1)].count((4, 1)) == 2


# --- pad ---

TEXTS = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([], dtype=torch.int64)]


def test_inputs_are_filled_and_keep_their_lengths():
    found = pad(value=9, multiple_of=4)(TEXTS)
    assert isinstance(found, Padded)
    assert found.values.tolist() == [[1, 2, 3, 9], [4, 9, 9, 9], [9, 9, 9, 9]]
    assert (found.lengths.tolist(), found.lengths.dtype) == ([3, 1, 0], torch.int64)
    assert found.mask.tolist() == [[True, True, True, False], [True, False, False, False], [False] * 4]


@pytest.mark.parametrize("kind", [tuple, Pair._make, list])
def test_of_a_tuple_the_first_is_the_input_and_tags_are_filled_with_what_a_loss_leaves_out(kind):
    found = pad()([kind((text, text + 1)) for text in TEXTS])
    assert found[0].values.tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]
    assert found[1].tolist() == [[2, 3, 4], [5, -100, -100], [-100, -100, -100]]
    assert type(found) is (Pair if kind == Pair._make else tuple)


def test_of_a_dict_a_field_is_the_input_and_numbers_and_texts_are_put_together_as_ever():
    found = pad(field="x")([{"x": np.ones((2, 3)), "y": 4, "name": "a"}, {"x": np.zeros((1, 3)), "y": 5, "name": "b"}])
    assert found["x"].values.shape == (2, 2, 3)
    assert (found["y"].tolist(), found["name"]) == ([4, 5], ["a", "b"])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"a": TEXTS[0]}], r"the samples have no field 'input': .*name the input: pad\(field=...\)"),
        ([(3, 1)], "the input, part 0, must be a tensor or array with a length, got int"),
        ([torch.tensor(3.0)], r"the input, the sample, must be a tensor or array with a length, got float32\[\]"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"the sample may differ in the first dimension only, got float32\[2, 3\] and float32\[2, 4\]"),
        ([(torch.zeros(2), 0), (torch.zeros(2, dtype=torch.int64), 0)], r"part 0 may differ in the first dimension only, got float32\[2\] and int64"),
    ],
)
def test_what_cannot_be_padded_is_told_with_its_shape(samples, message):
    with pytest.raises(DataError, match=message):
        pad()(samples)


@pytest.mark.parametrize("prepare", [None, lambda batch: batch], ids=["collated in parts", "cut afterwards"])
@pytest.mark.parametrize("workers", [0, 1])
def test_padded_batches_are_cut_into_micro_batches(prepare, workers):
    texts = [(torch.arange(number % 4 + 1), number) for number in range(8)]
    data = Samples(bucket(texts, [len(text) for text, _ in texts], batch_size=4, buckets=2), collate=pad(), prepare=prepare)
    read = Loader(data, batch_size=4, micro_batch=2, workers=workers)
    for batch in read.batches(epochs=2):
        assert batch.counts == [2, 2]
        for (values, lengths), labels in batch.parts:
            assert [values[row, : lengths[row]].tolist() for row in range(2)] == [texts[label][0].tolist() for label in labels]
        assert [int(label) for _, labels in batch.parts for label in labels] == batch.ids.tolist()
