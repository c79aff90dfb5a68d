"""Predictions as a file that is whole or not there, written batch by batch: memory stays small, however large the dataset is.

.npy            one output of tensors of one shape; row i is the i-th sample
.safetensors    any number of such outputs, and the samples' indices as "id"
.jsonl          anything; a line a sample, {"id": 0, "output": ...}
.csv            numbers, texts and short vectors; a line a sample
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch

from treadle.checkpoint.tensors import header
from treadle.core.errors import ObjectiveError
from treadle.prediction.outputs import Part
from treadle.prediction.rows import Layout
from treadle.system.files import make_folder, replace, write_file

ID = "id"
"""The column of the samples' indices."""
_PIECE = 1 << 24
"""Bytes that are copied at once."""


def write(parts: Iterable[Part], path: Path) -> Path:
    """Write predictions beside their place, and rename the file when it is whole; one that was there stays until then.

    Args:
        parts: outputs, in the order of the dataset; read as they are written.
        path: where; its ending says the format.

    Returns:
        the path.

    Raises:
        ObjectiveError: the format cannot hold these outputs.
        OSError: the disk is full, or the file cannot be written; nothing of it is left.
    """
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        write_file(beside, FORMATS[path.suffix](parts, path.parent))
        replace(beside, path)
    except OSError as error:
        error.add_note(f"the predictions could not be written; {path} is as it was before")
        raise
    finally:
        beside.unlink(missing_ok=True)
    return path


# --- lines ---


def _json_lines(parts: Iterable[Part], folder: Path) -> Iterator[bytes]:
    for ids, names, columns in _tables(parts):
        rows = [_plain(column) for column in columns]
        for place, index in enumerate(ids.tolist()):
            row = {ID: index} | {name: column[place] for name, column in zip(names, rows, strict=True)}
            yield json.dumps(row, default=_plain).encode() + b"\n"


def _csv_lines(parts: Iterable[Part], folder: Path) -> Iterator[bytes]:
    head: list[str] = []
    for ids, names, columns in _tables(parts):
        cells = [cell for name, column in zip(names, columns, strict=True) for cell in _cells(name, column)]
        names = [ID, *(name for name, _ in cells)]
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if not head:
            lines.writerow(head := names)
        elif names != head:
            raise ObjectiveError(f"the columns from sample {ids[0]:,} on are {', '.join(names)}, those before {', '.join(head)}; write .jsonl")
        lines.writerows(zip(ids.tolist(), *(values for _, values in cells), strict=True))
        yield text.getvalue().encode()


def _cells(name: str, column: Any) -> list[tuple[str, list[Any]]]:
    """An output as columns of a table."""
    if isinstance(column, list) and all(item is None or isinstance(item, (bool, int, float, str)) for item in column):
        return [(name, column)]
    if isinstance(column, torch.Tensor) and column.ndim == 1:
        return [(name, column.tolist())]
    if isinstance(column, torch.Tensor) and column.ndim == 2:
        return [(f"{name}.{place}", values) for place, values in enumerate(column.T.tolist())]
    what = f"has the shape {list(column.shape)}" if isinstance(column, torch.Tensor) else "holds more than numbers and texts"
    raise ObjectiveError(f"the output {name!r} {what}; a .csv holds numbers, texts and vectors: write .jsonl, or .safetensors for tensors")


def _plain(value: Any) -> Any:
    """A tensor or an array as lists of numbers; what else json does not know is refused by its words."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list):
        return value
    raise ObjectiveError(f"predictions as .jsonl hold tensors, numbers, texts, and lists and dicts of them, not {type(value).__name__}")


# --- tensors ---


def _npy(parts: Iterable[Part], folder: Path) -> Iterator[bytes]:
    with ExitStack() as stack:
        _, columns = _spooled(parts, folder, stack, exact=False)
        if len(columns) != 1:
            names = ", ".join(column.name for column in columns)
            raise ObjectiveError(f"the model gives {len(columns)} outputs ({names}), and a .npy holds one array; write .safetensors")
        head = io.BytesIO()
        shape = columns[0].shape
        descr = np.lib.format.dtype_to_descr(torch.empty(0, dtype=columns[0].dtype).numpy().dtype)
        np.lib.format.write_array_header_2_0(head, {"descr": descr, "fortran_order": False, "shape": tuple(shape)})
        yield head.getvalue()
        yield from columns[0].content()


def _safetensors(parts: Iterable[Part], folder: Path) -> Iterator[bytes]:
    with ExitStack() as stack:
        ids, columns = _spooled(parts, folder, stack, exact=True)
        # The widest first, as in a checkpoint: each lies where its own width wants it.
        ordered = sorted([ids, *columns], key=lambda column: -column.dtype.itemsize)
        yield header((column.name, column.dtype, column.shape) for column in ordered)
        for column in ordered:
            yield from column.content()


class _Column:
    """One output of all samples, in a file without a name: how many samples there are is known at the end only."""

    def __init__(self, name: str, first: torch.Tensor, file: IO[bytes]) -> None:
        self.name, self.dtype, self._row, self._rows, self._file = name, first.dtype, list(first.shape[1:]), 0, file

    @property
    def shape(self) -> list[int]:
        """Samples, and the shape of one."""
        return [self._rows, *self._row]

    def add(self, rows: torch.Tensor, first: int) -> None:
        """Take the rows of some samples, of which the first has this index."""
        if rows.dtype is not self.dtype or list(rows.shape[1:]) != self._row:
            raise ObjectiveError(
                f"the output {self.name!r} of sample {first:,} is {rows.dtype} of shape {list(rows.shape[1:])}, those before {self.dtype} of "
                f"{self._row}; write .jsonl, or give to= a function of (ids, output)"
            )
        self._rows += len(rows)
        self._file.write(rows.contiguous().view(-1).view(torch.uint8).numpy().data)

    def content(self) -> Iterator[bytes]:
        """Its bytes, piece by piece."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece


def _spooled(parts: Iterable[Part], folder: Path, stack: ExitStack, exact: bool) -> tuple[_Column, list[_Column]]:
    """Indices and outputs of all samples as columns. `exact`: in the model's own number format, also where NumPy has none such."""

    def column(name: str, first: torch.Tensor) -> _Column:
        return _Column(name, first, stack.enter_context(TemporaryFile(dir=folder)))

    index: _Column | None = None
    found: list[_Column] = []
    for ids, names, columns in _tables(parts):
        if wrong := [name for name, rows in zip(names, columns, strict=True) if not isinstance(rows, torch.Tensor)]:
            raise ObjectiveError(f"the output {wrong[0]!r} is no tensor; write .jsonl")
        rows = [one if exact or one.dtype not in _UNKNOWN_TO_NUMPY else one.float() for one in columns]
        if index is None:
            index = column(ID, torch.from_numpy(ids))
            found = [column(name, one) for name, one in zip(names, rows, strict=True)]
        for one, values in zip([index, *found], [torch.from_numpy(ids), *rows], strict=True):
            one.add(values, int(ids[0]))
    assert index is not None  # data without a sample is refused
    return index, found


_UNKNOWN_TO_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
FORMATS: dict[str, Callable[[Iterable[Part], Path], Iterator[bytes]]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".jsonl": _json_lines,
    ".csv": _csv_lines,
}


def _tables(parts: Iterable[Part]) -> Iterator[tuple[Any, list[str], list[Any]]]:
    """Indices, names and columns of some samples at a time, each column with a row for each.

    Raises:
        ObjectiveError: an output has no such rows.
    """
    layout: Layout | None = None
    for part in parts:
        layout = layout or Layout(part)
        if ID in layout.names:
            raise ObjectiveError(f"an output is named {ID!r}, as is the column of the samples' indices; give it another name")
        table = [(name, column) for name, column in zip(layout.names, layout.columns(part), strict=True) if column is not None]
        for name, column in table:
            if not isinstance(column, (torch.Tensor, list)) or len(column) != len(part.ids):
                rows = f"{len(column)} rows" if isinstance(column, torch.Tensor) else type(column).__name__
                raise ObjectiveError(f"the output {name!r} has {rows} for {len(part.ids)} samples; a file wants one a sample")
        yield part.ids, [name for name, _ in table], [column for _, column in table]
