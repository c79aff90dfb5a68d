"""Thumbnails: an item as a few hundred numbers, of which near-duplicates are told by their correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from treadle.core.structure import leaves
from treadle.data.content import input_part

SIDE = 16
"""Pixels of a thumbnail's side, at most."""
FEWEST, MOST = 8, 1024
"""Numbers of a vector: with fewer, much is alike by chance."""


def thumbnail(item: Any) -> NDArray[np.float32] | None:
    """The input of an item, small: an image in grey of 16 x 16 pixels at most, a vector as it is.

    Args:
        item: what a dataset gives. An image is a tensor or array of 2 dimensions, or of 3 where the first or the last has at
            most 4 channels, or one of PIL's; a vector is of 1 dimension, with 8 to 1024 numbers.

    Returns:
        float32 numbers with mean 0 and norm 1; None where the item is neither, or constant.

    Example:
        >>> thumbnail((torch.eye(32), 3)).shape, thumbnail("text")
        ((256,), None)
    """
    part = next((leaf for leaf in leaves(input_part(item)) if not isinstance(leaf, (str, bytes, int, float))), None)
    if part is not None and hasattr(part, "convert") and hasattr(part, "mode"):
        part = np.asarray(part.convert("L"))
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        part = torch.from_numpy(np.ascontiguousarray(part))
    if not isinstance(part, torch.Tensor) or part.is_complex() or part.layout is not torch.strided or part.is_quantized:
        return None
    numbers = _flat(part.detach().cpu().float())
    if numbers is None:
        return None
    numbers = numbers - numbers.mean()
    norm = float(numbers.norm())
    if not np.isfinite(norm) or norm < 1e-6:
        return None
    found: NDArray[np.float32] = (numbers / norm).numpy()
    return found


def _flat(value: torch.Tensor) -> torch.Tensor | None:
    if value.ndim == 1:
        return value if FEWEST <= len(value) <= MOST else None
    if value.ndim == 3 and value.shape[0] <= 4:
        value = value.mean(0)
    elif value.ndim == 3 and value.shape[2] <= 4:
        value = value.mean(2)
    if value.ndim != 2 or min(value.shape) < 4:
        return None
    height, width = value.shape
    return adaptive_avg_pool2d(value[None, None], (min(SIDE, height), min(SIDE, width))).flatten()
