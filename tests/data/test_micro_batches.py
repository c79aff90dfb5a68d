"""Micro-batches: the parts of a batch cover it exactly, whatever its structure."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from treadle.core.structure import leaves
from treadle.data import Batches, Samples
from treadle.data.loader import Loader

COUNT = 10
X, Y = torch.arange(2.0 * COUNT).reshape(COUNT, 2), torch.arange(COUNT)
Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Record:
    x: torch.Tensor
    y: torch.Tensor


STRUCTURES = {
    "tensor": lambda x, y: x,
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"x": x, "y": y},
    "named tuple": Pair,
    "dataclass": Record,
    "nested": lambda x, y: {"in": (x, [y, {"deep": x}]), "pair": Pair(y, Record(x, y))},
}


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def sources(build):
    """One batch of X and Y in a structure, from each kind of data."""
    rows = list(zip(X, Y, strict=True))

    def collate(samples):
        return build(*(torch.stack(column) for column in zip(*samples, strict=True)))

    return {"indexed": Samples(rows, collate=collate), "streamed": Samples(Stream(rows), collate=collate), "batched": Batches([build(X, Y)])}


def check(data, build, micro_batch, **settings):
    batch = next(Loader(data, batch_size=COUNT, micro_batch=micro_batch, sampler="sequential", **settings).batches())
    expected = build(X, Y)
    size = micro_batch or COUNT
    assert batch.counts == [min(size, COUNT - start) for start in range(0, COUNT, size)]
    assert batch.samples == COUNT
    assert [type(part) for part in batch.parts] == [type(expected)] * len(batch.counts)
    assert [[len(leaf) for leaf in leaves(part)] for part in batch.parts] == [[count] * len(leaves(expected)) for count in batch.counts]
    whole = [torch.cat(pieces) for pieces in zip(*map(leaves, batch.parts), strict=True)]
    assert all(torch.equal(found, wanted) for found, wanted in zip(whole, leaves(expected), strict=True))


@pytest.mark.parametrize("micro_batch", [None, 1, 3, 5, 10, 64])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", ["indexed", "streamed", "batched"])
def test_parts_and_counts_cover_a_batch_of_any_structure(kind, structure, micro_batch):
    check(sources(STRUCTURES[structure])[kind], STRUCTURES[structure], micro_batch)


@pytest.mark.parametrize("micro_batch", [None, 1, 3, 10])
@pytest.mark.parametrize("structure", ["tensor", "tuple", "dict", "named tuple"])
def test_parts_and_counts_cover_a_batch_of_tensors_in_memory(structure, micro_batch):
    build = STRUCTURES[structure]
    check(build(X, Y), build, micro_batch)


@pytest.mark.parametrize("structure", ["tensor", "tuple", "dict", "named tuple"])
def test_parts_are_kept_whole_on_their_way_from_a_worker(structure):
    build = STRUCTURES[structure]
    check(sources(build)["indexed"], build, 3, workers=2)


@pytest.mark.parametrize("data", [(X, Y), TensorDataset(X, Y), list(zip(X, Y, strict=True)), Stream(list(zip(X, Y, strict=True)))])
def test_every_batch_of_an_epoch_is_cut_also_the_short_last_one(data):
    batches = Loader(data, batch_size=4, micro_batch=3).batches(epochs=1)
    assert [batch.counts for batch in batches] == [[3, 1], [3, 1], [2]]


def test_the_order_of_samples_does_not_depend_on_the_micro_batch():
    def ids(micro_batch):
        return [batch.ids.tolist() for batch in Loader(list(Y), batch_size=4, micro_batch=micro_batch).batches(epochs=2)]

    assert ids(None) == ids(1) == ids(3)


def test_batches_of_arrays_are_cut_and_become_tensors():
    batch = next(Loader(Batches([(X.numpy(), Y.numpy())]), batch_size=4, micro_batch=4).batches())
    assert batch.counts == [4, 4, 2]
    assert torch.equal(torch.cat([part[0] for part in batch.parts]), X)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves(batch.parts))


def test_what_has_no_sample_dimension_goes_with_every_part():
    scale, shared = torch.tensor(2.0), np.ones((3, COUNT))
    batch = next(Loader(Batches([(X, scale, shared, "train")]), batch_size=4, micro_batch=5).batches())
    assert [(part[1].item(), tuple(part[2].shape), part[3]) for part in batch.parts] == [(2.0, (3, COUNT), "train")] * 2


def test_names_of_the_samples_are_cut_with_them():
    names = [f"image-{index}" for index in range(COUNT)]
    batch = next(Loader(Batches([(X, names)]), batch_size=4, micro_batch=4).batches())
    assert [part[1] for part in batch.parts] == [names[:4], names[4:8], names[8:]]
