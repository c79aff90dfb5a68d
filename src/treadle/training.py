"""Level 1: one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from treadle.core.result import Result
from treadle.core.schedules.named import Scheduled
from treadle.log.writer import Writer
from treadle.metrics.group import Metric
from treadle.step.step import Step
from treadle.trainer import Trainer


def train(
    model: Any,
    objective: Any,
    data: Any,
    *,
    optimizer: Any,
    config: Any,
    valid: Any = None,
    test: Any = None,
    metrics: Mapping[str, Metric] | None = None,
    schedules: Mapping[str, Scheduled] | None = None,
    handlers: Sequence[object] = (),
    writers: Sequence[Writer] = (),
    events: Sequence[str] = (),
    step: Callable[[Step, Any, Any], object] | None = None,
    accept_changes: bool = False,
) -> Result:
    """Train a model. The same call after a crash goes on where the run was.

    Args:
        model: a module, or a callable that builds one under the run's seed; or several of these by name.
        objective: a loss module, ``objective(model, batch) -> Tensor | Outcome``, or None for a model that returns
            an object with ``.loss`` or where `step` does the work.
        data: the training data, see `treadle.data.sources`.
        optimizer: a callable that takes parameters, such as ``partial(torch.optim.SGD, lr=0.01)``, or an optimizer.
        config: a `treadle.Config`, or an own config that inherits from it or holds one.
        valid: the validation data: a dataset, an `Evaluation` of one, or several of these by name.
        test: the test data, for nothing but the check that it is apart from the others, and the record.
        metrics: objects with ``update(output, target)``, ``compute()`` and ``reset()``, by name.
        schedules: values that change, by name, see `treadle.schedules`.
        handlers: objects with methods named ``on_<event>``.
        writers: further views of the journal.
        events: names of events of your own, which ``step.run.fire(name)`` or a handler's ``run.fire(name)`` tells the handlers of.
        step: ``step(step, model, optimizer)`` in place of the standard body of the loop.
        accept_changes: go on in a folder whose run was started with another config, or is over.

    Returns:
        how the run ended; its `metrics`, `best` and `last` checkpoint.

    Raises:
        TreadleError: something can be seen to be wrong, before training time is spent; or the loss is not finite.
            An exception of the user's own code arrives unchanged.

    Example:
        >>> from functools import partial
        >>> import torch, treadle
        >>> result = treadle.train(
        ...     torch.nn.Linear(2, 1), torch.nn.MSELoss(), (torch.zeros(8, 2), torch.zeros(8, 1)),
        ...     optimizer=partial(torch.optim.SGD, lr=0.1),
        ...     config=treadle.Config(run_dir=f"{tmp}/run", duration="3 steps", batch_size=4, log=treadle.LogConfig(console="quiet")),
        ... )
        >>> result.status, result.steps
        ('finished', 3)
    """
    trainer = Trainer(
        model,
        objective,
        data,
        optimizer=optimizer,
        config=config,
        valid=valid,
        test=test,
        metrics=metrics,
        schedules=schedules,
        handlers=handlers,
        writers=writers,
        events=events,
        step=step,
    )
    return trainer.fit(accept_changes=accept_changes)
