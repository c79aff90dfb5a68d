"""Gradients: scale, clip and measure them, all tensors at a time and without a host sync."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def scale_gradients(grads: Sequence[torch.Tensor], factor: float | torch.Tensor) -> None:
    """Multiply every gradient by one number, in place."""
    for group in _by_device(grads):
        torch._foreach_mul_(group, factor.to(group[0].device) if isinstance(factor, torch.Tensor) else factor)


def clip_gradients(params: Sequence[torch.nn.Parameter], grads: Sequence[torch.Tensor], limit: float) -> torch.Tensor:
    """Shorten the whole gradient to a norm, in place.

    Args:
        params: the parameters whose gradients are clipped.
        grads: their gradients.
        limit: largest 2-norm.

    Returns:
        the norm before, a scalar tensor.

    Source:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, section 3.2.
    """
    norm = norm_of(grads)
    clip_grads_with_norm_(params, limit, norm)
    return norm


def norm_of(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients as one vector; 0 where there is none."""
    return get_total_norm(grads) if grads else torch.zeros(())


def _by_device(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for grad in grads:
        groups.setdefault((grad.device, grad.dtype), []).append(grad)
    return list(groups.values())
