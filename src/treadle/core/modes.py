"""Modes: which modules of a model are in train mode, and which rest because they are frozen."""

from __future__ import annotations

from collections.abc import Set
from typing import Any


def set_train_mode(module: Any) -> None:
    """Train mode, but for parts that are frozen as a whole and were put in evaluation mode: their statistics stay."""
    if not module.training and _is_frozen(module):
        return
    module.training = True
    for child in module.children():
        set_train_mode(child)


def rest_where_frozen(module: Any, frozen: Set[int]) -> None:
    """Evaluation mode for every part that is frozen as a whole, where some of its parameters are among the given ones.

    Args:
        module: a ``torch.nn.Module``.
        frozen: the ``id`` of each of these parameters.
    """
    if _is_frozen(module):
        if any(id(parameter) in frozen for parameter in module.parameters()):
            module.eval()
        return
    for child in module.children():
        rest_where_frozen(child, frozen)


def _is_frozen(module: Any) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
