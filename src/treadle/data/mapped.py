"""A function of each item, applied when the item is asked for; by threads where it waits for disks or networks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from treadle.core.errors import DataError
from treadle.data.ended import ended
from treadle.data.views import View, ahead_of, name_of, over
from treadle.system.seed import cpu_state


def map(source: Any, function: Callable[[Any], Any], *, threads: int = 0) -> Any:
    """A dataset whose items are what a function makes of another's.

    Nothing is computed before an item is asked for; then it is, in the process that loads: with ``machine.workers`` several
    do. The function may draw from torch, NumPy or Python: the generators are seeded for each sample. With `threads` it may
    not, since threads share the generators; what draws goes into another `map` after it.

    Args:
        source: a dataset, a tuple of tensors, or `treadle.Samples`, of which all that it says stays.
        function: an item -> an item.
        threads: how many items of a batch are made at the same time, in each process that loads; 0 makes one after the other.
            For functions that wait, such as for files. The samples are the same, and in the same order.

    Returns:
        a dataset of the same length; `treadle.Samples` where that was given.

    Raises:
        DataError: the source cannot be read by index, or `threads` is no number; when an item is made: the function drew random
            numbers in a thread, or raised StopIteration. Any other exception of the function arrives as it is.

    Example:
        >>> doubled = map([1, 2, 3], lambda item: 2 * item)
        >>> len(doubled), doubled[1]
        (3, 4)
    """
    if not callable(function):
        raise DataError(f"treadle.data.map takes a function of an item, got {function!r}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise DataError(f"threads must be a whole number of threads, 0 for none, got {threads!r}; processes are machine.workers of the config")
    return over(source, lambda data: Mapped(data, function, threads), "treadle.data.map")


class Mapped(View):
    """See `map`."""

    def __init__(self, source: Any, function: Callable[[Any], Any], threads: int) -> None:
        super().__init__(source)
        self._source, self._function, self._threads = source, function, threads
        self._made: dict[int, Any] = {}
        self.__name__ = f"map({name_of(source)}, {name_of(function)})"

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        made = self._made.pop(index, None)
        if made is None:
            return self._make(index)
        item, error = made
        if error is not None:
            raise error
        return item

    @property
    def threaded(self) -> bool:
        """See `View.threaded`."""
        return self._threads > 0 or super().threaded

    def ahead(self, indices: list[int]) -> None:
        """Make the items of a batch side by side; they wait here until they are asked for."""
        ahead_of(self._source, indices)
        indices = list(dict.fromkeys(indices))
        if not self._threads or not indices:
            return
        before = cpu_state()
        # Threads that live no longer than this: none is there when a worker is forked.
        with ThreadPoolExecutor(min(self._threads, len(indices))) as pool:
            self._made = dict(zip(indices, pool.map(self._attempt, indices), strict=True))
        if cpu_state() != before:
            raise DataError(
                f"{name_of(self._function)} draws random numbers in threads, which share the generators, so that these could not be made again; "
                "draw them in a function that is mapped after it, without threads"
            )

    def _attempt(self, index: int) -> tuple[Any, Exception | None]:
        """An item, or what was raised in its place, for whoever asks for it."""
        try:
            return self._make(index), None
        except Exception as error:
            return None, error

    def _make(self, index: int) -> Any:
        item = self._source[index]
        try:
            return self._function(item)
        except StopIteration as error:
            raise ended(f"{name_of(self._function)}, mapped over item {index} of {name_of(self._source)},") from error
        except Exception as error:
            error.add_note(f"raised by {name_of(self._function)}, mapped over item {index} of {name_of(self._source)}")
            raise
