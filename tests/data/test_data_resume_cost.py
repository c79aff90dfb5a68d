"""Going on late in a long run takes no more than starting it: counted in calls, since a test measures no time."""

import sys

import numpy as np
import pytest
import torch

from treadle.data.loader import Loader
from treadle.data.order import NAMED

LENGTH = 10**10


class Endless(torch.utils.data.Dataset):
    """So many samples that no list of them fits anywhere; it counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        self.asked += 1
        return torch.tensor(index)


def calls(function):
    """How many functions, Python's and C's, a call calls."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def first_batch(sampler, into):
    data = Endless()
    batch = next(Loader(data, batch_size=32, sampler=sampler).batches(epoch=3, into=into))
    assert data.asked == batch.samples == 32
    return batch


@pytest.mark.parametrize("sampler", NAMED)
def test_the_first_batch_at_a_billion_takes_as_many_calls_as_at_the_start(sampler):
    first_batch(sampler, 64)  # what is imported at first
    early, late = calls(lambda: first_batch(sampler, 0)), calls(lambda: first_batch(sampler, 10**9))
    # Walking the cycle of a bijection may take a round more or less, and each is a handful of calls for the whole block.
    assert late < 1.5 * early


@pytest.mark.parametrize("sampler", NAMED)
def test_a_position_has_the_sample_that_it_has_without_a_resume(sampler):
    there = Loader(Endless(), batch_size=32, sampler=sampler).batches(epoch=0, into=10**9 - 32)
    next(there)
    assert np.array_equal(next(there).ids, next(Loader(Endless(), batch_size=32, sampler=sampler).batches(epoch=0, into=10**9)).ids)
