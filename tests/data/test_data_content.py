"""Digests of items: equal for the same bits in the same structure, different for anything else."""

import dataclasses
import os
import random
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.data.content import Unhashable, digest, input_part


@dataclasses.dataclass
class Sample:
    image: torch.Tensor
    label: int


class Picture:
    """What of PIL's images is looked at."""

    def __init__(self, mode, size, content):
        self.mode, self.size, self._content = mode, size, content

    def tobytes(self):
        return self._content


DIFFERENT = [
    None, True, 1, 1.0, "1", b"1", float("nan"), float("inf"), 0.0, -0.0, 1j, 2**100, "Ünï 🧵", "\ud800",
    (), (1,), (1, 2), ((1,), 2), ((1, 2),), {}, {"a": 1}, {"a": 2}, {"b": 1}, {1, 2}, {1, 3}, range(3), range(4),
    torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.bfloat16), -torch.zeros(2),
    torch.zeros(0, 3), torch.zeros(3, 0), torch.tensor(1), torch.tensor(True), torch.tensor([float("nan"), 1.0]),
    np.array(["a", "b"]), np.array(["a", None], dtype=object), np.datetime64("2026-01-01"), SimpleNamespace(a=1),
    Sample(torch.zeros(1), 1), Sample(torch.zeros(1), 2),
    Picture("L", (1, 2), b"ab"), Picture("L", (2, 1), b"ab"), Picture("P", (2, 1), b"ab"),
]  # fmt: skip


PLAIN = st.none() | st.integers() | st.text() | st.binary() | st.floats()


def test_different_things_have_different_digests():
    found = [digest(value) for value in DIFFERENT]
    assert all(len(one) == 16 for one in found)
    assert len(set(found)) == len(DIFFERENT)
    assert found == [digest(value) for value in DIFFERENT]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(6.0).reshape(2, 3), np.arange(6, dtype=np.float32).reshape(2, 3)),
        (torch.arange(6).reshape(2, 3).T, torch.arange(6).reshape(2, 3).T.contiguous()),
        (np.arange(3, dtype=">i4"), np.arange(3, dtype="<i4")),
        (np.arange(6)[::-2], np.arange(6)[::-2].copy()),
        (torch.ones(2, requires_grad=True), torch.ones(2)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
        (np.float32(3), torch.tensor(3.0)),
        ([1, (2,)], (1, [2])),
        (namedtuple("Pair", "x y")(1, 2), (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, frozenset([1, 2, 3])),
        (bytearray(b"x"), b"x"),
        (torch.eye(3).to_sparse(), torch.eye(3)),
    ],
)
def test_the_same_content_has_the_same_digest_however_it_lies_in_memory(one, other):
    assert digest(one) == digest(other)


def test_what_cannot_be_told_is_unhashable():
    loop: list[object] = []
    loop.append(loop)
    for value in (loop, lambda: 1, {"a": (open,), "b": (item for item in [])}):
        with pytest.raises(Unhashable):
            digest(value)


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ((1, 2), 1),
        ([1, 2, 3], 1),
        ((1,), (1,)),
        ({"target": 1, "input": 2}, 2),
        ({"image": 1, "label": 2}, 1),
        ({"x": 1}, {"x": 1}),
        (7, 7),
        ("ab", "ab"),
    ],
)
def test_the_part_that_the_model_sees(item, part):
    assert input_part(item) == part


@settings(max_examples=50, deadline=None)
@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_digest_is_a_function_of_the_content(value):
    import copy

    assert digest(value) == digest(copy.deepcopy(value))
    assert digest([value]) != digest(value)


class Graph:
    """An item of a class of its own, which knows itself."""

    def __init__(self, scale=1.0, name="ä"):
        self.x, self.names, self.name = torch.arange(3.0) * scale, {"b", "a", "c"}, name
        self.parts = [np.ones(2) * scale, SimpleNamespace(weight=torch.nn.Parameter(torch.ones(2)), bytes=self.x.untyped_storage())]
        self.parts.append(self)


def test_an_object_is_digested_by_what_it_holds_and_not_by_where_that_lies():
    kept = [Graph() for _ in range(4)]
    assert len({digest(one) for one in kept}) == 1
    assert digest(Graph(name="".join(["a", "b"]))) == digest(Graph(name="ab"))
    assert len({digest(Graph()), digest(Graph(2.0)), digest(Graph(name="b"))}) == 3


def test_digests_are_the_same_in_processes_whose_hashes_differ():
    program = "from types import SimpleNamespace as N; from treadle.data.content import digest; "
    program += "print(digest(N(names={'one', 'two', 'three', 'four'}, inner=frozenset(['a', 'b', 'c']), x=1)).hex())"
    seen = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True).stdout
        for seed in "123"
    }
    assert len(seen) == 1


def test_digests_draw_nothing():
    random.seed(1)
    before = random.getstate(), torch.get_rng_state()
    digest([torch.zeros(3), "a"])
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
