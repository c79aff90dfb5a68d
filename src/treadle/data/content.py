"""Content: sixteen bytes that say what is in an item, and nothing else.

Two items have the same digest where they hold the same bits in the same structure, types and shapes included, whoever made
them: a digest can be kept, and compared with that of another process or machine. NaN is equal to itself here, and -0.0 is
not 0.0: bits are compared, and not values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from treadle.core.excerpt import excerpt

BYTES = 16
"""Length of a digest: by chance, two of 10^12 different items are alike with probability 10^-15."""


class Unhashable(Exception):
    """An item holds something whose content cannot be told."""


def digest(value: Any) -> bytes:
    """What is in an item, in 16 bytes.

    Args:
        value: tensors, arrays, numbers, text, bytes, images as PIL has them, and tuples, lists, sets, mappings and
            dataclasses of these. Anything else is taken by its pickle, in which the digests of such values stand for them.

    Raises:
        Unhashable: something in it cannot be pickled, or holds itself.

    Example:
        >>> digest((torch.zeros(2), 3)) == digest((torch.zeros(2), 3)), digest(torch.zeros(2)) == digest(torch.zeros(2, 1))
        (True, False)
    """
    found = hashlib.blake2b(digest_size=BYTES)
    try:
        _feed(found, value)
    except RecursionError:
        raise Unhashable(f"a {type(value).__name__} that holds itself, or is nested too deeply") from None
    return found.digest()


def input_part(item: Any) -> Any:
    """What of an item the model sees: the first of a pair, the field "input" of a mapping, else its first field; else all of it.

    Example:
        >>> input_part((1, 2)), input_part({"target": 1, "input": 2}), input_part(3)
        (1, 2, 3)
    """
    if isinstance(item, Mapping) and len(item) > 1:
        return item["input"] if "input" in item else next(iter(item.values()))
    return item[0] if isinstance(item, (tuple, list)) and len(item) > 1 else item


def _feed(found: Any, value: Any) -> None:
    """Add a value: what it is, how long that is, and its bytes, so that no two values make the same stream."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        _feed_array(found, value)
    elif value is None or isinstance(value, (bool, int, complex, str)):
        _piece(found, type(value).__name__, repr(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, float):
        _piece(found, "float", np.float64(value).tobytes())
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _piece(found, "bytes", value)
    elif isinstance(value, (tuple, list)):
        _piece(found, "sequence", str(len(value)).encode())
        for item in value:
            _feed(found, item)
    elif isinstance(value, Mapping):
        _piece(found, "mapping", b"".join(sorted(digest(key) + digest(item) for key, item in value.items())))
    elif isinstance(value, Set):
        _piece(found, "set", b"".join(sorted(map(digest, value))))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _piece(found, "dataclass", type(value).__qualname__.encode())
        for field in dataclasses.fields(value):
            _feed(found, getattr(value, field.name, None))
    elif all(hasattr(value, name) for name in ("mode", "size", "tobytes")):
        palette = value.getpalette() if value.mode in ("P", "PA") and hasattr(value, "getpalette") else None
        _piece(found, f"image {value.mode} {value.size} {palette}", value.tobytes())
    else:
        _piece(found, "pickle", _pickled(value))


def _feed_array(found: Any, value: Any) -> None:
    """A tensor and an array of the same numbers are the same content: they become the same batch."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        dense = value.to_dense() if value.layout is not torch.strided else value
        dense = dense.dequantize() if dense.is_quantized else dense
        dense = dense.cpu().resolve_conj().resolve_neg().contiguous()
        _piece(found, f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}", dense.reshape(-1).view(torch.uint8).numpy())
        return
    array = np.asarray(value)
    if array.dtype.hasobject:
        _piece(found, f"objects{list(array.shape)}", b"")
        _feed(found, array.reshape(-1).tolist())
        return
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    name = array.dtype.name if array.dtype.names is None else str(array.dtype)
    _piece(found, f"{name}{list(array.shape)}", native.tobytes())


def _piece(found: Any, kind: str, content: Any) -> None:
    content = memoryview(content)
    found.update(f"{kind} {content.nbytes}:".encode("utf-8", "surrogatepass"))
    found.update(content)


class _Pickler(pickle.Pickler):
    """Pickles what is in an object, and not where it lies: the pickle of a tensor has an address, that of a set an order by chance."""

    def persistent_id(self, value: Any) -> bytes | None:
        """What stands for a part; for texts too, of which a pickle would tell which of them are one object."""
        kind = type(value)
        if kind in (int, float, bool, dict, list, tuple):
            return None
        if kind in (str, bytes) or isinstance(value, (torch.Tensor, np.ndarray, np.generic, Set)):
            return digest(value)
        return digest(_stored(value)) if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)) else None


def _stored(storage: Any) -> torch.Tensor:
    untyped = storage if isinstance(storage, torch.UntypedStorage) else storage._untyped_storage
    return torch.empty(0, dtype=torch.uint8, device=untyped.device).set_(untyped)


def _pickled(value: Any) -> bytes:
    found = io.BytesIO()
    try:
        _Pickler(found, protocol=4).dump(value)
        return found.getvalue()
    except (RecursionError, Unhashable):
        raise
    except Exception as error:
        raise Unhashable(f"{type(value).__name__} cannot be pickled: {excerpt(error)}") from None
