"""Anomaly: which module was the first to give a value that is not finite, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from treadle.core.structure import leaves

Found = Callable[[str], object]


class Anomaly:
    """Looks at every module of some models, and tells the first whose values are not finite.

    Args:
        models: by name.
        found: told in words, once for the forward pass and once for the backward pass.
    """

    def __init__(self, models: Mapping[str, nn.Module], found: Found) -> None:
        self._found, self._forward, self._backward = found, False, False
        for name, model in models.items():
            for path, module in model.named_modules():
                where = f"{name}.{path}" if path else name
                module.register_forward_hook(lambda module, inputs, output, where=where: self._see(where, module, inputs, output))
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:
                    self._watch(parameter, f"the gradient of {name}.{key}")

    def _watch(self, tensor: torch.Tensor, what: str) -> None:
        """Look at a tensor's gradient once it is there."""

        def see(grad: torch.Tensor) -> None:
            if not self._backward and not _is_finite(grad):
                self._backward = True
                self._found(f"backward: {what} is the first that is not finite: it holds {_what([grad])}")

        tensor.register_hook(see)  # type: ignore[no-untyped-call]

    def _see(self, where: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = _floating(output)
        if not self._forward and not all(map(_is_finite, tensors)):
            self._forward = True
            self._found(f"forward: {where} ({type(module).__name__}) is the first to give {_what(tensors)}; {_why(module, inputs)}")
        for tensor in tensors:
            if tensor.requires_grad:
                self._watch(tensor, f"the gradient that comes back to {where} ({type(module).__name__})")


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
