"""Prepared: the models and optimizers of a run that were put on its device, and what has to be so before they train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from treadle.core.errors import UsageError
from treadle.core.modes import set_train_mode
from treadle.system.averaged import begin_training
from treadle.system.shares import check_apart
from treadle.system.wrap import unwrapped


class Prepared:
    """All that `Run.prepare` was given."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def add(self, model: Any, optimizer: Any, shared: bool) -> list[Optimizer]:
        """Take in what is ready.

        Args:
            model: one, or several by name.
            optimizer: one, or several by name.
            shared: whether parameters may belong to another optimizer, too.

        Returns:
            the optimizers.

        Raises:
            ConfigError: two optimizers move the same parameters.
        """
        models, optimizers = [*map(unwrapped, _values(model))], _values(optimizer)
        if not shared:
            check_apart(self._items, optimizers, models)
        self._items += [*models, *optimizers]
        return optimizers

    def check_tracked(self, tracked: Iterable[object]) -> None:
        """Raise where something would not survive.

        Raises:
            UsageError: it is not tracked.
        """
        known = set(map(id, tracked))
        if lost := [type(item).__name__ for item in self._items if id(item) not in known]:
            raise UsageError(
                f"prepared but not tracked, so it would not survive: {', '.join(lost)}; call run.track(model=model, optimizer=optimizer)"
            )

    def begin(self) -> None:
        """Put all into train mode: models, and optimizers that have such a mode."""
        for item in self._items:
            if isinstance(item, nn.Module):
                set_train_mode(item)
        begin_training(self._items)


def _values(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, Mapping) else [item]
