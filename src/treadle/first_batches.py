"""First batches: one of each kind goes through everything once, before anything is updated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from treadle.core.errors import ObjectiveError
from treadle.core.structure import leaves
from treadle.data.loader import Loader
from treadle.evaluation import as_found, feed
from treadle.metrics.group import Group
from treadle.readers import Readers
from treadle.step.objective import Objective, Outcome, Supervised, accepted, as_outcome, check_classes, check_loss, check_pair
from treadle.system.precision import Precision
from treadle.validation import EvaluatedSet


class FirstBatches:
    """Looks at the first batch of each kind, and leaves everything as it was found.

    Args:
        model: one, or several by name, in the form in which it computes.
        precision: the number format of the forward pass.
        values: the schedules' values of the first step.
    """

    def __init__(self, model: Any, precision: Precision, values: Mapping[str, float]) -> None:
        self._model, self._precision, self._values = model, precision, values

    def look(self, loader: Loader, batch: Any, objective: Objective, metrics: Group, *, training: bool) -> Outcome:
        """Send a micro-batch through model, objective and metrics, and look at all labels that are in memory.

        Returns:
            its outcome, without a graph.

        Raises:
            ObjectiveError: the parts do not fit together. An exception of the user's own code arrives unchanged, with a note.
        """
        values = accepted(objective, self._values)
        outcome = check_batch(self._model, objective, batch, metrics, self._precision, values, training=training)
        check_all_targets(objective, loader, outcome)
        return outcome

    def look_at_set(self, one: EvaluatedSet, readers: Readers) -> Outcome:
        """The same for a validation set, which is named where it raises."""
        try:
            return readers.over(one.data, lambda reader: self.look(reader, reader.peek(), one.objective, one.metrics, training=False))
        except Exception as error:
            if one.name:
                error.add_note(f"in the validation set {one.name!r}")
            raise


def check_batch(
    model: Any,
    objective: Objective,
    part: Any,
    metrics: Group,
    precision: Precision,
    values: Mapping[str, float],
    *,
    training: bool,
) -> Outcome:
    """Send a first micro-batch through model, objective and metrics, and leave everything as it was found.

    Returns:
        its outcome, without a graph.

    Raises:
        ObjectiveError: the parts do not fit together. An exception of the user's own code arrives unchanged, with a note.
    """
    with as_found(model, objective, training), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with precision.autocast():
                outcome = _outcome(model, objective, part, values)
        except Exception as error:
            error.add_note(f"raised while a first {'training' if training else 'validation'} batch was tried, before any update")
            if _is_double(part) and isinstance(model, nn.Module) and not _is_double(list(model.parameters())):
                error.add_note("the batch has float64 values and the model float32 weights; give float32 data, such as inputs.float()")
            raise
        check_loss(outcome.loss, trains=training)
        feed(metrics, outcome)
        metrics.reset()
    for warning in caught:
        if "target size" in str(warning.message) and "different to the input size" in str(warning.message):
            raise ObjectiveError(
                f"output and target have different shapes, and torch would broadcast them: {str(warning.message).split(' This will')[0]} "
                "Make them equal, for example with output.squeeze(1)"
            )
    outcome.loss = outcome.loss.detach()
    return outcome


def _is_double(structure: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float64 for leaf in leaves(structure))


def _outcome(model: Any, objective: Objective, part: Any, values: Mapping[str, float]) -> Outcome:
    if not isinstance(objective, Supervised):
        return as_outcome(objective(model, part, **values), part)
    input, target = objective.unpack(part)
    output = model(input)
    check_pair(objective.loss, output, target)  # before the loss complains in its own words, or does not
    return objective.outcome(output, target)


def check_all_targets(objective: Objective, loader: Loader, outcome: Outcome) -> None:
    """Look at every label of data that is in memory; a wrong one would raise in the middle of an epoch.

    Raises:
        ObjectiveError: a label is no class of the model's output.
    """
    prepare = loader.source.prepare
    if prepare is not None and not getattr(prepare, "keeps_targets", False):
        return  # what the labels will be, only it knows
    if loader.source.kind == "tensors" and isinstance(objective, Supervised) and isinstance(outcome.output, torch.Tensor):
        _, target = objective.unpack(loader.source.data)
        if loader.source.index is not None:
            target = target[loader.source.index.to(target.device)]
        check_classes(objective.loss, outcome.output, target)
