"""Modules: how long each takes forward and backward, and what it saves for backward.

The forward pass is told by the calls of modules, wrapped from outside: a hook would begin only after torch's own way to it,
and that would be time of the caller. The backward pass is told by the nodes of the autograd graph: each node belongs to the
innermost module that was running when it was made, and says when it begins and ends. Nothing is put into the graph, so
operations in place, and modules that share tensors, work as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.autograd.graph import Node, saved_tensors_hooks

from treadle.core.structure import leaves
from treadle.profile.memory import Tensors
from treadle.profile.phases import BACKWARD, Clock, spans, totals
from treadle.profile.times import Stamp, Times

OUTSIDE = ""
"""Owner of what no module does: the loss, what the body of the step does by itself, and the watching."""
_COLLECTS = "AccumulateGrad"


class Modules:
    """Watches the modules of a run.

    Args:
        models: by name; of a single one the modules are named from its root.
        now: gives stamps.
        active: whether a forward pass is one of training, now.
    """

    def __init__(self, models: Mapping[str, nn.Module], now: Callable[[], Stamp], active: Callable[[], bool]) -> None:
        self.named = named_modules(models)
        self.forward = Clock(now, base=OUTSIDE)
        self.backward: list[tuple[str, Stamp, Stamp]] = []
        """Owner of a node, and the stamps of when it began and ended."""
        self.saved = Tensors({p.untyped_storage().data_ptr() for model in models.values() for p in [*model.parameters(), *model.buffers()]})
        self._now, self._active = now, active
        self._owners: dict[Node, str] = {}
        self._stack = ExitStack()

    @property
    def saw(self) -> bool:
        """Whether any module told of itself."""
        return len(self.forward.marks) > 2  # besides beginning and end

    def open(self) -> None:
        """Begin to watch."""
        if self.named:
            self._stack.enter_context(patch.object(nn.Module, "__call__", self._watched(nn.Module.__call__)))
        self._stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
        self.forward.start()

    def close(self) -> None:
        """End, and leave everything as it was."""
        self.forward.stop()
        self._owners.clear()
        self._stack.close()

    def changed(self, before: str, after: str) -> None:
        """The phase changes: a backward pass lets go of its graph and of what was saved for it."""
        if after == BACKWARD:
            self.saved.settle()
        elif before == BACKWARD:
            self._owners.clear()

    def seconds(self, times: Times) -> tuple[dict[str, float], dict[str, float]]:
        """Each module's own time forward and backward, without that of the modules in it and that of the watching."""
        moments = times.seconds([stamp for _, stamp in self.forward.marks])
        forward = totals(spans([(name, at) for (name, _), at in zip(self.forward.marks, moments, strict=True)]))
        moments = times.seconds([stamp for _, start, end in self.backward for stamp in (start, end)])
        backward: dict[str, float] = {}
        for (name, _, _), start, end in zip(self.backward, moments[::2], moments[1::2], strict=True):
            backward[name] = backward.get(name, 0.0) + end - start
        forward.pop(OUTSIDE, None)
        return forward, backward

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call of any module; while it is watched, no module's time runs, so that what this takes is nobody's."""
        names, here = {id(module): name for name, module in self.named.items()}, threading.get_ident()
        enter, leave = self.forward.enter, self.forward.leave

        @wraps(call)
        def watched(module: nn.Module, *arguments: Any, **more: Any) -> Any:
            name = names.get(id(module))
            if name is None or not self._active() or threading.get_ident() != here:
                return call(module, *arguments, **more)
            caller = self.forward.top
            enter(OUTSIDE)
            try:
                self._own((arguments, more), caller)  # what has no owner yet was made by the caller
                enter(name)
                try:
                    output = call(module, *arguments, **more)
                finally:
                    leave()
                self._own(output, name)
                return output
            finally:
                leave()

        return watched

    def _own(self, value: Any, owner: str) -> None:
        """Give every node to an owner that leads to a value and has none."""
        waiting = [leaf.grad_fn for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._owners:
                continue
            self._owners[node] = owner
            if node.name().endswith(_COLLECTS):  # it lives as long as its parameter
                continue
            self._time(node, owner)
            waiting += [following for following, _ in node.next_functions]

    def _time(self, node: Node, owner: str) -> None:
        began: list[Stamp] = []
        node.register_prehook(lambda _: began.append(self._now()))
        node.register_hook(lambda *_: self.backward.append((owner, began.pop(), self._now())))

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._active():
            owner = self.forward.top
            self.forward.enter(OUTSIDE)
            self.saved.add(tensor, owner)
            self.forward.leave()
        return tensor


def named_modules(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Every module once, by the name that its author would use.

    Example:
        >>> list(named_modules({"model": nn.Sequential(nn.ReLU())})), list(named_modules({"G": nn.ReLU(), "D": nn.ReLU()}))
        (['Sequential', '0'], ['G', 'D'])
    """
    found: dict[str, nn.Module] = {}
    for key, model in models.items():
        for name, module in model.named_modules():
            prefix = "" if len(models) == 1 else key
            found[".".join(filter(None, (prefix, name))) or type(model).__name__] = module
    return found
