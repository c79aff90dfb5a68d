"""Several optimizers that move by one gradient: it is measured, clipped and found finite as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from treadle.step.fast import Update


class Joint:
    """How several optimizers are stepped as one: an `Update`, and for a loss scaler the optimizer of it.

    Args:
        updates: how each of them is stepped. One that has no gradient stays where it is.
    """

    def __init__(self, updates: Sequence[Update]) -> None:
        self._updates = updates
        self.optimizer: Any = self

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for update in self._updates for group in update.optimizer.param_groups]

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have a gradient, and their gradients."""
        found = [update.gradients() for update in self._updates]
        return [param for params, _ in found for param in params], [grad for _, grads in found for grad in grads]

    def step(self, params: list[Tensor] | None = None, grads: list[Tensor] | None = None) -> None:
        """Move each by its own gradients; a loss scaler gives none of them."""
        self._each(lambda update, params, grads: update.step(params, grads))

    def step_unless(self, flag: Tensor) -> None:
        """Move each where a flag is 0.0, see `Update.step_unless`."""
        self._each(lambda update, params, grads: update.step_unless(flag))

    def clear(self) -> None:
        """Leave no gradient."""
        for update in self._updates:
            update.clear()

    def _each(self, move: Callable[[Update, list[Tensor], list[Tensor]], None]) -> None:
        for update in self._updates:
            params, grads = update.gradients()
            if params:
                move(update, params, grads)
