"""Padding: samples of different lengths as one batch, with the lengths that they had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import default_collate

from treadle.core.errors import DataError
from treadle.core.structure import describe
from treadle.data.sources import positive


class Padded(NamedTuple):
    """Samples of different lengths in one tensor.

    Args:
        values: of shape (samples, longest, ...); what is behind the end of a sample is filling.
        lengths: int64 of shape (samples,).
    """

    values: torch.Tensor
    lengths: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """True where there is a value, False where there is filling: bool of shape (samples, longest)."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]


def pad(value: float = 0, *, target: float = -100, multiple_of: int = 1, field: str = "input") -> Pad:
    """A collate function for samples whose tensors differ in their first dimension.

    The input, which is the first of a tuple, or a field of a dict, or the sample itself, becomes a `Padded`: values and
    lengths. Any other tensor with dimensions is filled up to the longest of its own. Numbers, texts and tensors without dimensions
    are put together as torch's ``default_collate`` does.

    Args:
        value: what the input is filled with.
        target: what other tensors are filled with; -100 is what ``nn.CrossEntropyLoss`` leaves out.
        multiple_of: the length of a batch is one of these, so that fewer different shapes come to a compiler.
        field: of a dict, which field is the input.

    Returns:
        a collate function, for ``treadle.Samples(collate=...)``. It can be pickled.

    Raises:
        DataError: `multiple_of` is not positive; when called: tensors differ in more than their first dimension.

    Example:
        >>> collate = pad()
        >>> texts, labels = collate([(torch.tensor([5, 6, 7]), 0), (torch.tensor([8]), 1)])
        >>> texts.values.tolist(), texts.lengths.tolist(), labels.tolist()
        ([[5, 6, 7], [8, 0, 0]], [3, 1], [0, 1])
        >>> texts.mask.tolist()
        [[True, True, True], [True, False, False]]
    """
    positive("multiple_of", multiple_of)
    return Pad(value, target, multiple_of, field)


@dataclass(frozen=True)
class Pad:
    """See `pad`."""

    value: float
    target: float
    multiple_of: int
    field: str

    def __call__(self, samples: list[Any]) -> Any:
        """Samples as a batch.

        Args:
            samples: of one structure.
        """
        first = samples[0]
        if isinstance(first, Mapping):
            if self.field not in first:
                raise DataError(f"treadle.data.pad: the samples have no field {self.field!r}: {describe(first)}; name the input: pad(field=...)")
            return {name: self._column([sample[name] for sample in samples], name, name == self.field) for name in first}
        if isinstance(first, (tuple, list)):
            columns = zip(*samples, strict=True)
            parts = [self._column(list(column), f"part {number}", number == 0) for number, column in enumerate(columns)]
            return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
        return self._column(samples, "the sample", True)

    def _column(self, values: list[Any], name: str, is_input: bool) -> Any:
        found = [torch.as_tensor(value) if hasattr(value, "__array__") else value for value in values]
        if not all(isinstance(value, torch.Tensor) and value.ndim for value in found):
            if is_input:
                raise DataError(f"treadle.data.pad: the input, {name}, must be a tensor or array with a length, got {describe(values[0])}")
            return default_collate(values)
        if len({(value.shape[1:], value.dtype) for value in found}) > 1:
            shapes = sorted({describe(value) for value in found})
            raise DataError(f"treadle.data.pad: {name} may differ in the first dimension only, got {' and '.join(shapes[:3])}")
        padded = self._filled(found, self.value if is_input else self.target)
        return Padded(padded, torch.tensor([len(value) for value in found])) if is_input else padded

    def _filled(self, values: list[torch.Tensor], filling: float) -> torch.Tensor:
        longest = max(len(value) for value in values)
        longest = -(-longest // self.multiple_of) * self.multiple_of
        batch = values[0].new_full((len(values), longest, *values[0].shape[1:]), filling)
        for row, value in enumerate(values):
            batch[row, : len(value)] = value
        return batch
