"""The objective: from a model and a batch to a loss.

An objective is any callable ``objective(model, batch) -> Tensor | Outcome``. A loss module stands for
``supervised(loss)``; None stands for a model that computes its own loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import nn

from treadle.core.errors import ObjectiveError, did_you_mean
from treadle.core.structure import describe

Objective = Callable[..., Any]
Count = int | float | torch.Tensor
T = TypeVar("T")

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_CLASSIFYING = (nn.CrossEntropyLoss, nn.NLLLoss)


@dataclass(slots=True)
class Outcome:
    """What an objective found out about one batch.

    Args:
        loss: scalar tensor, a mean over `count` things.
        output: what the metrics see as the model's answer.
        target: what the metrics compare it with.
        count: how many things the loss is a mean over, where these are not the samples: tokens, pixels. A number,
            or a scalar tensor (which stays on its device).
        logs: further scalars to log, each averaged like the loss.

    Example:
        >>> Outcome(torch.tensor(0.5), count=3).count
        3
    """

    loss: torch.Tensor
    output: Any = None
    target: Any = None
    count: Count | None = None
    logs: Mapping[str, Any] = field(default_factory=dict)


class Supervised:
    """See `supervised`."""

    def __init__(self, loss: Callable[[Any, Any], torch.Tensor], input: str, target: str) -> None:
        if getattr(loss, "reduction", "mean") not in ("mean", "batchmean"):
            raise ObjectiveError(
                f"{type(loss).__name__}(reduction={loss.reduction!r}): Treadle weights means by their counts, so that uneven "  # type: ignore[attr-defined]
                "batches come out exact; use reduction='mean'"
            )
        self.loss, self._input, self._target = loss, input, target
        self._counts = _averaging(loss) is not None
        self._takes_tensors = type(loss).__module__ == "torch.nn.modules.loss"

    def __call__(self, model: nn.Module, batch: Any) -> Outcome:
        """The loss of one batch, with the model's output for the metrics."""
        input, target = self.unpack(batch)
        return self.outcome(model(input), target)

    def outcome(self, output: Any, target: Any) -> Outcome:
        """The loss of an output that is there already."""
        if type(output) is not torch.Tensor and self._takes_tensors:
            self._check_output(output)
        return Outcome(self.loss(output, target), output, target, _mean_count(self.loss, target) if self._counts else None)

    def _check_output(self, output: Any) -> None:
        if isinstance(output, torch.Tensor):  # of a kind of its own
            return
        name = type(self.loss).__name__
        raise ObjectiveError(
            f"{name} takes one tensor, and the model returns {describe(output)}; write an objective that takes the right one of it: "
            f"def objective(model, batch): x, y = batch; output = model(x)...; return treadle.Outcome({name}()(output, y), output, y)"
        )

    def to(self, device: torch.device) -> None:
        """Put the loss's own tensors, such as class weights, on a device."""
        if isinstance(self.loss, nn.Module):
            self.loss.to(device)

    def unpack(self, batch: Any) -> tuple[Any, Any]:
        """Input and target of a batch.

        Raises:
            ObjectiveError: the batch is no pair, or has no such fields.
        """
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return batch[0], batch[1]
        if isinstance(batch, Mapping):
            return self._field(batch, self._input), self._field(batch, self._target)
        raise ObjectiveError(
            f"a loss module needs batches of (input, target), this one is {describe(batch)}; write an objective: "
            "def objective(model, batch): ... return treadle.Outcome(loss, output, target)"
        )

    def input_of(self, batch: Any) -> Any:
        """The model's input in a batch that need not have a target."""
        if isinstance(batch, Mapping):
            return self._field(batch, self._input)
        return batch[0] if isinstance(batch, (tuple, list)) else batch

    @staticmethod
    def _field(batch: Mapping[str, Any], name: str) -> Any:
        if name not in batch:
            raise ObjectiveError(
                f"the batch has no field {name!r}{did_you_mean(name, map(str, batch))}; name its fields: "
                "treadle.supervised(loss, input=..., target=...)"
            )
        return batch[name]


def supervised(loss: Callable[[Any, Any], torch.Tensor], input: str = "input", target: str = "target") -> Supervised:
    """The objective of a loss between the model's output and a target.

    Args:
        loss: ``loss(output, target)`` -> scalar mean, such as ``nn.CrossEntropyLoss()``.
        input: name of the model's input, where batches are dicts.
        target: name of the target, where batches are dicts.

    Returns:
        an objective for batches ``(input, target)`` or dicts. With cross-entropy the mean is over the targets that
        count: `ignore_index` and class weights are honoured.

    Raises:
        ObjectiveError: the loss does not average.

    Example:
        >>> objective = supervised(nn.MSELoss(), input="x", target="y")
        >>> float(objective(nn.Identity(), {"x": torch.ones(2), "y": torch.ones(2)}).loss)
        0.0
    """
    return Supervised(loss, input, target)


def own_loss(model: nn.Module, batch: Any) -> Any:
    """The objective of a model that computes its own loss: ``model(**batch).loss``."""
    if isinstance(model, Mapping):
        raise ObjectiveError("several models have no loss of their own; give an objective(models, batch), also for the validation data")
    try:
        return model(**batch) if isinstance(batch, Mapping) else model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    except TypeError as error:
        error.add_note("without an objective the model is called with the whole batch, and must return an object with .loss")
        raise


def as_objective(given: Any) -> Objective:
    """An objective from what the user gave: None, a loss module, or any callable.

    Raises:
        ObjectiveError: it is none of these.
    """
    if given is None:
        return own_loss
    if isinstance(given, nn.Module):
        return supervised(given)
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise ObjectiveError(f"objective must be a loss module or a callable objective(model, batch), got {given!r}")


def as_outcome(result: Any, batch: Any) -> Outcome:
    """An outcome from what an objective returned: a tensor, an `Outcome`, or an object with ``.loss``.

    Raises:
        ObjectiveError: there is no loss in it.
    """
    if isinstance(result, Outcome):
        return result
    if isinstance(result, torch.Tensor):
        return Outcome(result)
    found = {name: result.get(name) if isinstance(result, Mapping) else getattr(result, name, None) for name in ("loss", "logits")}
    loss = found["loss"]
    if not isinstance(loss, torch.Tensor):
        raise ObjectiveError(
            f"the objective returned {describe(result)} without a loss; return a scalar tensor, treadle.Outcome(loss, ...), or an object with .loss"
        )
    target = batch.get("labels") if isinstance(batch, Mapping) else None
    return Outcome(loss, found["logits"], target)


def keywords(function: Callable[..., Any], after: int = 2) -> set[str] | None:
    """Names of the keywords that an objective takes beside model and batch, or a step after its three; None where it takes any."""
    found = _keywords(function, after)
    return None if any(p.kind is p.VAR_KEYWORD for p in found) else {p.name for p in found}


def required(function: Callable[..., Any], after: int = 2) -> set[str]:
    """Those of them that have no default."""
    return {p.name for p in _keywords(function, after) if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _keywords(function: Callable[..., Any], after: int) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some callables of C have no signature
        return []
    return [
        p for place, p in enumerate(parameters) if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) or (place >= after and p.kind is not p.VAR_POSITIONAL)
    ]


def with_values(step: Callable[..., object], names: Iterable[str]) -> Callable[[Any, Any, Any], object]:
    """An own body of the loop that gets those schedule values which it takes as keywords; itself, where it takes none."""
    taken = keywords(step, after=3)
    chosen = [name for name in names if taken is None or name in taken]
    if not chosen:
        return step

    @wraps(step)
    def body(here: Any, model: Any, optimizer: Any) -> object:
        return step(here, model, optimizer, **{name: here.values[name] for name in chosen})

    return body


def accepted(objective: Objective, values: Mapping[str, T]) -> dict[str, T]:
    """Those of some values, or schedules, that an objective takes as keywords."""
    taken = keywords(objective) if values else set()
    return {name: value for name, value in values.items() if taken is None or name in taken}


# --- what can be seen to be wrong before any time is spent ---


def check_loss(loss: torch.Tensor, trains: bool, where: str = "") -> None:
    """Raise where a loss cannot be meant.

    Args:
        loss: what the objective gave.
        trains: whether a gradient is wanted.
        where: begins the message of an error.

    Raises:
        ObjectiveError: the loss is no scalar, or has no gradient.
    """
    if not isinstance(loss, torch.Tensor):
        raise ObjectiveError(f"{where}the loss must be a tensor of one number, got {loss!r}")
    if loss.numel() != 1:
        raise ObjectiveError(f"{where}the loss must be one number, the mean over the batch; got the shape {list(loss.shape)}")
    if loss.is_complex():
        raise ObjectiveError(f"{where}the loss is a complex number, which has no smallest; take a real one of it, such as loss.abs()")
    if trains and not loss.requires_grad:
        raise ObjectiveError(
            f"{where}the loss has no gradient: it is detached from the model's parameters, or all of them are frozen (requires_grad=False)"
        )


def check_pair(loss: Any, output: Any, target: Any) -> None:
    """Raise where a loss would take output and target for something else than they are.

    Raises:
        ObjectiveError: the shapes would be broadcast, or a target is no class of this output.
    """
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return
    if isinstance(loss, _ELEMENTWISE) and output.shape != target.shape:
        raise ObjectiveError(
            f"{type(loss).__name__}: the output has the shape {list(output.shape)}, the target {list(target.shape)}; torch would "
            "broadcast one against the other without a word and train nonsense. Make them equal, for example with output.squeeze(1)"
        )
    check_classes(loss, output, target)


def check_classes(loss: Any, output: torch.Tensor, target: torch.Tensor) -> None:
    """Raise where any of many targets is no class of this output."""
    if not isinstance(loss, _CLASSIFYING):
        return
    if output.ndim < 1 or (target.is_floating_point() and (target.shape == output.shape or target.shape[1:] == output.shape[1:] != ())):
        return  # class probabilities, of this batch or of all data
    name, classes = type(loss).__name__, output.shape[1] if output.ndim > 1 else output.shape[0]
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ObjectiveError(
            f"{name}: targets are {str(target.dtype).removeprefix('torch.')} of shape {list(target.shape)}; class numbers must be int64 "
            f"in 0..{classes - 1} (target.long()), class probabilities float of the output's shape {list(output.shape)}"
        )
    counted = target[target != loss.ignore_index]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= classes):
        wrong = sorted({int(v) for v in counted[(counted < 0) | (counted >= classes)].flatten()[:1000]})[:5]
        raise ObjectiveError(
            f"{name}: the model gives {classes} classes, so labels must be in 0..{classes - 1}; the data has {', '.join(map(str, wrong))}"
        )


def _mean_count(loss: Any, target: Any) -> Count | None:
    """What a known loss averages over, where that is not simply the samples."""
    if not isinstance(target, torch.Tensor) or target.is_floating_point() or (how := _averaging(loss)) is None:
        return None
    ignored, weight = how
    counted = target != ignored
    if weight is None:
        return counted.sum()
    return (weight[target.clamp(min=0, max=len(weight) - 1)] * counted).sum()


def _averaging(loss: Any) -> tuple[int, torch.Tensor | None] | None:
    """The label that a known loss leaves out, and its class weights; of a module, a function of torch's, or a partial of one."""
    if isinstance(loss, _CLASSIFYING):
        return loss.ignore_index, loss.weight
    given = loss.keywords if isinstance(loss, partial) else {}
    if (loss.func if isinstance(loss, partial) else loss) in (nn.functional.cross_entropy, nn.functional.nll_loss):
        return given.get("ignore_index", -100), given.get("weight")
    return None
