"""Outputs as columns with a row a sample, and put together again in the structure in which the model gave them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch

from treadle.core.errors import ObjectiveError
from treadle.core.structure import describe, leaves, map_leaves
from treadle.prediction.outputs import Part

ROOT = "output"
"""What the column of an output without names is called."""


class Layout:
    """How outputs are made of columns, as the first ones say. Tensors have a row a sample; a list has an item a sample; the rest is structure.

    Args:
        part: the first outputs.

    Raises:
        ObjectiveError: a list could be one item a sample, or as many tensors of all samples; or a tensor has no rows.
    """

    def __init__(self, part: Part) -> None:
        self._first = part.output
        self._lists: dict[str, bool] = {}
        """Of each list, by its path, whether it has an item a sample."""
        self._items: list[Any] = []
        self.names = [name for name, _ in self._walk(part.output, "", len(part.ids))]

    def columns(self, part: Part) -> list[Any]:
        """What is in each column for some samples: a tensor, a list, or a value that is no column.

        Raises:
            ObjectiveError: the structure is another than that of the first.
        """
        found = list(self._walk(part.output, "", len(part.ids)))
        if [name for name, _ in found] != self.names:
            raise ObjectiveError(
                f"the outputs from sample {part.ids[0]:,} on are {describe(part.output)}, those of the first batch {describe(self._first)}; "
                "give the same structure for each batch"
            )
        return [leaf for _, leaf in found]

    def together(self, columns: Iterable[Any]) -> Any:
        """Columns in the structure of the first outputs."""
        rest = iter(columns)
        return map_leaves(lambda leaf: next(rest), self._first, lambda value: any(value is item for item in self._items))

    def _walk(self, value: Any, path: str, count: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, list) and self._one_a_sample(value, path, count):
            yield path or ROOT, value
        elif isinstance(value, (tuple, list)):
            for place, item in enumerate(value):
                yield from self._walk(item, _joined(path, place), count)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from self._walk(item, _joined(path, key), count)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                if field.init:
                    yield from self._walk(getattr(value, field.name), _joined(path, field.name), count)
        else:
            if isinstance(value, torch.Tensor) and not value.ndim:
                raise ObjectiveError(f"the output {path or ROOT!r} is one number for {count} samples; predict wants a row a sample, so leave it out")
            yield path or ROOT, value

    def _one_a_sample(self, value: list[Any], path: str, count: int) -> bool:
        """Said once, of the first batch: a last one may be as short as a list of another kind."""
        if path not in self._lists:
            own = [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]
            of_all = bool(own) and all(leaf.ndim and len(leaf) == count for leaf in own)
            if of_all and len(value) == count:
                raise ObjectiveError(
                    f"cannot tell whether the output {describe(value)} is one item a sample, or {count} tensors of all samples; "
                    "give a tuple or a dict of several outputs"
                )
            self._lists[path] = len(value) == count and not of_all
            if self._lists[path]:
                self._items.append(value)
        if self._lists[path] and len(value) != count:
            raise ObjectiveError(f"the output {path or ROOT!r} is a list of {len(value)} items for {count} samples; it had one a sample before")
        return self._lists[path]


def joined(parts: Iterable[Part]) -> Any:
    """The outputs of all samples as one, in the model's own structure: tensors along their first dimension, lists one after the other.

    What is neither, nor None, becomes a list with one item a batch.
    """
    layout, found = None, []
    for part in parts:
        layout = layout or Layout(part)
        found.append(layout.columns(part))
    assert layout is not None  # data without a sample is refused
    return layout.together([_column(list(column)) for column in zip(*found, strict=True)])


def _column(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(chain.from_iterable(values))
    return None if values[0] is None else values


def _joined(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
