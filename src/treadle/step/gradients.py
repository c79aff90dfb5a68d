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


def non_finite(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Whether any gradient holds a NaN or an infinity: 1.0 or 0.0, a scalar on the first one's device, without a host sync."""
    if grads[0].device.type not in ("cpu", "cuda"):
        return norm_of(grads).isfinite().logical_not().float()
    plain = [torch.view_as_real(grad) if grad.is_complex() else grad._values() if grad.is_sparse else grad for grad in grads]
    groups = _by_device(plain)
    found = [torch.zeros((), device=group[0].device) for group in groups]
    for group, flag in zip(groups, found, strict=True):
        # The kernel of the loss scalers: one pass over all of them; times one, they stay what they are.
        torch._amp_foreach_non_finite_check_and_unscale_(group, flag, torch.ones((), device=flag.device))
    return found[0] if len(found) == 1 else torch.stack([flag.to(found[0].device) for flag in found]).max()


def _by_device(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for grad in grads:
        groups.setdefault((grad.device, grad.dtype), []).append(grad)
    return list(groups.values())
