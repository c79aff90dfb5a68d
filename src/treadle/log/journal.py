"""The journal, `metrics.jsonl`: one JSON object a line, the truth that every other view is made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from treadle.core.errors import RunFolderError
from treadle.log.writer import Row


class Journal:
    """An append-only file of rows, cut back where a run continues from a checkpoint.

    Args:
        path: the file; made where it is missing.
        length: bytes to keep; what was written after the checkpoint was taken back with it.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self._opened = open(path, "ab", buffering=0)
        self._file = self._opened.fileno()
        self._length = min(length, path.stat().st_size)
        os.ftruncate(self._file, self._length)
        with open(path, "rb") as written:
            self._digest = hashlib.file_digest(written, "sha256")
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
        self._write()

    def settled(self) -> int:
        """Write what waits, and say how long it is then, in bytes.

        Raises:
            OSError: some of it still waits.
        """
        self._write()
        return self._length

    @property
    def sum(self) -> str:
        """Its length in bytes and its SHA-256, ``bytes:checksum``."""
        return f"{self._length}:{self._digest.hexdigest()}"

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """End."""
        try:
            self._write()
        finally:
            self._opened.close()

    def _write(self) -> None:
        done = 0
        try:
            while done < len(self._unwritten):
                done += os.write(self._file, self._unwritten[done:])
        except OSError:
            os.ftruncate(self._file, self._length)  # leave no half row behind
            raise
        self._length += done
        self._digest.update(self._unwritten)
        self._unwritten = b""


def read_journal(path: str | Path) -> Iterator[Row]:
    """The rows of a journal; a last line torn by a crash is left out.

    Args:
        path: a run folder, or its `metrics.jsonl`.

    Raises:
        RunFolderError: another line is damaged.
    """
    file = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
    if not file.exists():
        return
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                        raise ValueError
                except ValueError:
                    raise RunFolderError(f"line {number} of {file} is damaged") from None
                yield row
