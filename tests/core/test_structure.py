from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

from treadle.core.structure import describe, leaves, map_leaves


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Record:
    value: Any
    twice: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", self.value * 2)


@dataclass
class Checked:
    value: int

    def __post_init__(self) -> None:
        if not isinstance(self.value, int):
            raise TypeError("value must be a number")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 2),
        ((1, 2), (2, 3)),
        ([1, [2]], [2, [3]]),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        (Pair(1, [2]), Pair(2, [3])),
        (OrderedDict(b=1, a=2), OrderedDict(b=2, a=3)),
        (UserDict(a=1), UserDict(a=2)),
        (Record(1), Record(2)),
        (Checked(1), Checked(2)),
        ((), ()),
        ({}, {}),
    ],
    ids=repr,
)
def test_mapping_keeps_the_structure_and_its_types(value: object, expected: object) -> None:
    mapped = map_leaves(lambda leaf: leaf + 1, value)
    assert mapped == expected
    assert type(mapped) is type(expected)


def test_a_mapping_that_cannot_be_built_from_a_dict_becomes_a_dict() -> None:
    assert map_leaves(lambda leaf: leaf + 1, defaultdict(int, a=1)) == {"a": 2}


def test_the_given_structure_is_left_as_it_was() -> None:
    given = {"a": [1, (2,)]}
    map_leaves(lambda leaf: leaf + 1, given)
    assert given == {"a": [1, (2,)]}


def test_a_text_is_one_leaf_and_so_is_a_class() -> None:
    assert leaves(["text", Record]) == ["text", Record]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, [3]),
        ({"b": (1, [2]), "a": 3}, [1, 2, 3]),
        (Pair(1, Pair(2, None)), [1, 2, None]),
        ([], []),
        (Checked(1), [1]),
    ],
    ids=repr,
)
def test_leaves_come_in_order_and_nothing_is_rebuilt(value: object, expected: list[object]) -> None:
    assert leaves(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 3), dtype=np.float32), "float32[2, 3]"),
        ((np.zeros(2, dtype=np.int64), 1), "(int64[2], int)"),
        ([1, 2, 3, 4], "[int, int, int, int]"),
        ([1] * 1000, "[int, int, int, int, ...]"),
        ({"x": None, 1: "a"}, "{'x': NoneType, 1: str}"),
        (Record(1), "Record"),
        ([], "[]"),
    ],
)
def test_a_structure_is_described_by_its_shapes_and_types(value: object, expected: str) -> None:
    assert describe(value) == expected
