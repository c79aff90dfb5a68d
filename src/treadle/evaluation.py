"""Evaluation: a dataset, seen once and in order, that leaves everything as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from treadle.config.schema import Config
from treadle.core.errors import ObjectiveError
from treadle.data.brief import Brief
from treadle.data.loader import Loader
from treadle.data.order import NAMED
from treadle.data.sources import resolve
from treadle.metrics.group import Group
from treadle.metrics.means import Means
from treadle.step.objective import Objective, Outcome, Supervised, as_outcome
from treadle.system.averaged import weights_to_use
from treadle.system.precision import Precision
from treadle.system.seed import preserved_rng
from treadle.system.transfer import to_host

Models = nn.Module | Mapping[str, nn.Module]


def evaluate(
    model: Models,
    objective: Objective,
    loader: Loader,
    metrics: Group,
    precision: Precision,
    values: Mapping[str, float],
    watch: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Loss and metrics over a whole dataset.

    Args:
        model: one model, or several by name; weights, mode and buffers stay as they are.
        objective: ``objective(model, batch, **values)``.
        loader: the data, in its own order.
        metrics: fed with the outcome's output and target.
        precision: the number format of the forward pass.
        values: keywords for the objective.
        watch: told after each batch how many samples are done, of how many (None where nobody knows).

    Returns:
        ``loss``, every additive value of the outcome's logs, and every metric by its name: numbers, or tensors on the
        CPU where a metric gives more than one number.
    """
    means = Means(guard=False)
    done = 0
    with counting_anew(metrics), as_found(model, objective, training=False):
        for batch in loader.batches(epochs=1):
            for part, count in zip(batch.parts, batch.counts, strict=True):
                with precision.autocast():
                    outcome = as_outcome(objective(model, part, **values), part)
                _add_outcome(means, outcome, count)
                feed(metrics, outcome)
                done += count
            if watch is not None:
                watch(done, loader.epoch_samples)
        results = {"loss": float("nan"), **means.window(), **metrics.compute()}
    return dict(zip(results, map(_plain, results.values()), strict=True))


def evaluation_loader(data: Any, config: Config, device: torch.device, limit: int | None = None) -> Loader:
    """A dataset in its own order, all of it: also that of a DataLoader that shuffles, or drops the last batch. `limit`: samples at once."""
    machine = config.machine
    size = limit or config.evaluate.batch_size or (machine.micro_batch if isinstance(machine.micro_batch, int) else config.batch_size)
    if isinstance(data, DataLoader):
        data = resolve(data, "sequential")
        data = replace(data, drop_last=False, order=NAMED["sequential"] if data.order is NAMED["shuffle"] else data.order)
    brief = Brief.asked(config.debug, training=False)
    settings: dict[str, Any] = {"seed": config.seed, "workers": machine.workers, "device": device, "resident": machine.resident}
    return Loader(data, batch_size=size, sampler="sequential", brief=brief, **settings)


def _add_outcome(means: Means, outcome: Outcome, samples: int) -> None:
    """Add the loss and the logs of an outcome to running means."""
    count = samples if outcome.count is None else outcome.count
    means.add("loss", outcome.loss.detach(), count)
    for name, value in outcome.logs.items():
        means.add(name, value, count)


def feed(metrics: Group, outcome: Outcome) -> None:
    """Feed an outcome to metrics.

    Raises:
        ObjectiveError: there are metrics, and the outcome has no output for them.
    """
    if not metrics:
        return
    if outcome.output is None:
        raise ObjectiveError(
            "metrics need the model's output, and this objective gives none; return treadle.Outcome(loss, output=..., target=...) "
            "from it, or leave metrics out"
        )
    output = outcome.output
    metrics.update(output.detach() if isinstance(output, torch.Tensor) else output, outcome.target)


@contextmanager
def counting_anew(metrics: Group) -> Iterator[None]:
    """Metrics that have counted nothing, before and after, also where something raises."""
    metrics.reset()
    try:
        yield
    finally:
        metrics.reset()


@contextmanager
def as_found(model: Models, objective: Objective | None, training: bool) -> Iterator[None]:
    """Set a mode, and put back after it, also where something raises.

    Put back are each module's own mode, its buffers, which parameters want a gradient, whether autocast is on, and every random
    generator; where `training`, parameters, too. Gradients are recorded where `training`, and only there; elsewhere
    the weights are those to use, see `treadle.system.averaged`.
    """
    roots = list(model.values()) if isinstance(model, Mapping) else [model]
    if isinstance(objective, Supervised) and isinstance(objective.loss, nn.Module):
        roots.append(objective.loss)
    modes = [(module, module.training) for root in roots for module in root.modules()]
    wanted = [(parameter, parameter.requires_grad) for root in roots for parameter in root.parameters()]
    # In evaluation mode weights do not move by themselves. Buffers may: a state that is carried, or statistics where the user's code sets the mode.
    kept = [_bound(module._buffers, *([module._parameters] if training else [])) for module, _ in modes]
    with preserved_rng(), _own_grad_mode(training), nullcontext() if training else weights_to_use(roots):
        for module, was in modes:
            module.training = was and training
        try:
            yield
        finally:
            for module, was in modes:
                module.training = was
            for parameter, was in wanted:
                if parameter.requires_grad is not was:
                    parameter.requires_grad_(was)
            for put_back in kept:
                put_back()


@contextmanager
def _own_grad_mode(training: bool) -> Iterator[None]:
    """Whether gradients are recorded, whatever holds outside, and autocast as it was: what an inference mode makes, training could not use."""
    autocast = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        try:
            yield
        finally:
            for device, was in autocast.items():
                torch.set_autocast_enabled(device, was)


def _bound(*homes: dict[str, Any]) -> Callable[[], None]:
    """How to put back a module's own buffers or parameters: which tensors they are, and what is in them."""
    kept = [
        (home, name, tensor, tensor.detach().clone())
        for home in homes
        for name, tensor in home.items()
        if tensor is not None and not is_lazy(tensor)  # which has no value yet
    ]

    def put_back() -> None:
        for home, name, tensor, value in kept:
            home[name] = tensor
            tensor.data.copy_(value)

    return put_back


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return value.detach().cpu()
    return to_host([value])[0]
