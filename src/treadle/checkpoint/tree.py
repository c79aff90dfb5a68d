"""State as tensors + JSON: what every ``state_dict`` becomes in a file. Nothing that could run code when it is read.

JSON has no tuples, no keys but text and no tensors, so these are marked: ``{"$tuple": [...]}``, ``{"$dict": [[key,
value], ...]}``, ``{"$tensor": name}`` and ``{"$array": name}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from treadle.core.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
_ARRAYS = {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
_MARKS = ("$tuple", "$dict", "$tensor", "$array")


def encode(state: Any, name: str) -> tuple[Any, Tensors]:
    """Take a state apart.

    Args:
        state: nested dicts, lists and tuples of tensors, arrays, numbers, texts and None.
        name: what messages call it, such as "optimizer".

    Returns:
        a value for JSON, and the tensors it refers to, each stored once though it may occur often (tied weights).

    Raises:
        CheckpointError: something in it is neither tensor nor JSON; the message has its path.
    """
    tensors: Tensors = {}
    seen: dict[Any, str] = {}
    return _encode(state, name, "", tensors, seen), tensors


def decode(tree: Any, tensors: Tensors) -> Any:
    """Put a state together again."""
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (mark, value), *_ = tree.items()
        if mark == "$tuple":
            return tuple(decode(item, tensors) for item in value)
        if mark == "$dict":
            return {decode(key, tensors): decode(item, tensors) for key, item in value}
        if mark == "$tensor":
            return tensors[value]
        if mark == "$array":
            return tensors[value].numpy()
    return {key: decode(item, tensors) for key, item in tree.items()}


def _encode(value: Any, root: str, path: str, tensors: Tensors, seen: dict[Any, str]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
        return {"$tensor": _stored(value, path or "value", tensors, seen)}
    if isinstance(value, np.ndarray) and value.dtype.name in _ARRAYS and value.dtype.isnative:
        return {"$array": _stored(torch.from_numpy(np.array(value, order="C")), path or "value", tensors, {})}
    if isinstance(value, list):
        return [_encode(item, root, _join(path, place), tensors, seen) for place, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, root, _join(path, place), tensors, seen) for place, item in enumerate(value)]}
    if isinstance(value, Mapping):
        items = [(key, _encode(item, root, _join(path, key), tensors, seen)) for key, item in value.items()]
        if all(isinstance(key, str) and key not in _MARKS for key in value):
            return dict(items)
        return {"$dict": [[_encode(key, root, _join(path, key), tensors, seen), item] for key, item in items]}
    raise CheckpointError(
        f"the state of {root!r} cannot be stored: {_join(root, path) if path else root} is a {type(value).__name__}; "
        "a checkpoint holds tensors, arrays, numbers, texts, None, and dicts, lists and tuples of them"
    )


def _stored(value: torch.Tensor, name: str, tensors: Tensors, seen: dict[Any, str]) -> str:
    value = value.detach()
    same = (value.device, value.untyped_storage().data_ptr(), value.storage_offset(), value.dtype, tuple(value.shape), value.stride())
    if value.numel() and same in seen:
        return seen[same]
    # Own memory: two tensors of one file may not share theirs, and training goes on.
    while name in tensors or name == "__metadata__":
        name += "'"
    tensors[name] = value.to("cpu", copy=True).contiguous()
    seen[same] = name
    return name


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
