"""Means of additive values: kept as (sum, count), on the device until somebody wants to know."""

from __future__ import annotations

import math
from typing import Any

import torch

from treadle.core.errors import NonFiniteLoss
from treadle.system.transfer import to_host

_KEPT = 4096
"""Values that may wait on the device before they are fetched without being asked for: a bound on memory."""

Sums = dict[str, list[float]]


class Means:
    """Running weighted means over two spans at once: since the last log row, and since the epoch began.

    Values are added one after another in double precision, in the order in which they came, so a mean does not
    depend on when it was fetched.

    Args:
        guard: raise where a loss is not finite; else report it as it is.

    Example:
        >>> means = Means()
        >>> means.add("loss", 1.0, 3); means.add("loss", 5.0, 1)
        >>> means.window()
        {'loss': 2.0}
    """

    def __init__(self, guard: bool = True) -> None:
        self._guard = guard
        self._waiting: list[tuple[str, Any, Any, bool]] = []
        self._doubts: list[tuple[int, torch.Tensor]] = []
        self._window: Sums = {}
        self._epoch: Sums = {}
        self.last = math.nan
        """The newest fetched loss."""

    def add(self, name: str, value: Any, weight: Any, counted: bool = True) -> None:
        """Add a mean over `weight` things.

        Args:
            name: what it is called.
            value: number or scalar tensor.
            weight: number or scalar tensor.
            counted: whether the things count, or were counted already under this name.
        """
        if not self._waiting and type(value) is float and type(weight) is not torch.Tensor:  # on the host already
            self._take(name, value, weight, counted)
            return
        # A copy of its own: what waits may be changed in place before it is fetched.
        kept = value.detach().clone() if isinstance(value, torch.Tensor) else value
        self._waiting.append((name, kept, weight, counted))
        if len(self._waiting) >= _KEPT:
            self.fetch()

    def doubt(self, step: int, flag: torch.Tensor) -> None:
        """Remember a flag that says whether a step's gradient was not finite, until the next fetch; nobody may change it."""
        self._doubts.append((step, flag))
        if len(self._doubts) >= _KEPT:
            self.fetch()

    def fetch(self) -> None:
        """Bring what waits on the device to the host, in one copy.

        Raises:
            NonFiniteLoss: one of the losses was NaN or infinite.
        """
        waiting, self._waiting, doubts, self._doubts = self._waiting, [], self._doubts, []
        numbers = to_host([*(number for _, value, weight, _ in waiting for number in (value, weight)), *(flag for _, flag in doubts)])
        for place, (name, _, _, counted) in enumerate(waiting):
            self._take(name, numbers[2 * place], numbers[2 * place + 1], counted)
        for (step, _), flag in zip(doubts, numbers[2 * len(waiting) :], strict=True):
            if flag:
                raise NonFiniteLoss(
                    f"the gradient of step {step} was not finite, as was seen when values were next fetched; no checkpoint was saved since"
                )

    def _take(self, name: str, value: float, weight: float, counted: bool) -> None:
        """Add a number to both spans."""
        if weight == 0:
            return
        product = value * weight
        for sums in (self._window, self._epoch):
            total = sums.get(name)
            if total is None:
                total = sums[name] = [0.0, 0.0]
            total[0] += product
            if counted:
                total[1] += weight
        if name == "loss":
            self.last = value
            if self._guard and not math.isfinite(value):
                raise NonFiniteLoss(f"the loss became {value} since the last logged step; no checkpoint was saved since")

    def window(self) -> dict[str, float]:
        """The means since the last call, by name."""
        self.fetch()
        means, self._window = _divided(self._window), {}
        return means

    def epoch(self) -> dict[str, float]:
        """The means since the last call, by name: over the whole epoch where it is called once an epoch."""
        self.fetch()
        means, self._epoch = _divided(self._epoch), {}
        return means

    def kept(self) -> Any:
        """How both spans are, without a fetch, for `put_back`."""
        spans = ({name: list(total) for name, total in sums.items()} for sums in (self._window, self._epoch))
        return list(self._waiting), list(self._doubts), *spans

    def put_back(self, kept: Any) -> None:
        """Forget what was added since `kept` gave this."""
        self._waiting, self._doubts, self._window, self._epoch = kept

    def state_dict(self) -> dict[str, Any]:
        """Both spans, for a checkpoint."""
        self.fetch()
        return {"window": {k: list(v) for k, v in self._window.items()}, "epoch": {k: list(v) for k, v in self._epoch.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._waiting, self._doubts = [], []
        self._window, self._epoch = dict(state["window"]), dict(state["epoch"])


def _divided(sums: Sums) -> dict[str, float]:
    return {name: total / weight for name, (total, weight) in sums.items() if weight}
