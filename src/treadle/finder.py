"""The learning rate finder: train on rising learning rates, look where the loss falls fastest, and leave everything as it was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from treadle.core.errors import ConfigError, UsageError, did_you_mean
from treadle.core.modes import set_train_mode
from treadle.core.schedules.schedule import Schedule
from treadle.core.when import Duration, Progress
from treadle.data.items import generators_kept
from treadle.data.loader import Loader, training_loader
from treadle.data.stream import has_state
from treadle.evaluation import as_found
from treadle.form.trial import as_it_was
from treadle.metrics.means import Means
from treadle.policies.plateau import set_lr
from treadle.preflight import materialise
from treadle.step.binding import bound
from treadle.step.objective import accepted
from treadle.step.step import Step
from treadle.system.averaged import begin_training
from treadle.system.device import deterministic_kernels
from treadle.system.precision import Precision
from treadle.system.seed import seed
from treadle.system.wrap import prepare
from treadle.trainer import Trainer

_DIVERGED = 4.0
"""So many times the lowest loss is the end; as in fastai's finder."""
_FADE = 0.8
"""Of the running mean of losses by which that is told."""
_WIDTH = 0.03
"""Of the curve: the standard deviation of the bell that smooths it."""


@dataclass(frozen=True)
class LearningRates:
    """What `find_lr` saw.

    Args:
        lrs: the learning rate of each step.
        losses: the loss of each, before its update.
        smoothed: the same, each a mean with its neighbours.
        suggestion: the learning rate at which the smoothed loss falls fastest; None where it never falls.
        diverged: whether the loss left the finite, or was four times the lowest, before the last step.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    diverged: bool

    def __repr__(self) -> str:
        end = ", diverged" if self.diverged else ""
        return f"LearningRates(suggestion={self.suggestion}, {len(self.lrs)} steps from {self.lrs[0]:.2g} to {self.lrs[-1]:.2g}{end})"

    def plot(self, path: str | Path) -> Path:
        """Draw the curve into a png, svg, html or pdf file.

        Returns:
            the path.

        Raises:
            UsageError: matplotlib is not installed, the name has another ending, or the file cannot be written.
        """
        from treadle.log.figure import figure_class, save

        figure: Any = figure_class()(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.lrs, self.losses, color="#999999", linewidth=0.8, label="loss")
        axes.plot(self.lrs, self.smoothed, color="#0072B2", linewidth=1.6, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="#D55E00", linewidth=1.2, linestyle="--", label=f"falls fastest: {self.suggestion:.2g}")
        axes.set_xscale("log")
        low, high = min(self.smoothed), max(self.smoothed[: max(1, len(self.smoothed) // 2)])
        axes.set_ylim(low - 0.1 * (high - low or 1), high + 0.5 * (high - low or 1))  # the end of the curve is of no interest
        axes.set_xlabel("learning rate", fontsize=9)
        axes.set_ylabel("training loss", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
        save(figure, Path(path))
        return Path(path)


def find_lr(trainer: Trainer, *, low: float = 1e-7, high: float = 10.0, steps: int = 100, optimizer: str | None = None) -> LearningRates:
    """Train for some steps, each with a higher learning rate, and put everything back.

    The trainer's own model, objective, data and step are used, in the run's order and number format; schedules other than lr have the
    values of the run's first steps. Afterwards weights, buffers, modes, gradients, optimizer, random generators and metrics are as they
    were, to the bit, and no run folder was made; lazy modules have their weights, as after a fit. Handlers are not called. What an own
    step or dataset keeps elsewhere is its own affair.

    Args:
        trainer: what would be fitted.
        low: the first learning rate.
        high: the last; the steps between are equal factors. It ends sooner where the loss explodes.
        steps: how many, at least 10.
        optimizer: of several, the name of the one whose lr rises; the others keep theirs. All rise together unless told.

    Returns:
        the curve, and where the loss falls fastest. The largest lr of several groups is the one that is named; the others keep their
        share of it.

    Raises:
        ConfigError: an argument cannot be meant, or there is no such optimizer.
        UsageError: the data is an iterator, which can be read only once; or the loss is not finite from the beginning.

    Source:
        Smith, Cyclical Learning Rates for Training Neural Networks, section 3.3.

    Example:
        >>> import torch
        >>> from treadle import Config, Trainer
        >>> data = (torch.randn(64, 2), torch.randn(64, 1))
        >>> config = Config(run_dir="runs/a", duration="1 epoch", batch_size=16)
        >>> found = find_lr(Trainer(torch.nn.Linear(2, 1), torch.nn.MSELoss(), data, optimizer=torch.optim.SGD, config=config))
        >>> found.lrs[0]
        1e-07
    """
    if not 0 < low < high < math.inf:
        raise ConfigError(f"find_lr: low and high must be positive, and low the smaller one, got {low!r} and {high!r}")
    if not isinstance(steps, int) or steps < 10:
        raise ConfigError(f"find_lr: steps must be at least 10, got {steps!r}")
    with ExitStack() as stack:
        sweep = _Sweep(trainer, optimizer, stack)
        rates = [low * (high / low) ** (number / (steps - 1)) for number in range(steps)]
        losses = _until_diverged(sweep.losses(rates))
    if not losses:
        raise UsageError("find_lr: the loss of the first step is not finite, at the lowest learning rate already")
    smoothed = _smoothed(losses, max(1.0, _WIDTH * steps))
    return LearningRates(rates[: len(losses)], losses, smoothed, _steepest(rates, smoothed), len(losses) < steps)


class _Sweep:
    """A trainer's parts, borrowed: what the stack holds puts them back."""

    def __init__(self, trainer: Trainer, name: str | None, stack: ExitStack) -> None:
        config, self._device, self._trainer = trainer.config, trainer.device, trainer
        self._loader = training_loader(trainer.data, config, self._device)
        data = self._loader.source.data
        if hasattr(data, "__next__"):
            raise UsageError("find_lr would use up the data, which is an iterator; give the trainer a dataset, or a function that makes an iterator")
        self._duration = Duration.parse(config.duration)
        if not trainer._own_step:
            materialise(trainer.model, trainer.objective, self._loader, config.seed)  # as a fit would
        models = _values(trainer.model)
        stack.enter_context(as_found(dict(enumerate(models)), trainer.objective, training=True))  # type: ignore[arg-type]
        stack.enter_context(_gradients_kept(models))
        stack.enter_context(generators_kept(data))
        stack.enter_context(_state_kept(data))
        for one in _values(trainer.optimizer):
            if isinstance(one, Optimizer):
                stack.enter_context(as_it_was(one))
        stack.enter_context(deterministic_kernels(config.machine.deterministic))
        self._precision = Precision(config.machine.precision, self._device)
        stack.enter_context(self._precision.products())
        given = trainer._fitted[0] if trainer.optimizer is trainer._fitted[1] else trainer.optimizer
        self._model, self._optimizer = prepare(trainer.model, given, self._device, lambda text: None)
        for one in models:
            set_train_mode(one)
        begin_training(_values(self._optimizer))
        self._all_rise, self._groups = name is None, _groups(self._optimizer, name)
        self._body = _body(trainer, self._optimizer)
        seed(config.seed)

    def losses(self, rates: Iterable[float]) -> Iterator[float]:
        """The loss of each step; NaN where a loss or a gradient is not finite."""
        loader: Loader = self._loader
        progress = Progress(self._duration, loader.epoch_size, loader.epoch_steps, loader.epoch_samples)
        names = {"optimizer": self._optimizer} if isinstance(self._optimizer, Optimizer) else self._optimizer
        given = self._trainer._schedules
        others = {name: schedule for name, schedule in given.items() if name != "lr"}
        passes_lr = self._all_rise and isinstance(given.get("lr"), Schedule)
        means, wrong = Means(guard=False), list[str]()
        step = Step(means.add, self._precision, wrong.append, ask=True)
        step.adopt(_values(self._optimizer))
        step.names, schedules = bound(others, names, progress, set(given))
        shares = [float(group["lr"]) for group in self._groups]
        with closing(loader.batches()) as batches:
            for rate, batch in zip(rates, batches, strict=False):
                for group, share in zip(self._groups, shares, strict=True):
                    set_lr(group, rate * (share / max(shares) if max(shares) > 0 else 1.0))
                values = {name: schedule(progress) for name, schedule in schedules.items()} | ({"lr": rate} if passes_lr else {})
                step.begin(progress.steps + 1, batch, values)
                self._body(step, self._model, self._optimizer)
                step.finish()
                yield math.nan if wrong else means.window().get("loss", math.nan)
                progress = progress.advanced(step.samples, batch.positions, batch.ends_epoch)


def _until_diverged(losses: Iterator[float]) -> list[float]:
    """The losses up to where they explode."""
    found: list[float] = []
    mean, weight, best = 0.0, 0.0, math.inf
    with closing(losses):  # type: ignore[type-var]
        for loss in losses:
            if not math.isfinite(loss):
                break
            found.append(loss)
            mean, weight = _FADE * mean + (1 - _FADE) * loss, _FADE * weight + (1 - _FADE)
            best = min(best, mean / weight)
            if mean / weight - best > (_DIVERGED - 1) * abs(best):
                break
    return found


def _smoothed(losses: list[float], width: float) -> list[float]:
    """Each value as a mean with its neighbours, under a bell."""
    reach = math.ceil(3 * width)
    bell = {offset: math.exp(-((offset / width) ** 2) / 2) for offset in range(-reach, reach + 1)}

    def at(place: int) -> float:
        near = {offset: weight for offset, weight in bell.items() if 0 <= place + offset < len(losses)}
        return sum(weight * losses[place + offset] for offset, weight in near.items()) / sum(near.values())

    return [at(place) for place in range(len(losses))]


def _steepest(rates: list[float], losses: list[float]) -> float | None:
    """Where a curve falls fastest per factor of the learning rate, on the way to its lowest point; None where it never falls."""
    falls = [after - before for before, after in pairwise(losses[: losses.index(min(losses)) + 1])]
    if not falls:
        return None
    place = falls.index(min(falls))
    return math.sqrt(rates[place] * rates[place + 1])


def _body(trainer: Trainer, optimizer: Any) -> Callable[[Step, Any, Any], object]:
    """The trainer's step, which feeds no metric here and writes nothing into the trainer."""
    twin = copy(trainer)
    twin._train_metrics, twin._optimizers = None, tuple(_values(optimizer))
    twin._taken = list(accepted(trainer.objective, trainer._schedules))
    return trainer._step if trainer._own_step else twin._standard_step


def _groups(optimizers: Any, name: str | None) -> list[dict[str, Any]]:
    """The groups whose lr rises."""
    if name is None:
        return [group for one in _values(optimizers) for group in one.param_groups]
    known = list(optimizers) if isinstance(optimizers, Mapping) else []
    if name not in known:
        raise ConfigError(f"find_lr: there is no optimizer {name!r}{did_you_mean(name, known) or '; this trainer has one, without a name'}")
    return list(optimizers[name].param_groups)


def _values(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, Mapping) else [item]


@contextmanager
def _gradients_kept(models: list[Any]) -> Iterator[None]:
    kept = [(parameter, parameter.grad) for model in models for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _state_kept(data: Any) -> Iterator[None]:
    """Put back where a stream is."""
    state = deepcopy(data.state_dict()) if has_state(data) else None
    try:
        yield
    finally:
        if state is not None:
            data.load_state_dict(state)
