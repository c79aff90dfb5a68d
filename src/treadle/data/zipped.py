"""Several datasets, item by item."""

from __future__ import annotations

from typing import Any

from treadle.core.errors import DataError
from treadle.data.views import View, apart, by_index, name_of


def zip(*sources: Any) -> Zipped:
    """A dataset whose items are tuples: the first items of several datasets, the second ones, and so on.

    Args:
        sources: datasets, or tuples of tensors, of one length.

    Raises:
        DataError: they are not of one length, or cannot be read by index.

    Example:
        >>> pairs = zip(["a", "b"], range(2))
        >>> pairs[1]
        ('b', 1)
    """
    given = apart(sources, "treadle.data.zip")
    for number, one in enumerate(given):
        if one.sampler is not None:
            raise DataError(f"treadle.data.zip puts items of one index together, so dataset {number} can have no sampler; give one to the result")
    return Zipped(*[by_index(one.dataset, "treadle.data.zip") for one in given])


class Zipped(View):
    """See `zip`."""

    def __init__(self, *sources: Any) -> None:
        super().__init__(*sources)
        lengths = [len(source) for source in sources]
        if len(set(lengths)) > 1:
            found = ", ".join(f"{name_of(source)} of {len(source):,}" for source in sources)
            raise DataError(f"treadle.data.zip needs datasets of one length, got {found}")
        self.__name__ = f"zip({', '.join(name_of(source) for source in sources)})"

    def __len__(self) -> int:
        return len(self._sources[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple([source[index] for source in self._sources])
