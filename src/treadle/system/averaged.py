"""Optimizers that train at other weights than those to use, such as schedule-free ones: they switch by their own ``train()`` and ``eval()``.

Weights are those of training while a run trains, and those to use wherever somebody looks at the model: in evaluations, in
predictions, in the weights of a checkpoint, and when the run is over. Going there and back would round, so weights are put back from copies.

Source:
    Defazio et al., The Road Less Scheduled, https://arxiv.org/abs/2405.15682: gradients are taken at y, x is the average to use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer

_TRAINING: WeakSet[Optimizer] = WeakSet()
"""Those that stand at the weights of training. An optimizer does not say where it is."""


def begin_training(optimizers: Iterable[Any]) -> None:
    """Bring those that switch to the weights of training."""
    for optimizer in optimizers:
        if isinstance(optimizer, Optimizer) and all(callable(getattr(optimizer, name, None)) for name in ("train", "eval")):
            optimizer.train()  # type: ignore[attr-defined]
            _TRAINING.add(optimizer)


def end_training(optimizers: Iterable[Any]) -> None:
    """Bring them to the weights to use, and leave them there."""
    for optimizer in optimizers:
        if isinstance(optimizer, Optimizer) and optimizer in _TRAINING:
            optimizer.eval()  # type: ignore[attr-defined]
            _TRAINING.discard(optimizer)


@contextmanager
def weights_to_use(models: Iterable[nn.Module]) -> Iterator[bool]:
    """Give models the weights to use for a while; then each has the bits that it had.

    Yields:
        whether any of them has others.
    """
    found = _moving(models) if _TRAINING else []
    kept = [(param, param.detach().clone()) for optimizer in found for group in optimizer.param_groups for param in group["params"]]
    for optimizer in found:
        optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield bool(found)
    finally:
        for optimizer in found:
            optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for param, value in kept:
                param.copy_(value)


def _moving(models: Iterable[nn.Module]) -> list[Optimizer]:
    """Those in training that move a parameter of any of some models."""
    ids = {id(param) for model in models for param in model.parameters()}
    return [optimizer for optimizer in _TRAINING if any(id(param) in ids for group in optimizer.param_groups for param in group["params"])]
