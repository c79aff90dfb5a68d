"""Files that are whole or not there: write beside, fsync, rename, fsync the folder.

Everything that has to survive a crash goes through here, by plain system calls, so that each of them can be recorded
and the folder be built as a crash between any two of them leaves it (tests/guarantees/test_crash_states.py).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.system.checksum import LARGE, Checksum, Piece


def write_file(path: Path, pieces: Iterable[Piece]) -> tuple[int, str]:
    """Write a file and make its content survive a power cut.

    Args:
        path: where; what is there is overwritten, so write beside and use `replace` where it matters.
        pieces: the content, as bytes one after the other.

    Returns:
        its size in bytes, and its SHA-256 in hexadecimal, taken of what was given and not of what can be read back.
    """
    size = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        with Checksum() as checksum:
            for piece in pieces:
                checksum.update(piece)
                write_all(handle, piece)
                _hurry(handle, size, len(piece))
                size += len(piece)
            os.fsync(handle)
        return size, checksum.hexdigest()
    finally:
        os.close(handle)


def _hurry(handle: int, start: int, length: int) -> None:
    """Let the disk begin with a large piece now: the kernel would wait for the fsync, and the disk be idle until all is summed."""
    if sys.platform == "linux" and length >= LARGE:
        os.posix_fadvise(handle, start, length, os.POSIX_FADV_DONTNEED)


def write_all(handle: int, piece: Piece) -> None:
    """Write all of it: a system call may take less than it was given."""
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(handle, rest) :]


def write_text(path: Path, text: str) -> None:
    """Replace a small file so that a reader, or a crash, meets the old one or the new one."""
    beside = path.with_name(f".{path.name}.tmp")
    write_file(beside, [text.encode()])
    replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a small JSON file, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_line(path: Path, text: str, sync: bool = True) -> None:
    """Add a line to a file; one that a crash tore before is left behind as a line of its own.

    Args:
        path: the file; made where it is missing.
        text: without the end of the line.
        sync: whether it has to survive a power cut from now on.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        write_all(handle, f"{chr(10) if torn else ''}{text}\n".encode())
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)
    if sync and not size:  # its name is new, too
        fsync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, and make their names survive a power cut."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        fsync(folder.parent)


def replace(source: Path, target: Path) -> None:
    """Rename, and make the new name survive a power cut."""
    os.replace(source, target)
    fsync(target.parent)


def discard(folder: Path) -> None:
    """Remove a folder so that it is whole or not there: first its name, then what is in it."""
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    fsync(folder.parent)  # so that nobody has to look for what is left, where no run goes on that would


def fsync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
