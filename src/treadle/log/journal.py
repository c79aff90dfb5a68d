"""The journal, `metrics.jsonl`: one JSON object a line, the truth that every other view is made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from treadle.log.writer import Row


class Journal:
    """An append-only file of rows, cut back where a run continues from a checkpoint.

    Args:
        path: the file; made where it is missing.
        length: bytes to keep; what was written after the checkpoint was taken back with it.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "ab")
        self._file.truncate(length)
        self._length = length
        self._unwritten = b""

    @property
    def length(self) -> int:
        """Bytes written."""
        return self._length

    def write(self, row: Row) -> None:
        """Append a row; where the disk is full it waits in memory for the next try.

        Raises:
            OSError: the row, and those waiting with it, could not be written.
        """
        self._unwritten += json.dumps(row).encode() + b"\n"
        try:
            self._file.write(self._unwritten)
            self._file.flush()
        except OSError:
            # Leave no half row behind.
            self._file = self._reopened()
            raise
        self._length += len(self._unwritten)
        self._unwritten = b""

    def sync(self) -> int:
        """Make what was written survive a power cut, and say how long it is."""
        os.fsync(self._file.fileno())
        return self._length

    def close(self) -> None:
        """End."""
        self._file.close()

    def _reopened(self) -> BinaryIO:
        file = open(self.path, "ab", buffering=0)
        file.truncate(self._length)
        return cast(BinaryIO, file)


def read_journal(path: Path) -> Iterator[Row]:
    """The rows of a journal; a last line torn by a crash is left out.

    Args:
        path: a run folder, or its `metrics.jsonl`.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.exists():
        return
    with open(file, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)
