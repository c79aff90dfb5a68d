"""The usual metrics. They count on the device of the output, and nothing is fetched before `compute`.

They have torchmetrics' interface, ``update(output, target)``, ``compute()``, ``reset()``; so torchmetrics' own
objects, and any user's with these three methods, stand in the same place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from treadle.core.errors import ObjectiveError


class Accuracy:
    """Share of targets that are among the model's first `top_k` answers.

    Args:
        top_k: how many answers count.
        ignore_index: targets of this value are left out.

    Example:
        >>> accuracy = Accuracy()
        >>> accuracy.update(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        >>> accuracy.compute()
        0.5
    """

    def __init__(self, top_k: int = 1, ignore_index: int | None = None) -> None:
        if top_k < 1:
            raise ObjectiveError(f"Accuracy: top_k must be at least 1, got {top_k}")
        self._top_k, self._ignore = top_k, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything counted."""
        self._correct: Any = 0
        self._total: Any = 0

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count one batch.

        Args:
            output: scores or probabilities of shape (N, C, ...), or class numbers of the target's shape.
            target: class numbers, integers of shape (N, ...).

        Raises:
            ObjectiveError: the shapes do not fit.
        """
        hit = _hits(output.detach(), target, self._top_k)
        if self._ignore is None:
            self._total += target.numel()
        else:
            counts = target != self._ignore
            hit = hit & counts
            self._total = self._total + counts.sum()
        self._correct = self._correct + hit.sum()

    def compute(self) -> float:
        """The share, from 0 to 1; NaN where nothing was counted."""
        correct, total = float(self._correct), float(self._total)
        return correct / total if total else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """What was counted, for a checkpoint."""
        return {"correct": int(self._correct), "total": int(self._total)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._correct, self._total = state["correct"], state["total"]


class Mean:
    """Mean of a function of output and target, over all of its elements.

    Args:
        function: ``function(output, target)`` -> tensor of any shape, one element a thing to average over.

    Example:
        >>> error = Mean(lambda output, target: (output - target).abs())
        >>> error.update(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3))
        >>> error.compute()
        3.0
    """

    def __init__(self, function: Callable[[Any, Any], torch.Tensor]) -> None:
        self._function = function
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._sum: Any = 0.0
        self._count = 0

    def update(self, output: Any, target: Any) -> None:
        """Add one batch."""
        values = self._function(output, target).detach()
        wide = values.dtype if values.device.type == "mps" else torch.float64
        self._sum = self._sum + values.sum(dtype=wide)
        self._count += values.numel()

    def compute(self) -> float:
        """The mean; NaN where nothing was added."""
        return float(self._sum) / self._count if self._count else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """What was added, for a checkpoint."""
        return {"sum": float(self._sum), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._sum, self._count = state["sum"], state["count"]


class ConfusionMatrix:
    """How often each class was taken for which.

    Args:
        classes: number of classes.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        >>> matrix.compute().tolist()
        [[1, 0], [1, 0]]
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.reset()

    def reset(self) -> None:
        """Forget everything counted."""
        self._counts: torch.Tensor | None = None

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count one batch.

        Args:
            output: scores or probabilities of shape (N, C, ...), or class numbers of the target's shape.
            target: class numbers, integers of shape (N, ...).

        Raises:
            ObjectiveError: the shapes do not fit, or a class is out of range.
        """
        answer = output.detach() if output.ndim == target.ndim else _scores(output.detach(), target).argmax(1)
        for given in (target, answer) if target.device.type == "cpu" and target.numel() else ():
            for edge in (int(given.min()), int(given.max())):
                if not 0 <= edge < self._classes:
                    raise ObjectiveError(f"ConfusionMatrix({self._classes}): class {edge} is out of range")
        cells = (target.long() * self._classes + answer.long()).flatten()
        if self._counts is None:
            self._counts = torch.zeros(self._classes**2, dtype=torch.int64, device=cells.device)
        # Integer adds, so any order gives the same counts; bincount would wait for the device.
        self._counts = self._counts.to(cells.device).scatter_add(0, cells, torch.ones_like(cells))

    def compute(self) -> torch.Tensor:
        """Counts, int64 of shape (classes, classes): rows are targets, columns answers."""
        counts = torch.zeros(self._classes**2, dtype=torch.int64) if self._counts is None else self._counts.cpu()
        return counts.view(self._classes, self._classes)

    def state_dict(self) -> dict[str, Any]:
        """What was counted, for a checkpoint."""
        return {"counts": self.compute()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._counts = state["counts"].flatten()


def _hits(output: torch.Tensor, target: torch.Tensor, top_k: int) -> torch.Tensor:
    if output.ndim == target.ndim and not output.is_floating_point() and top_k == 1:
        return output == target
    scores = _scores(output, target)
    if top_k == 1:
        return scores.argmax(1) == target
    if scores.shape[1] < top_k:
        raise ObjectiveError(f"Accuracy(top_k={top_k}): the model gives only {scores.shape[1]} classes")
    return (scores.topk(top_k, 1).indices == target.unsqueeze(1)).any(1)


def _scores(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if output.ndim != target.ndim + 1 or output.shape[:1] + output.shape[2:] != target.shape:
        mixed = target.shape == output.shape and target.is_floating_point()
        raise ObjectiveError(
            "a classification metric needs scores of shape (N, C, ...) and class numbers of shape (N, ...), or class numbers of the "
            f"same shape twice; got output {list(output.shape)} and target {list(target.shape)}"
            + ("; these are shares of classes: where only training has them, as with mixup, say log.train_metrics=False" if mixed else "")
        )
    return output
