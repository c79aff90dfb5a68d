"""The SHA-256 of what is written, taken in a thread beside: it takes as long as a disk does, and neither waits for the other."""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread
from types import TracebackType

Piece = bytes | memoryview
LARGE = 1 << 20
"""Bytes from which on a piece is worth a thread."""
_AHEAD = 4
"""How many pieces may wait to be summed: their memory is held until then."""


class Checksum:
    """A sum that is whole once its context is left.

    Example:
        >>> with Checksum() as checksum:
        ...     checksum.update(b"a piece")
        >>> checksum.hexdigest()[:8]
        '97d11709'
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._waiting: Queue[Piece | None] = Queue(_AHEAD)
        self._thread: Thread | None = None

    def __enter__(self) -> Checksum:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def update(self, piece: Piece) -> None:
        """Add a piece, which must not change until the sum is whole."""
        if self._thread is None and len(piece) < LARGE:
            self._digest.update(piece)
            return
        if self._thread is None:
            # A daemon: whoever leaves at once is not held up at the door.
            self._thread = Thread(target=self._run, name="treadle-checksum", daemon=True)
            self._thread.start()
        self._waiting.put(piece)

    def hexdigest(self) -> str:
        """The sum in hexadecimal."""
        return self._digest.hexdigest()

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            self._digest.update(piece)
