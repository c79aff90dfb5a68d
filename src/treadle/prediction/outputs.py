"""Outputs of a model, batch by batch, in the order of the dataset."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from treadle.core.errors import ObjectiveError
from treadle.core.structure import map_leaves
from treadle.data.loader import Loader
from treadle.data.order import Indices
from treadle.evaluation import as_found
from treadle.step.objective import Objective, Supervised, as_outcome
from treadle.system.precision import Precision

Watch = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Part:
    """The outputs of some samples.

    Args:
        ids: index of each sample in its dataset, or its place in a stream; int64 of shape (samples,).
        output: what the model gave, in its own structure, on the CPU.
    """

    ids: Indices
    output: Any


def outputs(
    model: nn.Module, objective: Objective, loader: Loader, precision: Precision, values: Mapping[str, float], watch: Watch
) -> Generator[Part, None, None]:
    """Send a whole dataset through a model, and leave everything as it was found.

    Args:
        model: in evaluation mode while this is read.
        objective: a supervised one says which part of a batch is the input; any other is asked for its `Outcome.output`.
        loader: the data, in its own order.
        precision: the number format of the forward pass.
        values: keywords for the objective.
        watch: told after each batch how many samples are done, of how many.

    Raises:
        ObjectiveError: the objective gives no output.
    """
    done = 0
    with as_found(model, objective, training=False):
        for batch in loader.batches(epochs=1):
            start = done
            for part, count in zip(batch.parts, batch.counts, strict=True):
                with precision.autocast():
                    output = _output(model, objective, part, values)
                into = done - start
                ids = np.arange(done, done + count) if batch.ids is None else batch.ids[into : into + count]
                done += count
                yield Part(ids, map_leaves(_on_host, output))
            watch(done, loader.epoch_samples)


def _output(model: nn.Module, objective: Objective, part: Any, values: Mapping[str, float]) -> Any:
    if isinstance(objective, Supervised):
        return model(objective.input_of(part))
    output = as_outcome(objective(model, part, **values), part).output
    if output is None:
        raise ObjectiveError("predict needs the model's output, and this objective gives none; return treadle.Outcome(loss, output=...) from it")
    return output


def _on_host(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
        return torch.from_numpy(leaf)
    return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf
