"""Nested structures, such as batches: walked leaf by leaf, or described in a few words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


def map_leaves(apply: Callable[[Any], Any], value: Any, is_leaf: Callable[[Any], bool] = lambda value: False) -> Any:
    """The same structure with each leaf changed: tuples, named tuples, lists, dicts, dataclasses.

    Args:
        apply: what is done to a leaf.
        value: the structure.
        is_leaf: says of a container that it is to be taken as one leaf.

    Example:
        >>> map_leaves(lambda x: x + 1, {"a": (1, [2])})
        {'a': (2, [3])}
    """
    if is_leaf(value):
        return apply(value)
    if isinstance(value, tuple):
        parts = [map_leaves(apply, item, is_leaf) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_leaves(apply, item, is_leaf) for item in value]
    if isinstance(value, Mapping):
        mapped = {key: map_leaves(apply, item, is_leaf) for key, item in value.items()}
        return mapped if type(value) is dict else _rebuilt(value, mapped)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: map_leaves(apply, getattr(value, f.name), is_leaf) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **changes)
    return apply(value)


def leaves(value: Any) -> list[Any]:
    """Every leaf of a structure, in order.

    Example:
        >>> leaves({"a": (1, [2])})
        [1, 2]
    """
    if isinstance(value, (tuple, list)):
        parts = list(value)
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, f.name) for f in dataclasses.fields(value) if f.init]
    else:
        return [value]
    return [leaf for part in parts for leaf in leaves(part)]


def describe(value: Any) -> str:
    """A structure in a few words, for messages; what has a shape and a dtype is shown by them.

    Example:
        >>> describe({"a": (1, [2.0])})
        "{'a': (int, [float])}"
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(describe(item) for item in value)})"
    if isinstance(value, list):
        shown = [describe(item) for item in value[:4]] + (["..."] if len(value) > 4 else [])
        return f"[{', '.join(shown)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {describe(item)}' for key, item in value.items())}}}"
    return type(value).__name__


def _rebuilt(value: Mapping[Any, Any], mapped: dict[Any, Any]) -> Any:
    """A mapping of the same type, where that type can be built from a dict; one that is a dataclass, too, from its fields."""
    try:
        return type(value)(**mapped) if dataclasses.is_dataclass(value) else type(value)(mapped)  # type: ignore[call-arg]
    except TypeError:
        return mapped


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; unlike ``==``, NaN is equal to NaN, and a tuple to a list.

    Example:
        >>> same([1.0, float("nan")], (1.0, float("nan"))), same(1, 2)
        (True, False)
    """
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)
