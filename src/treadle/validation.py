"""Validation: the sets that a trainer evaluates while it trains, each under its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from treadle.core.errors import ConfigError, DataError, ObjectiveError
from treadle.core.events import Handler
from treadle.core.structure import describe
from treadle.core.weights import weight_sets, with_weights
from treadle.core.when import Duration
from treadle.metrics.group import Group, Metric
from treadle.step.objective import Objective, Supervised, as_objective


@dataclass(frozen=True)
class Evaluation:
    """A dataset with a say of its own in how it is evaluated, for ``valid=`` of `Trainer` and `train`, and `Trainer.evaluate`.

    Args:
        data: the dataset, see `treadle.data.sources`.
        metrics: objects with ``update(output, target)``, ``compute()`` and ``reset()``, by name; the trainer's unless told, none with ``{}``.
        every: how often; ``config.evaluate.every`` unless told. It is evaluated at the end of the run as well.
        objective: a loss module or ``objective(model, batch)``; the trainer's unless told.

    Raises:
        ConfigError: `every` cannot be read.

    Example:
        >>> from treadle.metrics import Accuracy
        >>> noisy = Evaluation([(0.1, 1)], metrics={"accuracy": Accuracy()}, every="2 epochs")
        >>> valid = {"clean": [(0.0, 1)], "noisy": noisy}  # logged as valid/clean/loss, valid/noisy/loss, valid/noisy/accuracy
    """

    data: Any
    metrics: Mapping[str, Metric] | None = None
    every: str | Duration | None = None
    objective: Any = None

    def __post_init__(self) -> None:
        if self.every is not None:
            Duration.parse(self.every)


@dataclass(frozen=True)
class EvaluatedSet:
    """One set, with everything that it is evaluated with.

    Args:
        name: its name; empty for the only one.
        data: the dataset.
        objective: gives the loss of a batch, and what the metrics see.
        metrics: counted for this set alone.
        every: how often; None for the end of the run only.
    """

    name: str
    data: Any
    objective: Objective
    metrics: Group
    every: str | Duration | None

    def prefix(self, *around: str) -> str:
        """What goes before the names of its values: ``valid/noisy`` of ``("valid",)``, ``valid/noisy/ema`` of ``("valid", "ema")``."""
        return "/".join(filter(None, [*around[:1], self.name, *around[1:]]))

    def handler(self, models: Callable[[], tuple[Any, Any]]) -> Handler:
        """What evaluates this set when it is due: by the weights as they are, and by every other set of weights of the run.

        Args:
            models: gives the model, or several by name, in the form in which it computes here, and as the user gave it.
        """

        def evaluates(run: Any) -> None:
            model, raw = models()
            run.log(run.evaluate(model, self.objective, self.data, self.metrics), prefix=self.prefix("valid"))
            for name, weights in weight_sets(run.events.objects).items():
                if weights.ready:
                    run.log(run.evaluate(with_weights(raw, weights), self.objective, self.data, self.metrics), prefix=self.prefix("valid", name))

        evaluates.__qualname__ = f"evaluation of {self.prefix('valid')}"
        return evaluates


def named_data(data: Any) -> dict[str, Any]:
    """The sets that somebody gave, by name; a single one has none.

    A mapping from names to tensors or arrays is one dataset, each of them a field of it. A mapping from names to anything else is several sets.

    Raises:
        DataError: a mapping has both, is empty, or a name cannot be part of a value's name.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not (data.keys() and all(isinstance(name, str) for name in data)):
        return {"": data}
    fields = [isinstance(value, (torch.Tensor, np.ndarray)) for value in data.values()]
    if all(fields):
        return {"": data}
    if any(fields):
        raise DataError(
            f"a mapping of tensors is one dataset, and a mapping of datasets is several sets; this one is both: {describe(data)}. "
            "Wrap a tensor that is a dataset by itself: treadle.Evaluation(tensor)"
        )
    for name in data:
        if not name or "/" in name or not name.isprintable():
            raise DataError(f"the set {name!r} cannot have this name: it becomes part of a value's name, as in valid/clean/loss")
    return dict(data)


def only_data(data: Any) -> Any:
    """The dataset of what somebody gave for an evaluation.

    Raises:
        DataError: there are several.
    """
    found = named_data(data)
    if len(found) != 1:
        raise DataError(f"there are several datasets ({', '.join(found)}); give one of them")
    return _data_of(next(iter(found.values())))


def splits(valid: Any) -> dict[str, Any]:
    """The validation data as splits by name: ``valid``, or ``valid/clean`` and so on."""
    return {f"valid/{name}" if name else "valid": _data_of(one) for name, one in named_data(valid).items()}


def _data_of(one: Any) -> Any:
    return one.data if isinstance(one, Evaluation) else one


def evaluated_sets(data: Any, objective: Objective, metrics: Group, every: str | None, device: torch.device) -> list[EvaluatedSet]:
    """The sets that somebody gave, each with what it is evaluated with.

    Args:
        data: a dataset, an `Evaluation`, or several of these by name.
        objective: of those that have none of their own.
        metrics: of those that have none of their own.
        every: of those that have no cadence of their own.
        device: where metrics count.

    Raises:
        DataError: see `named_data`.
        ObjectiveError: something is no objective, or no metric; the set is named.
    """
    found = []
    for name, one in named_data(data).items():
        one = one if isinstance(one, Evaluation) else Evaluation(one)
        try:
            own = objective if one.objective is None else as_objective(one.objective)
            group = metrics if one.metrics is None else Group(one.metrics, device)
        except ObjectiveError as error:
            raise ObjectiveError(f"the set {name!r}: {error}" if name else str(error)) from None
        if isinstance(own, Supervised):
            own.to(device)
        found.append(EvaluatedSet(name, one.data, own, group, one.every or every))
    return found


def check_weight_names(sets: list[EvaluatedSet], handlers: Iterable[object]) -> None:
    """Raise where two values would have the same name.

    Raises:
        ConfigError: a set of weights is named like a validation set, a metric, or another set of weights.
    """
    for name in weight_sets(handlers):
        taken = {one.name for one in sets} | {metric for one in sets for metric in [*one.metrics.names, "loss"]}
        if name in taken:
            raise ConfigError(f"the weights {name!r} have the name of a validation set or of a metric, so valid/{name} could be either; give name=")
