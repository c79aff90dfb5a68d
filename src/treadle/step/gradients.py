"""Gradients: scale, clip and measure them, all tensors at a time and without a host sync."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def scale_gradients(grads: Sequence[torch.Tensor], factor: float | torch.Tensor) -> None:
    """Multiply every gradient by one number, in place."""
    for group in _by_device(grads):
        torch._foreach_mul_(group, factor.to(group[0].device) if isinstance(factor, torch.Tensor) else factor)


def clip_gradients(params: Sequence[torch.nn.Parameter], norm: torch.Tensor, limit: float) -> None:
    """Shorten the whole gradient to a norm, in place.

    Args:
        params: the parameters whose gradients are clipped.
        norm: what `norm_of` gave for them.
        limit: largest 2-norm.

    Source:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, section 3.2.
    """
    clip_grads_with_norm_(params, limit, norm)


def norm_of(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients as one vector; 0 where there is none."""
    return get_total_norm(grads) if grads else torch.zeros(())


class Finiteness:
    """Whether gradients are finite: asked at once, or as a flag that stays on their device.

    Both use the kernel of the loss scalers: one pass over all of them; times one, they stay what they are.
    """

    def __init__(self) -> None:
        self._ones: dict[torch.device, torch.Tensor] = {}
        self._found = torch.zeros((), device="cpu", dtype=torch.float32)

    def holds(self, grads: list[torch.Tensor]) -> bool:
        """Whether all of them are finite. The host waits for the answer."""
        if grads[0].device.type != "cpu":
            return not self.flag(grads).item()
        flag = self._scan(grads, self._found)
        found = bool(flag.item())
        if found:
            self._found.zero_()
        return not found

    def flag(self, grads: list[torch.Tensor]) -> torch.Tensor:
        """1.0 where any of them holds a NaN or an infinity, else 0.0: a scalar on the first one's device, without a host sync."""
        return self._scan(grads, torch.zeros((), device=grads[0].device, dtype=torch.float32))

    def _scan(self, grads: list[torch.Tensor], flag: torch.Tensor) -> torch.Tensor:
        device = grads[0].device
        if device.type in ("cpu", "cuda"):
            if device not in self._ones:
                self._ones[device] = torch.ones((), device=device, dtype=torch.float32)
            try:
                torch._amp_foreach_non_finite_check_and_unscale_(grads, flag, self._ones[device])
                return flag
            except RuntimeError:  # one of them is sparse, complex, expanded or on another device
                flag.zero_()
        with torch.no_grad():
            found = [_numbers(grad).isfinite().all().logical_not().to(device) for grad in grads]
            return torch.stack(found).any().float()


def _numbers(grad: torch.Tensor) -> torch.Tensor:
    """Those values of a gradient that are stored."""
    if grad.layout is torch.strided:
        return grad.float() if grad.dtype.itemsize == 1 else grad  # of 8 bits, few operations are there
    return grad._values() if grad.is_sparse else grad.values()


def _by_device(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for grad in grads:
        groups.setdefault((grad.device, grad.dtype), []).append(grad)
    return list(groups.values())
