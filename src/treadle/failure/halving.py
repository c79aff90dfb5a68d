"""Halving: a step that does not fit into memory is begun again with half the micro-batch.

The batch stays the batch: it is cut into more parts, each weighted by its count, so the maths is the same. Everything that
the attempt has moved is put back: gradients, buffers, random generators, means, and the count of updates that were left out.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from treadle.checkpoint.tracked import Tracked
from treadle.data.batch import Batch, cut
from treadle.data.loader import Loader
from treadle.failure.capsule import Failures
from treadle.metrics.means import Means
from treadle.step.step import Step

_SAYS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the host, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAYS)


class Halving:
    """The size of the micro-batches of a run that finds it by itself.

    Args:
        step: the step of the run.
        means: takes the values of the step.
        failures: knows how things were when the step began, and which updates were left out.
        tracked: the models of the run are among it.
        say: told each time that the size is halved.
    """

    def __init__(self, step: Step, means: Means, failures: Failures, tracked: Tracked, say: Callable[[str], None]) -> None:
        self._step, self._means, self._failures, self._tracked, self._say = step, means, failures, tracked, say
        self.limit: int | None = None
        """Samples that go through the model at once; None is all of the batch."""
        self._batch = Batch((), (), 0, False)
        self._values: Any = None
        self._skipped = 0
        failures.before.look_always()

    def begin(self, batch: Batch) -> Batch:
        """A step begins: its batch in parts that fit, as far as is known."""
        self._batch = batch if self.limit is None else cut(batch, self.limit)
        self._values, self._skipped = self._means.kept(), self._failures.skipped
        return self._batch

    def attempt(self, body: Callable[..., Any], *args: Any) -> Any:
        """Call the body of a step, again and again with smaller parts where it does not fit; see `Run.attempt`."""
        while True:
            try:
                return body(*args)
            except Exception as error:
                if not self.can(error):
                    raise
            self.again()  # when the exception is gone, and with it what its frames held

    def can(self, error: Exception) -> bool:
        """Whether the step can be begun again after an exception. Where it cannot for want of samples, a note says so."""
        if not is_out_of_memory(error) or not self._batch.counts:  # before the first step
            return False
        if self._step.has_moved:
            error.add_note(f"step {self._step.number} cannot be made again in smaller parts: an optimizer has moved, or was about to")
            return False
        if max(self._batch.counts) == 1:
            error.add_note(f"step {self._step.number} does not fit into memory one sample at a time")
            return False
        return True

    def shrinks(self, loader: Loader, error: Exception) -> bool:
        """Whether an evaluation can be made again after an exception: its loader gives half as many samples at once then."""
        size = loader.batch_size
        if not is_out_of_memory(error):
            return False
        if loader.source.kind == "batched":
            error.add_note("an evaluation does not fit into memory, and its data comes in batches that stay as they are; give it smaller ones")
            return False
        if size == 1:
            error.add_note("an evaluation does not fit into memory one sample at a time")
            return False
        loader.batch_size = size // 2
        self._say(f"an evaluation did not fit into memory with {size:,} samples at once; from here on it takes {size // 2:,}")
        return True

    def again(self) -> None:
        """Put back what the attempt has moved, and begin the step again with half the micro-batch."""
        self.limit = max(self._batch.counts) // 2
        self._failures.before.put_back()
        self._failures.before.put_back_generators()
        self._failures.skipped = self._skipped
        for model in self._tracked.models().values():
            model.zero_grad(set_to_none=True)
        self._step.clear()
        self._means.put_back(self._values)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        number = self._step.number
        at_once = f"{max(self._batch.counts):,} samples at once"
        self._say(f"step {number} did not fit into memory with {at_once}; from here on {self.limit:,} go through the model, and the batch stays one")
        self._batch = cut(self._batch, self.limit)
        self._step.begin(number, self._batch, self._step.values)
