"""State as tensors + JSON: what every ``state_dict`` becomes in a file. Nothing that could run code when it is read.

JSON has no tuples, no keys but text and no tensors, so these are marked: ``{"$tuple": [...]}``, ``{"$dict": [[key,
value], ...]}``, ``{"$tensor": name}`` and ``{"$array": name}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from treadle.checkpoint.tensors import DTYPES, Tensors
from treadle.core.errors import CheckpointError

Encoded = tuple[Any, Tensors]
"""A state taken apart: a value for JSON, and the tensors it refers to by name."""
Copy = Callable[[str, torch.Tensor], torch.Tensor]
_ARRAYS = {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
_LONGEST_BITS, _DEEPEST = 10_000, 100
"""What JSON can be read with again: Python refuses longer numbers, and deeper trees."""
_MARKS = ("$tuple", "$dict", "$tensor", "$array")


def as_it_is(place: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor's content on the host, where it is if it can be: for a state that does not change while it is written."""
    return value.to("cpu").resolve_conj().resolve_neg().contiguous()


def encode(state: Any, name: str, copy: Copy = as_it_is) -> Encoded:
    """Take a state apart.

    Args:
        state: nested dicts, lists and tuples of tensors, arrays, numbers, texts and None.
        name: what messages call it, such as "optimizer".
        copy: gives the content of the tensor at a place in the state, contiguous and on the host; the place names it in the file.

    Returns:
        a value for JSON, and the tensors it refers to, each stored once though it may occur often (tied weights).

    Raises:
        CheckpointError: something in it is neither tensor nor JSON; the message has its path.
    """
    encoder = _Encoder(name, copy)
    return encoder.encode(state, ""), encoder.tensors


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


@dataclass
class _Encoder:
    """One state on its way into JSON and tensors."""

    root: str
    copy: Copy
    tensors: Tensors = field(default_factory=dict)
    seen: dict[Any, str] = field(default_factory=dict)

    def encode(self, value: Any, path: str, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise CheckpointError(f"the state of {self.root!r} cannot be stored: {path[:100]}... is nested more than {_DEEPEST} levels deep")
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (np.bool_, np.integer, np.floating)):
            return value.item()
        if isinstance(value, int) and value.bit_length() < _LONGEST_BITS:
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta and value.dtype in DTYPES:
            return {"$tensor": self._stored(value.detach(), path or "value")}
        if isinstance(value, np.ndarray) and value.dtype.name in _ARRAYS and value.dtype.isnative:
            return {"$array": self._added(torch.from_numpy(np.array(value, order="C")), path or "value")}
        if isinstance(value, list):
            return [self.encode(item, _join(path, place), depth + 1) for place, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item, _join(path, place), depth + 1) for place, item in enumerate(value)]}
        if isinstance(value, Mapping):
            items = [(key, self.encode(item, _join(path, key), depth + 1)) for key, item in value.items()]
            if all(isinstance(key, str) and key not in _MARKS for key in value):
                return dict(items)
            return {"$dict": [[self.encode(key, _join(path, key), depth + 1), item] for key, item in items]}
        raise CheckpointError(
            f"the state of {self.root!r} cannot be stored: {_join(self.root, path) if path else self.root} is a {_kind(value)}; "
            "a checkpoint holds tensors, arrays, real numbers, texts, None, and dicts, lists and tuples of them"
        )

    def _stored(self, value: torch.Tensor, name: str) -> str:
        place = (value.device, value.untyped_storage().data_ptr(), value.storage_offset())
        same = (*place, value.dtype, tuple(value.shape), value.stride(), value.is_conj(), value.is_neg())
        if value.numel() and same in self.seen:
            return self.seen[same]
        self.seen[same] = name = self._added(value, name)
        return name

    def _added(self, value: torch.Tensor, name: str) -> str:
        name = name.encode(errors="backslashreplace").decode()
        while name in self.tensors or name == "__metadata__":
            name += "'"
        self.tensors[name] = self.copy(name, value)
        return name


def _kind(value: Any) -> str:
    """What a value is, for a message: of a tensor or an array that cannot be stored, also why not."""
    name = type(value).__name__
    if isinstance(value, torch.Tensor):
        layout = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"{layout}{name} of {str(value.dtype).removeprefix('torch.')} on {value.device}"
    return f"{name} of {value.dtype}" if isinstance(value, np.ndarray) else name


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
