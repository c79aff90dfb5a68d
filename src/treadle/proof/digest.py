"""Digests: short names for contents. Equal contents have equal digests, in every process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from treadle.core.structure import leaves, map_leaves
from treadle.data.content import Unhashable, digest

LENGTH = 16
_WHOLE = 2**24
"""Bytes up to which every byte counts; of a larger tensor, sums of its pieces do, taken where it lies."""
_DEEPEST, _LONGEST = 8, 10_000
_PIECES = 4096
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class Untold(Exception):
    """Something whose content cannot be told; the message says what and why."""


def whole_digest(value: Any) -> str:
    """A digest in which everything counts: every bit of every tensor, every item, key and field, and of an object what its pickle says.

    Args:
        value: such as a batch.

    Raises:
        Untold: it holds something that cannot be told.

    Example:
        >>> whole_digest(list(range(30_000))) == whole_digest([*range(20_000), 0, *range(20_001, 30_000)])
        False
    """
    try:
        if any(isinstance(leaf, torch.Tensor) and _strided(leaf) is not leaf for leaf in leaves(value)):
            value = map_leaves(_strided, value)
        return digest(value).hex()
    except Unhashable as error:
        raise Untold(str(error)) from None
    except Exception as error:  # a class of the user's can raise anything where it is asked for its content
        raise Untold(f"{type(value).__name__}: {type(error).__name__}: {error}") from None


def _strided(leaf: Any) -> Any:
    """A sparse or nested tensor as the tensors that it is made of; anything else as it is."""
    if not isinstance(leaf, torch.Tensor) or not (leaf.is_nested or leaf.layout in _PARTS):
        return leaf
    if leaf.is_nested:
        return ["nested", *leaf.detach().unbind()]
    flags = [leaf.is_coalesced()] if leaf.layout == torch.sparse_coo else []
    return [str(leaf.layout), *leaf.shape, *flags, *(getattr(leaf.detach(), name)() for name in _PARTS[leaf.layout])]


_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def tensor_digest(tensor: torch.Tensor) -> bytes:
    """A digest of a tensor's type, shape and bits."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    with torch.no_grad():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            return digest.digest()
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        if flat.numel():
            flat = flat.view(torch.uint8)
        if flat.numel() > _WHOLE:
            flat = _sums(flat)
        digest.update(flat.cpu().numpy().tobytes())
    return digest.digest()


def _sums(flat: torch.Tensor) -> torch.Tensor:
    cut = flat.numel() // (8 * _PIECES) * (8 * _PIECES)
    head = flat[:cut].view(torch.int64).reshape(_PIECES, -1)
    weights = torch.arange(1, 2 * head.shape[1], 2, device=flat.device)  # odd: times an even number, the highest bit would be lost
    sums = torch.stack([(piece * weights).sum() for piece in head])
    return torch.cat([sums.view(torch.uint8), flat[cut:]])


def digest_of(value: Any) -> str:
    """A digest of nested plain values, tensors, arrays and generators; of anything else only its type counts.

    Example:
        >>> digest_of({"a": [1, 2]}) == digest_of({"a": [1, 2]}) != digest_of({"a": [1, 3]})
        True
    """
    found = hashlib.sha256()
    _add(found, value, 0)
    return found.hexdigest()[:LENGTH]


def generator_state(item: Any) -> str:
    """Where a generator is."""
    if isinstance(item, torch.Generator):
        return hashlib.sha256(item.get_state().numpy().tobytes()).hexdigest()
    if isinstance(item, np.random.Generator):
        return str(item.bit_generator.state)
    return str(item.get_state() if isinstance(item, np.random.RandomState) else item.getstate())


def _add(digest: Any, value: Any, depth: int) -> None:
    digest.update(f"{type(value).__name__}(".encode())
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        digest.update(repr(value).encode(errors="backslashreplace"))
    elif isinstance(value, (bytes, bytearray)):
        digest.update(value)
    elif isinstance(value, torch.Tensor):
        digest.update(tensor_digest(value))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.generic):
        digest.update(repr(value.item()).encode())
    elif isinstance(value, GENERATORS):
        digest.update(generator_state(value).encode())
    elif depth < _DEEPEST:
        _add_items(digest, value, depth)
    digest.update(b")")


def _add_items(digest: Any, value: Any, depth: int) -> None:
    if isinstance(value, Mapping):
        items: list[Any] = [part for pair in list(value.items())[:_LONGEST] for part in pair]
    elif isinstance(value, Set):
        items = sorted(map(repr, value))
    elif isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        items = [len(value), *list(value)[:_LONGEST], *list(value)[-10:]]
    else:
        return
    for item in items:
        _add(digest, item, depth + 1)
