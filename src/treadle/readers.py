"""Readers: datasets that are gone over without training, kept from one evaluation to the next, in smaller batches where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from treadle.config.schema import Config
from treadle.data.loader import Loader
from treadle.evaluation import evaluation_loader
from treadle.failure.halving import Halving

T = TypeVar("T")
_MOST = 8
"""Data that is made anew for each evaluation must not pile up."""


class Readers:
    """The loaders of a run's evaluations.

    Args:
        config: of the run.
        device: where batches go.
        halving: makes a look again with smaller batches; None where a batch that does not fit is an error.
    """

    def __init__(self, config: Config, device: torch.device, halving: Halving | None) -> None:
        self._config, self._device, self._halving = config, device, halving
        self._known: dict[int, tuple[Any, Loader]] = {}

    def over(self, data: Any, look: Callable[[Loader], T]) -> T:
        """Call what goes over a dataset; with ``machine.micro_batch="auto"`` again, with smaller batches, where it does not fit."""
        if id(data) not in self._known:
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[id(data)] = (data, evaluation_loader(data, self._config, self._device))
        loader = self._known[id(data)][1]
        while True:
            try:
                return look(loader)
            except Exception as error:
                if self._halving is None or not self._halving.shrinks(loader, error):
                    raise
