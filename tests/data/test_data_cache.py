"""The cache: an item is made once, whole or not there, for everybody who gives the same folder, and never for other data."""

import os
import pickle
import random
import warnings

import numpy as np
import pytest
import torch

from treadle.core.errors import DataError
from treadle.data import Samples, cache
from treadle.data import cached as cached_module
from treadle.data import map as mapped
from treadle.data.loader import Loader


class Slow:
    """A dataset that writes down each item that it makes, for other processes to see."""

    def __init__(self, folder, items=tuple(range(12))):
        self.log, self.items = folder / "made", items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        with open(self.log, "a") as file:
            print(index, file=file)
        return torch.full((2,), float(self.items[index])), {"name": str(index), "list": np.arange(index)}

    def made(self):
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def first(item):
    return item[0]


def noisy(item):
    return item[0] + torch.rand(()) + random.random()


def entries(folder):
    return sorted(path for path in folder.rglob("*.pickle"))


def read(data, epochs=1, **settings):
    return [batch.parts[0].tolist() for batch in Loader(data, batch_size=5, **settings).batches(epochs=epochs)]


def test_items_in_memory_are_made_once(tmp_path):
    slow = Slow(tmp_path)
    assert read(mapped(cache(slow), first), epochs=3) == read(mapped(Slow(tmp_path / ".."), first), epochs=3)
    assert sorted(slow.made()) == list(range(12))


def test_items_on_disk_are_made_once_for_all_workers_and_programs(tmp_path):
    slow, folder, to_tell = Slow(tmp_path), tmp_path / "cache", [0, 6, 11]
    expected = read(mapped(cache(slow, folder), first), epochs=2, workers=1)
    assert len(entries(folder)) == 12
    made = slow.made()
    assert sorted(made) == sorted([*range(12), *to_tell])
    for workers in (0, 2):
        assert read(mapped(cache(Slow(tmp_path), folder), first), epochs=2, workers=workers) == expected
    assert set(slow.made()[len(made) :]) == set(to_tell)


def test_what_is_augmented_after_it_is_as_without_it(tmp_path):
    plain = read(mapped(Slow(tmp_path), noisy), epochs=2)
    assert read(mapped(cache(Slow(tmp_path)), noisy), epochs=2) == plain
    for _ in range(2):  # when it is filled, and when it is full
        assert read(mapped(cache(Slow(tmp_path), tmp_path / "cache"), noisy), epochs=2) == plain


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_item_may_be_changed_in_place(on_disk, tmp_path):
    data = cache(Slow(tmp_path), tmp_path / "cache" if on_disk else None)
    for _ in range(3):
        item, more = data[3]
        assert item.tolist() == [3, 3]
        assert (more["name"], more["list"].tolist()) == ("3", [0, 1, 2])
        item.zero_()
        more["list"][:] = 9


def test_other_data_in_the_same_folder_has_other_entries(tmp_path):
    for items in (range(12), range(100, 112), range(11)):
        assert read(mapped(cache(Slow(tmp_path, tuple(items)), tmp_path / "cache"), first), sampler="sequential")[0][1][0] == items[1]
    assert len(entries(tmp_path / "cache")) == 12 + 12 + 11


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "half a checksum"])
def test_a_damaged_entry_is_made_again_with_a_warning(damage, tmp_path):
    slow, folder = Slow(tmp_path), tmp_path / "cache"
    data = cache(slow, folder)
    expected = data[4]
    (file,) = entries(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"flipped": content, "cut": content[:-5], "empty": b"", "half a checksum": content[:16]}[damage])
    with pytest.warns(RuntimeWarning, match=r"4\.pickle is damaged; it is made again"):
        assert torch.equal(data[4][0], expected[0])
    made = len(slow.made())
    assert torch.equal(data[4][0], expected[0])
    assert len(slow.made()) == made


def test_an_entry_that_this_program_cannot_read_is_made_again_with_a_warning(tmp_path, monkeypatch):
    data = cache(Slow(tmp_path), tmp_path / "cache")
    data[4]

    def unreadable(content):
        raise ModuleNotFoundError("no module named 'gone'")

    monkeypatch.setattr(cached_module.pickle, "loads", unreadable)
    with pytest.warns(RuntimeWarning, match="cannot be read: ModuleNotFoundError.*it is made again"):
        assert data[4][0].tolist() == [4, 4]


@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_write_that_does_not_succeed_leaves_nothing_behind(call, tmp_path, monkeypatch):
    data, folder = cache(Slow(tmp_path), tmp_path / "cache"), tmp_path / "cache"

    class Full:
        def __init__(self, handle, mode):
            self.handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *error):
            os.close(self.handle)

        def write(self, content):
            os.write(self.handle, content[:10])
            raise OSError(28, "No space left on device")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cached_module.os, "fdopen" if call == "write" else "replace", Full if call == "write" else full)
        with pytest.raises(OSError, match="No space"):
            data[4]
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert data[4][0].tolist() == [4, 4]


def test_what_a_killed_process_left_beside_an_entry_is_no_entry(tmp_path):
    data = cache(Slow(tmp_path), tmp_path / "cache")
    data[4]
    (file,) = entries(tmp_path / "cache")
    file.rename(file.with_name(f".{file.name}.x8d0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data[4][0].tolist() == [4, 4]


@pytest.mark.parametrize("draw", [torch.rand, np.random.rand, lambda _: random.random()])
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_draws_cannot_be_cached(draw, on_disk, tmp_path):
    data = cache(mapped([1.0, 2.0], lambda item: item + float(draw(1)[0] if draw(1).__class__ is not float else 0)), tmp_path if on_disk else None)
    with pytest.raises(DataError, match=r"item . of map\(list, .*\) draws random numbers.*put what draws around the cache"):
        read(data)


def test_what_cannot_be_pickled_cannot_be_cached():
    with pytest.raises(DataError, match="item 0 of list cannot be kept in a cache, because it cannot be pickled"):
        cache([lambda: 1])[0]


def test_an_exception_of_the_source_arrives_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cache(mapped([1, 0], lambda item: 1 // item))[1]


def test_it_can_go_to_a_process_that_is_started_afresh(tmp_path):
    data = pickle.loads(pickle.dumps(mapped(cache(Slow(tmp_path), tmp_path / "cache"), first)))
    assert data[3].tolist() == [3, 3]


KINDS = {
    "float32": torch.tensor([1.0, -2.0]), "bfloat16": torch.tensor([1.0, -2.0], dtype=torch.bfloat16), "bool": torch.tensor([True]),
    "complex": torch.tensor([1 + 2j]).conj(), "number": torch.tensor(3), "empty": torch.zeros(0, 3), "transposed": torch.arange(6.0).view(2, 3).t(),
    "sparse": torch.eye(3).to_sparse(), "part": torch.arange(10**6)[7:9], "part, bfloat16": torch.zeros(10**6, dtype=torch.bfloat16)[7:9],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_comes_back_as_it_was_and_takes_its_own_memory_only(kind):
    data = cache([KINDS[kind]])
    for _ in range(2):
        found = data[0]
        assert (found.dtype, found.shape, found.layout) == (KINDS[kind].dtype, KINDS[kind].shape, KINDS[kind].layout)
        assert torch.equal(found.to_dense() if kind == "sparse" else found, KINDS[kind].to_dense() if kind == "sparse" else KINDS[kind])
    assert len(data._kept[0]) < 2000


def test_samples_stay_samples(tmp_path):
    assert cache(Samples([1, 2], sampler="sequential"), tmp_path).sampler == "sequential"
