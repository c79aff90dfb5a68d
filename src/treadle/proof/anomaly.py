"""Anomaly: which module was the first to give a value that is not finite, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from treadle.core.structure import leaves

Found = Callable[[str], object]


@dataclass
class _Way:
    """A tensor between modules, kept so that no other one gets its number."""

    tensor: torch.Tensor
    giver: str = ""
    takers: dict[str, str] = field(default_factory=dict)


class Anomaly:
    """Looks at every module of some models, and tells the first whose values are not finite.

    Args:
        models: by name.
        found: told in words, once for the forward pass and once for the backward pass.
    """

    def __init__(self, models: Mapping[str, nn.Module], found: Found) -> None:
        self._found, self._forward, self._backward = found, False, False
        self._ways: dict[int, _Way] = {}
        for name, model in models.items():
            for path, module in model.named_modules():
                where = f"{name}.{path}" if path else name
                module.register_forward_hook(lambda module, inputs, output, where=where: self._see(where, module, inputs, output))
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:
                    words = f"the gradient of {name}.{key} is the first that is not finite: it holds"
                    parameter.register_hook(lambda grad, words=words: self._back(grad, lambda: words))  # type: ignore[no-untyped-call]

    def _see(self, where: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has given something; those in it have been seen before."""
        tensors, name = _floating(output), f"{where} ({type(module).__name__})"
        if not self._forward and not all(map(_is_finite, tensors)):
            self._forward = True
            self._found(f"forward: {name} is the first to give {_what(tensors)}; {_why(module, inputs)}")
        for tensor in _floating(inputs):
            way = self._way(tensor)
            if way is not None and not any(inner.startswith(f"{where}.") for inner in way.takers):
                way.takers[where] = name
        for tensor in tensors:
            way = self._way(tensor)
            if way is not None and not way.giver:
                way.giver = name

    def _way(self, tensor: torch.Tensor) -> _Way | None:
        """What is known of a tensor; None where nothing comes back to it."""
        if not tensor.requires_grad:
            return None
        if (way := self._ways.get(id(tensor))) is None:
            way = self._ways[id(tensor)] = _Way(tensor)
            tensor.register_hook(lambda grad: self._back(grad, lambda: _came_from(way)))  # type: ignore[no-untyped-call]
        return way

    def _back(self, grad: torch.Tensor, words: Callable[[], str]) -> None:
        """A gradient has come."""
        if not self._backward and not _is_finite(grad):
            self._backward = True
            self._found(f"backward: {words()} {_what([grad])}")


def _came_from(way: _Way) -> str:
    """Who gave a gradient back: the modules that took the tensor, or what was computed with it outside of any."""
    if way.takers:
        return f"{' or '.join(way.takers.values())} is the first to give back, to its input,"
    return f"what is computed with the output of {way.giver}, outside of a module of its own, is the first to give back"


def _why(module: nn.Module, inputs: Any) -> str:
    wrong = [name for name, value in module.named_parameters(recurse=False) if not _is_finite(value)]
    wrong += [name for name, value in module.named_buffers(recurse=False) if value.is_floating_point() and not _is_finite(value)]
    if wrong:
        return f"its {', '.join(wrong)} held such values"
    tensors = _floating(inputs)
    if not all(map(_is_finite, tensors)):
        return f"its input held {_what(tensors)} already"
    largest = max((float(tensor.abs().max()) for tensor in tensors if tensor.numel()), default=0.0)
    return f"its input was finite, the largest {largest:.3g}"


def _floating(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())]


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _what(tensors: list[torch.Tensor]) -> str:
    nan = any(bool(tensor.detach().isnan().any()) for tensor in tensors)
    return "NaN" if nan else "infinity"
