"""The optimizer's step without its wrappers: torch's operations, in torch's order, so the same bits and the same state.

Around the few operations of an update, `torch.optim` opens a profiler's range, looks for hooks, sorts tensors by device and
loops over them in Python: about half of a short step. Where nobody asked for any of that, the operations are called alone.
Everything else (another optimizer, a hook, a profiler, `fused`, bf16 weights, a sparse gradient, the first step, which makes the state)
goes through the optimizer's own `step`. Of a subclass nothing is known, so it is never taken for its parent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as wrappers

Group = dict[str, Any]
Entries = list[dict[str, Any]]
Kernel = Callable[[Group, list[Tensor], list[Tensor], Entries], None]

_CACHED = 2**16
"""Elements that are taken through all operations of an update together: so many stay in a core's cache meanwhile."""


class _Bundle(NamedTuple):
    """Parameters of one group that are moved together, with what the optimizer keeps for each."""

    group: Group
    params: list[Tensor]
    place: slice
    entries: Entries


class Update:
    """How one optimizer is stepped, and its gradients read and cleared.

    Args:
        optimizer: any.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        kind = type(optimizer)
        self._kernel = _KERNELS.get(kind) if _is_torchs_own(kind) else None
        self._step, self._zero_grad = kind.step, kind.zero_grad
        # What the bundles were made from: where one of the objects is another one now, they are made anew.
        self._key: list[int] = []
        self._held: Any = None  # so that no other object gets the name of one of them
        self._bundles: list[_Bundle] = []

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have a gradient, and their gradients."""
        params = [param for group in self.optimizer.param_groups for param in group["params"] if param.grad is not None]
        return params, [param.grad for param in params]

    def step(self, params: list[Tensor], grads: list[Tensor]) -> None:
        """Move parameters, and leave none of the optimizer's with a gradient.

        Args:
            params: those that `gradients` gave.
            grads: their gradients.
        """
        if self._kernel is None or not self._is_bare() or not self._knows(params) or {grad.layout for grad in grads} != _DENSE:
            self.optimizer.step()
            self.clear()
            return
        with_grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # what torch.no_grad does, without its object
        try:
            for group, some, place, entries in self._bundles:
                self._kernel(group, some, grads[place], entries)
        finally:
            torch._C._set_grad_enabled(with_grad)
        for param in params:
            param.grad = None

    def clear(self) -> None:
        """Leave no gradient."""
        self.optimizer.zero_grad(set_to_none=True)

    def _is_bare(self) -> bool:
        """Whether nobody would notice that the wrappers are left out."""
        optimizer, kind = self.optimizer, type(self.optimizer)
        return not (
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or wrappers._global_optimizer_pre_hooks
            or wrappers._global_optimizer_post_hooks
            or "step" in optimizer.__dict__  # a learning rate scheduler of torch's counts its calls
            or "zero_grad" in optimizer.__dict__
            or kind.step is not self._step
            or kind.zero_grad is not self._zero_grad
            or torch._C._autograd._profiler_enabled()
        )

    def _knows(self, params: list[Tensor]) -> bool:
        """Whether the kernels can move these parameters: their state is there, and nothing is asked for that they do not do."""
        groups, entries = self.optimizer.param_groups, self.optimizer.state.values()
        key = [*map(id, params), *map(id, groups), *map(id, entries)]
        if key != self._key:
            self._key, self._held = key, (params, list(groups), list(entries))
            self._bundles = self._bundled(params, groups)
        for group in groups:
            if any(map(group.get, _MORE)) or type(group["lr"]) is not float:
                return False
        return bool(self._bundles)

    def _bundled(self, params: list[Tensor], groups: list[Group]) -> list[_Bundle]:
        """All parameters, cut into bundles; none where the state of any is not there yet, or one is not plain memory of the host."""
        found: list[_Bundle] = []
        held, start = set(map(id, params)), 0
        if not all(param.is_cpu and param.layout is torch.strided and param.dtype in _DTYPES for param in params):
            return []
        for group in groups:
            names, some = _names(group), [param for param in group["params"] if id(param) in held]
            entries = [self.optimizer.state.get(param, {}) if names else {} for param in some]
            if any(entry.get(name) is None for entry in entries for name in names):
                return []
            for first, last in _cuts(some):
                found.append(_Bundle(group, some[first:last], slice(start + first, start + last), entries[first:last]))
            start += len(some)
        return found


def _sgd(group: Group, params: list[Tensor], grads: list[Tensor], entries: Entries) -> None:
    momentum, decay = group["momentum"], group["weight_decay"]
    if decay != 0:
        grads = list(torch._foreach_add(grads, params, alpha=decay))
    if momentum != 0:
        buffers = [entry["momentum_buffer"] for entry in entries]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - group["dampening"])
        grads = list(torch._foreach_add(grads, buffers, alpha=momentum)) if group["nesterov"] else buffers
    torch._foreach_add_(params, grads, alpha=-group["lr"])


def _adam(group: Group, params: list[Tensor], grads: list[Tensor], entries: Entries) -> None:
    (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    averages, squares = [entry["exp_avg"] for entry in entries], [entry["exp_avg_sq"] for entry in entries]
    counts = [entry["step"] for entry in entries]
    torch._foreach_add_(counts, 1)
    if decay != 0:
        if group["decoupled_weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * decay)
        else:
            grads = list(torch._foreach_add(grads, params, alpha=decay))
    torch._foreach_lerp_(averages, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    done = [count.item() for count in counts]
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [(1 - beta2**steps) ** 0.5 for steps in done])
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(params, averages, roots, [-(lr / (1 - beta1**steps)) for steps in done])


_KERNELS: dict[type[Optimizer], Kernel] = {SGD: _sgd, Adam: _adam, AdamW: _adam}
_MORE = ("maximize", "amsgrad", "fused", "capturable", "differentiable")
"""Options of a group that the kernels do not know; `foreach` is what they are."""
_DENSE = {torch.strided}
_DTYPES = (torch.float32, torch.float64)
"""Of narrower numbers, lists of tensors and single tensors round differently."""
_TORCH = Path(torch.__file__).parent


def _names(group: Group) -> tuple[str, ...]:
    """What the state holds of each parameter."""
    if "betas" in group:
        return ("step", "exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _cuts(params: list[Tensor]) -> list[tuple[int, int]]:
    """First and last place, exclusive, of each run of parameters that stays in the cache together."""
    cuts, start, size = [], 0, 0
    for place, param in enumerate(params):
        if size and size + param.numel() > _CACHED:
            cuts.append((start, place))
            start, size = place, 0
        size += param.numel()
    return [*cuts, (start, len(params))] if params else []


def _is_torchs_own(kind: type[Optimizer]) -> bool:
    """Whether `step` and `zero_grad` are as torch made them, and nobody put theirs in their place."""
    method: Any
    for method in (kind.step, kind.zero_grad):
        while method is not None:
            if _TORCH not in Path(method.__code__.co_filename).parents:
                return False
            method = getattr(method, "__wrapped__", None)
    return True
