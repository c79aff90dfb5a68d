"""From the device to the host: many values in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def to_host(values: Sequence[Any]) -> list[Any]:
    """Python values of many scalars, tensors fetched in one copy for each device.

    Args:
        values: numbers, and tensors of any device and dtype; one with several elements becomes a nested list.

    Returns:
        numbers and lists, in the same order.

    Example:
        >>> to_host([torch.tensor(1.5), 2, torch.tensor([1, 2])])
        [1.5, 2, [1, 2]]
    """
    found = list(values)
    waiting: dict[torch.device, list[int]] = {}
    for place, value in enumerate(found):
        if not isinstance(value, torch.Tensor):
            continue
        if value.device.type == "cpu" or value.numel() != 1:
            found[place] = value.item() if value.numel() == 1 else value.tolist()
        else:
            waiting.setdefault(value.device, []).append(place)
    for device, places in waiting.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        fetched = torch.stack([found[place].detach().reshape(()).to(wide) for place in places]).tolist()
        for place, number in zip(places, fetched, strict=True):
            floating = found[place].dtype.is_floating_point
            found[place] = number if floating else int(number)
    return found
