"""Gradients: scale, clip and measure them, all tensors at a time and without a host sync."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

_engine: Callable[..., object] | None = getattr(torch.autograd.graph, "_engine_run_backward", None)
_TWICE = (
    "two losses share a forward pass, or something that a step before computed is used again: make it one loss (a + b), or say "
    "step.backward(loss, retain_graph=True) for all but the last; detach() what comes from an earlier step"
)


def scale_gradients(grads: Sequence[torch.Tensor], factor: float | torch.Tensor) -> None:
    """Multiply every gradient by one number, in place."""
    for group in _by_device([_stored(grad) for grad in grads]):
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
    try:
        clip_grads_with_norm_(params, limit, norm)
    except NotImplementedError:  # one of them is sparse
        scale_gradients([param.grad for param in params if param.grad is not None], (limit / (norm + 1e-6)).clamp(max=1.0))


def norm_of(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all gradients as one vector; 0 where there is none."""
    if not grads:
        return torch.zeros(())
    try:
        return get_total_norm(grads)
    except NotImplementedError:  # one of them is sparse, and may name the same place more than once
        return get_total_norm([_stored(grad.coalesce() if grad.layout is torch.sparse_coo else grad) for grad in grads])


def backward(loss: torch.Tensor, share: float | torch.Tensor | None = None, retain_graph: bool = False) -> None:
    """Add the gradient of ``loss * share``.

    The share is where the chain rule begins, so nothing is multiplied. Of `torch.autograd.backward` only what it
    does in the end is called: what it looks for before takes a scalar loss longer than the whole of a small model.
    The tensor it begins with is new each time: a hook may write into it, and a parameter may keep it as its gradient.

    Args:
        loss: tensor of one number.
        share: its weight; None for 1.
        retain_graph: keep what the forward pass saved, for another loss.
    """
    try:
        if type(loss) is not torch.Tensor or loss.ndim or _engine is None or torch._C._are_functorch_transforms_active():
            torch.autograd.backward(loss if share is None else loss * share, retain_graph=retain_graph)
            return
        if share is None:
            root = torch.ones_like(loss)
        elif isinstance(share, torch.Tensor):
            root = share.detach().to(loss, copy=True).reshape(())
        else:
            root = torch.full((), share, dtype=loss.dtype, device=loss.device)
        _engine((loss,), (root,), retain_graph, False, (), allow_unreachable=True, accumulate_grad=True)
    except RuntimeError as error:
        if "a second time" in str(error):
            error.add_note(_TWICE)
        raise


def needs_norm(optimizer: Optimizer, clip: float | None, is_scaled: bool) -> bool:
    """Whether the gradient's norm has to be known before the update: to clip, or since the optimizer writes into the gradients."""
    needed = clip is not None
    for group in optimizer.param_groups:
        needed = needed or bool(group.get("nesterov") or (is_scaled and group.get("fused")))
    return needed


class Finiteness:
    """Whether gradients are finite: asked at once, or as a flag that stays on their device.

    Both use the kernel of the loss scalers: one pass over all of them; times one, they stay what they are.
    """

    def __init__(self) -> None:
        self._ones: dict[torch.device, torch.Tensor] = {}
        self._found, self._one = (torch.full((), value, device="cpu", dtype=torch.float32) for value in (0.0, 1.0))

    def holds(self, grads: list[torch.Tensor]) -> bool:
        """Whether all of them are finite. The host waits for the answer."""
        if not grads[0].is_cpu:
            return not self.flag(grads).item()
        try:
            torch._amp_foreach_non_finite_check_and_unscale_(grads, self._found, self._one)
        except RuntimeError:  # see below
            self._found.zero_()
            return not _scan(grads).item()
        if self._found.item():
            self._found.zero_()
            return False
        return True

    def wrong(self, grads: list[torch.Tensor], norm: torch.Tensor | None) -> str:
        """What about a gradient is not finite, in words; empty where all is. To clip, its norm has to be, too."""
        if norm is None:
            return "" if self.holds(grads) else "the gradient is not finite"
        value = norm.item()
        return "" if math.isfinite(value) else f"the norm of the gradient is {value}"

    def flag(self, grads: list[torch.Tensor]) -> torch.Tensor:
        """1.0 where any of them holds a NaN or an infinity, else 0.0: a scalar on the first one's device, without a host sync."""
        device = grads[0].device
        if device.type in ("cpu", "cuda"):
            flag = torch.zeros((), device=device, dtype=torch.float32)
            if device not in self._ones:
                self._ones[device] = torch.ones((), device=device, dtype=torch.float32)
            try:
                torch._amp_foreach_non_finite_check_and_unscale_(grads, flag, self._ones[device])
                return flag
            except RuntimeError:  # one of them is sparse, complex, expanded or on another device
                pass
        return _scan(grads)


def _scan(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([_numbers(grad).isfinite().all().logical_not().to(grads[0].device) for grad in grads]).any().float()


def _numbers(grad: torch.Tensor) -> torch.Tensor:
    """What is stored of a gradient, in a type that can be looked at."""
    stored = _stored(grad)
    return stored.float() if stored.dtype.itemsize == 1 else stored  # of 8 bits, few operations are there


def _stored(grad: torch.Tensor) -> torch.Tensor:
    """Those values of a gradient that are stored."""
    if grad.layout is torch.strided:
        return grad
    return grad._values() if grad.is_sparse else grad.values()


def _by_device(grads: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for grad in grads:
        groups.setdefault((grad.device, grad.dtype), []).append(grad)
    return list(groups.values())
