"""Brief: only the first batches of each epoch, or one of them again and again, to see in seconds whether everything works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from treadle.config.schema import debug_steps
from treadle.data.batch import Batch, copied
from treadle.data.stream import Mark

Read = Callable[[int, int, Mark | None], Iterator[Batch]]


@dataclass(frozen=True)
class Brief:
    """How little of the data is read. A batch is one position of such an epoch, whatever the data is.

    Args:
        steps: batches in an epoch, at most.
        repeat: whether they are all the first batch of the first epoch.
    """

    steps: int
    repeat: bool = False

    @classmethod
    def asked(cls, debug: str | None, *, training: bool) -> Brief | None:
        """What a debug mode reads of training data, or of other data; None where there is no such mode."""
        if debug is None:
            return None
        by_heart = debug == "overfit"
        return cls(1 if by_heart and not training else debug_steps(debug), repeat=by_heart and training)

    def of(self, length: int | None) -> int | None:
        """How many batches of an epoch are read; None where nobody knows."""
        return self.steps if self.repeat else length if length is None else min(length, self.steps)

    def batches(self, read: Read, epoch: int, into: int) -> Iterator[Batch]:
        """Batches for ever, of which `into` of the current epoch are used already.

        Args:
            read: gives the batches of the whole data from an epoch, a position and a mark on.
            epoch: epochs finished.
            into: batches of the current epoch already used.
        """
        while True:
            for place, batch in enumerate(self._epoch(read, epoch), 1):
                ends = place == self.steps or (batch.ends_epoch and not self.repeat)
                if place > into:
                    yield replace(batch, positions=1, ends_epoch=ends, mark=None)
                if ends:
                    break
            epoch, into = epoch + 1, 0

    def _epoch(self, read: Read, epoch: int) -> Iterator[Batch]:
        if not self.repeat:
            yield from islice(read(epoch, 0, None), self.steps)
            return
        first = next(iter(read(0, 0, None)))
        for _ in range(self.steps):
            yield replace(first, parts=copied(first.parts))
