"""Tensors as a safetensors file, piece by piece: nothing is gathered in memory, and each piece is checksummed as it is written.

The format, https://huggingface.co/docs/safetensors: the length of a header (8 bytes, little end first), the header as JSON,
the tensors' bytes one after the other. Files are read with the safetensors library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

Tensors = dict[str, torch.Tensor]
Bytes = NDArray[np.uint8]

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What a file can hold, and its name there."""
_PIECE = 1 << 24
"""Bytes that are copied, written and summed by one call each."""


def pieces(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """The content of a file.

    Args:
        tensors: contiguous, on the CPU, of the dtypes above; they must not change while this is read.
    """
    # The widest first: then each lies where its own width wants it, and can be used from the file without a copy.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    yield header((name, tensor.dtype, tensor.shape) for name, tensor in ordered)
    for portion in _portions(_raw(tensor) for _, tensor in ordered):
        yield np.concatenate(portion).data  # what is summed is what is written, whoever else writes to it


def header(tensors: Iterable[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """The beginning of a file: of each tensor its name, dtype and shape, in the order in which their bytes follow."""
    found, end = {}, 0
    for name, dtype, shape in tensors:
        begin, end = end, end + prod(shape) * dtype.itemsize
        found[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(found, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _raw(tensor: torch.Tensor) -> Bytes:
    flat = tensor.as_strided((tensor.numel(),), (1,))  # a single element may be called contiguous whatever its stride
    return flat.view(torch.uint8).numpy()


def _portions(arrays: Iterable[Bytes]) -> Iterator[list[Bytes]]:
    """Cut long arrays and gather short ones, so that few calls are made: each asks for the interpreter's lock, which training needs."""
    portion: list[Bytes] = []
    room = _PIECE
    for array in arrays:
        while len(array):
            part, array = array[:room], array[room:]
            portion.append(part)
            room -= len(part)
            if not room:
                yield portion
                portion, room = [], _PIECE
    if portion:
        yield portion
