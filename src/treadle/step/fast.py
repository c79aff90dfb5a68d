"""The optimizer's step without its wrappers: torch's operations, in torch's order, so the same bits and the same state.

Around the few operations of an update, `torch.optim` opens a profiler's range, looks for hooks, sorts tensors by device and
loops over them in Python: about half of a short step. Where nobody asked for any of that, the operations are called alone.
Everything else (another optimizer, a hook, a profiler, `fused`, bf16 weights, a sparse gradient, weights that share memory, the first
step, which makes the state) goes through the optimizer's own `step`. Of a subclass nothing is known, so it is never taken for its parent.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as wrappers

Group = dict[str, Any]
States = list[list[Tensor]]
Kernel = Callable[[Group, list[Tensor], list[Tensor], States], None]

_CACHED = 2**16
"""Elements that are taken through all operations of an update together: so many stay in a core's cache meanwhile."""


class _Bundle(NamedTuple):
    """Parameters of one group that are moved together, with what the optimizer keeps for them: a list for each name."""

    group: Group
    params: list[Tensor]
    place: slice
    states: States


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
        # What the bundles were made from: where any of it is another object now, they are made anew.
        self._made_from: list[Any] = []
        self._sizes: list[tuple[int, bool]] = []
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
        if self._kernel is None or not self._is_bare() or not _are_plain(grads) or not self._knows(params):
            try:
                self.optimizer.step()
            except TypeError as error:
                if "closure" in str(error):
                    error.add_note("this optimizer evaluates the loss by itself: give it a function, step.update(optimizer, closure=closure)")
                raise
            self.clear()
            return
        with_grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # what torch.no_grad does, without its object
        try:
            for group, some, place, states in self._bundles:
                self._kernel(group, some, grads[place], states)
        finally:
            torch._C._set_grad_enabled(with_grad)
        for param in params:
            param.grad = None

    def step_unless(self, flag: Tensor) -> None:
        """Move where a flag is 0.0: an optimizer that can, a fused one, looks at it on the device; any other moves, and the host is told later."""
        optimizer: Any = self.optimizer
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.step()
        else:
            optimizer.grad_scale, optimizer.found_inf = None, flag
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        self.clear()

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
        groups, state = self.optimizer.param_groups, self.optimizer.state
        kept = chain.from_iterable([entry.values() for entry in state.values()])
        made_from = [*params, *groups, *[group.get("betas") for group in groups], *state, *kept]
        sizes = [(len(group["params"]), bool(group.get("momentum"))) for group in groups]
        if len(made_from) != len(self._made_from) or sizes != self._sizes or not all(map(is_, made_from, self._made_from)):
            self._made_from, self._sizes = made_from, sizes
            self._bundles = self._bundled(params, groups)
        for group in groups:
            if any(map(group.get, _MORE)) or type(group["lr"]) is not float:
                return False
        return bool(self._bundles)

    def _bundled(self, params: list[Tensor], groups: list[Group]) -> list[_Bundle]:
        """All parameters, cut into bundles; none where the state of any is not there yet, or one is not plain memory of its own on the host."""
        found: list[_Bundle] = []
        held, start = set(map(id, params)), 0
        if not all(type(param) in _PLAIN and param.is_cpu and param.layout is torch.strided for param in params) or _share_memory(params):
            return []
        for group in groups:
            some = [param for param in group["params"] if id(param) in held]
            states = [[self.optimizer.state.get(param, {}).get(name) for param in some] for name in _names(group)]
            if not all(map(_is_state, chain.from_iterable(states), some * len(states))) or any(map(torch.is_tensor, group.get("betas", ()))):
                return []
            for first, last in _cuts(some):
                found.append(_Bundle(group, some[first:last], slice(start + first, start + last), [one[first:last] for one in states]))
            start += len(some)
        return found


def _sgd(group: Group, params: list[Tensor], grads: list[Tensor], states: States) -> None:
    momentum, decay = group["momentum"], group["weight_decay"]
    if decay != 0:
        grads = list(torch._foreach_add(grads, params, alpha=decay))
    if momentum != 0:
        (buffers,) = states
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - group["dampening"])
        grads = list(torch._foreach_add(grads, buffers, alpha=momentum)) if group["nesterov"] else buffers
    torch._foreach_add_(params, grads, alpha=-group["lr"])


def _adam(group: Group, params: list[Tensor], grads: list[Tensor], states: States) -> None:
    (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    averages, squares, counts = states
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
_PLAIN = (Tensor, torch.nn.Parameter)
_DTYPES = {torch.float32, torch.float64}
"""Of narrower numbers, lists of tensors and single tensors round differently."""
_TORCH = Path(torch.__file__).parent


def _names(group: Group) -> tuple[str, ...]:
    """What the state holds of each parameter."""
    if "betas" in group:
        return ("exp_avg", "exp_avg_sq", "step")
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _are_plain(grads: list[Tensor]) -> bool:
    """Whether the kernels can take these gradients; their dtype is that of their parameters, which may be another one than at the last step."""
    return {grad.layout for grad in grads} == {torch.strided} and {grad.dtype for grad in grads} <= _DTYPES


def _is_state(value: Any, param: Tensor) -> bool:
    """Whether something that an optimizer keeps for a parameter is as torch makes it."""
    return type(value) is Tensor and value.is_cpu and (value.ndim == 0 or value.dtype is param.dtype)


def _share_memory(params: list[Tensor]) -> bool:
    """Whether any two do: torch moves the second when it is done with the first, and the kernels move both at a time."""
    places = [param.untyped_storage().data_ptr() for param in params if param.numel()]
    return len(set(places)) < len(places)


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
            code = getattr(method, "__code__", None)  # a class may have any callable there
            if code is None or _TORCH not in Path(code.co_filename).parents:
                return False
            method = getattr(method, "__wrapped__", None)
    return True
