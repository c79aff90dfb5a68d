"""Augmentation: what is drawn for a sample depends on seed, epoch and sample; never on who draws it."""

import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from treadle.core.errors import DataError
from treadle.data import Batches, Samples
from treadle.data.loader import Loader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
LENGTH = 10


def pixels(index):
    """A sample's number and a draw of each generator."""
    return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class Augmented(Dataset):
    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return pixels(index)


class AugmentedStream(IterableDataset):
    def __iter__(self):
        return (pixels(index) for index in range(LENGTH))


def noisy(samples):
    """A collate function that draws for each sample of the batch."""
    noise = [[random.random(), np.random.rand(), torch.rand(()).item()] for _ in samples]
    return torch.cat([default_collate(samples), torch.tensor(noise, dtype=torch.float64)], dim=1)


def read(data, epochs=2, **settings):
    """All samples in the order they came, one row each."""
    batches = Loader(data, batch_size=4, seed=3, **settings).batches(epochs=epochs)
    return torch.cat([part for batch in batches for part in batch.parts])


SOURCES = {"map": Augmented(), "stream": AugmentedStream()}


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_pixels_are_the_same_for_any_number_of_workers_and_any_micro_batch(source, workers, micro_batch):
    expected = read(SOURCES[source])
    assert torch.equal(read(SOURCES[source], workers=workers, micro_batch=micro_batch), expected)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_a_collate_that_draws_gives_the_same_for_any_number_of_workers(source, workers):
    data = Samples(SOURCES[source], collate=noisy)
    assert torch.equal(read(data, workers=workers), read(data))


@pytest.mark.parametrize("source", SOURCES)
def test_a_collate_that_draws_gives_the_same_for_any_micro_batch(source):
    data = Samples(SOURCES[source], collate=noisy)
    assert torch.equal(read(data, micro_batch=3), read(data))


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_pixels_do_not_depend_on_the_batch_size(batch_size):
    other = Loader(Augmented(), batch_size=batch_size, seed=3)
    assert torch.equal(torch.cat([batch.parts[0] for batch in other.batches(epochs=2)]), read(Augmented()))


@pytest.mark.parametrize("collate", [None, noisy])
@pytest.mark.parametrize("source", SOURCES)
def test_every_draw_is_a_fresh_one(source, collate):
    drawn = read(Samples(SOURCES[source], collate=collate))[:, 1:]
    assert drawn.unique().numel() == drawn.numel()


def test_pixels_are_of_the_sample_and_not_of_its_place():
    def by_sample(sampler):
        rows = read(Augmented(), epochs=1, sampler=sampler)
        return rows[rows[:, 0].argsort()]

    assert torch.equal(by_sample("shuffle"), by_sample("sequential"))


def test_another_seed_draws_otherwise():
    one, other = (next(Loader(Augmented(), batch_size=10, seed=seed, sampler="sequential").batches()).parts[0] for seed in (0, 1))
    assert not (one[:, 1:] == other[:, 1:]).any()


# --- the main process's generators ---


def drawn_batches():
    for _ in range(3):
        yield torch.stack([pixels(0), pixels(1)])


READ = {
    "tensors": lambda: Loader((torch.arange(10.0),), batch_size=4),
    "map": lambda: Loader(Augmented(), batch_size=4),
    "map, 2 workers": lambda: Loader(Augmented(), batch_size=4, workers=2),
    "collate": lambda: Loader(Samples(Augmented(), collate=noisy), batch_size=4),
    "stream": lambda: Loader(AugmentedStream(), batch_size=4),
    "stream, 2 workers": lambda: Loader(AugmentedStream(), batch_size=4, workers=2),
    "list": lambda: Loader(Batches(list(drawn_batches())), batch_size=4),
    "function": lambda: Loader(Batches(drawn_batches), batch_size=4),
    "shuffling loader": lambda: Loader(Batches(DataLoader(Augmented(), batch_size=4, shuffle=True)), batch_size=4),
}
State = namedtuple("State", "python numpy torch")


def state():
    name, keys, *rest = np.random.get_state()
    return State(random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist())


@pytest.mark.parametrize("source", READ)
def test_reading_leaves_the_generators_of_the_main_process_as_found(source):
    loader = READ[source]()
    before = state()
    for _ in loader.batches(epochs=2):
        assert state() == before
    loader.peek()
    assert state() == before


@pytest.mark.parametrize("source", READ)
def test_what_the_main_process_draws_meanwhile_changes_no_sample(source):
    loader = READ[source]()
    expected = [batch.parts for batch in loader.batches(epochs=2)]
    found = []
    for batch in loader.batches(epochs=2):
        found.append(batch.parts)
        random.random(), np.random.rand(5), torch.rand(7)
    assert all(torch.equal(torch.cat(flat(a)), torch.cat(flat(b))) for a, b in zip(found, expected, strict=True))


def flat(parts):
    return [leaf for part in parts for leaf in (part if isinstance(part, tuple) else (part,))]


class Plain(Augmented):
    def __getitem__(self, index):
        return torch.tensor([index])


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_draw_nothing_need_no_seed(workers):
    plain = Samples(Plain(), random=False)
    assert torch.equal(read(plain, workers=workers), read(Plain()))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(())], ids=["python", "numpy", "torch"])
def test_a_sample_that_draws_though_it_should_not_is_an_error(draw, workers):
    class Liar(Augmented):
        def __getitem__(self, index):
            if index == 7:
                draw()
            return torch.tensor([index])

    with pytest.raises(DataError, match=r"the samples of Liar draw random numbers, though Samples\(random=False\) says that they do not"):
        read(Samples(Liar(), random=False), workers=workers)


def test_a_collate_function_may_draw_where_samples_do_not():
    data = Samples(Plain(), collate=noisy, random=False)
    assert torch.equal(read(data), read(Samples(Plain(), collate=noisy)))


class Broken(Augmented):
    def __getitem__(self, index):
        pixels(index)
        raise ZeroDivisionError


def test_an_exception_leaves_the_generators_as_found():
    before = state()
    with pytest.raises(ZeroDivisionError):
        next(Loader(Broken(), batch_size=4).batches())
    assert state() == before
