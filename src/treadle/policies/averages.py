"""Averages of weights over a run, kept beside the raw ones: EMA and SWA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from treadle.core.errors import ConfigError, did_you_mean
from treadle.core.when import Duration, Progress

Tensors = list[torch.Tensor]
Average = Callable[[Tensors, Tensors], None]
_NORMS = nn.modules.batchnorm._NormBase


class _Average:
    """Averaged copies of a run's models, each part of every checkpoint under the name of the set.

    Never swapped with the raw weights: what is evaluated, or saved, is a module of its own.
    """

    def __init__(self, name: str, every: str | Duration, start: str | Duration | None, models: Sequence[str] | None) -> None:
        if not isinstance(name, str) or not name.isidentifier() or name == "model":
            raise ConfigError(f"{self._kind}: name must be a plain word, such as 'ema', since it becomes part of valid/ema/loss; got {name!r}")
        if isinstance(models, str):
            raise ConfigError(f"{self._kind}: models must be a sequence of names, such as models=({models!r},); got the text {models!r}")
        self.name, self.every = name, Duration.parse(every)
        self._start = None if start is None else _Start(start)
        self._wanted = models
        self._pairs: dict[str, _Pair] = {}
        self._updates = 0

    @property
    def models(self) -> dict[str, nn.Module]:
        """Modules with the averaged weights, by the name under which the run tracks the raw one."""
        return {name: pair.averaged for name, pair in self._pairs.items()}

    @property
    def model(self) -> nn.Module:
        """The module with the averaged weights, where there is one model; for ``run.evaluate`` of an own loop.

        Raises:
            ConfigError: there are several, or the run's loop has not begun.
        """
        if len(self._pairs) != 1:
            raise ConfigError(f"{self._kind}: it keeps {len(self._pairs)} models ({', '.join(self._pairs) or 'before the loop, none'}); see models")
        return next(iter(self.models.values()))

    @property
    def ready(self) -> bool:
        """Whether anything was averaged already."""
        return self._updates > 0

    def attach(self, run: Any) -> None:
        """Copy the models of a run, and track the copies."""
        raw, self._updates = self._chosen(run.models), 0
        for name, model in raw.items():
            self._check_numbers(name, model, run)
        self._pairs = {name: _Pair(model) for name, model in raw.items()}
        names = {name: f"{self.name}{name.removeprefix('model')}" if name.startswith("model") else f"{self.name}-{name}" for name in raw}
        run.track(**{names[name]: _Weights(module) for name, module in self.models.items()})

    def on_step_finished(self, run: Any) -> None:
        """Average, where it is due."""
        if run.due(self.every) and (self._start is None or self._start.reached(run.progress)):
            for pair in self._pairs.values():
                pair.update(self._average if self._updates else _as_they_are)
            self._updates += 1

    def on_run_finished(self, run: Any) -> None:
        """Say so where nothing was ever averaged."""
        if not self._updates:
            run.say(f"warning: {self._kind}: nothing was averaged: the run was over before start={self._start} and every='{self.every}' were reached")

    def state_dict(self) -> dict[str, Any]:
        """How often was averaged, for a checkpoint; the weights are in it under the name of the set."""
        return {"updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._updates = state["updates"]

    # --- inside ---

    _kind = ""

    def _average(self, averaged: Tensors, current: Tensors) -> None:
        raise NotImplementedError

    def _chosen(self, models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """The models that are asked for, else all that have weights."""
        if self._wanted is None:
            return {name: model for name, model in models.items() if any(True for _ in model.parameters())}
        known = {name.removeprefix("model-"): name for name in models}
        for name in self._wanted:
            if name not in known:
                raise ConfigError(f"{self._kind}: there is no model named {name!r}{did_you_mean(name, known)}")
        return {known[name]: models[known[name]] for name in self._wanted}

    def _check_numbers(self, name: str, model: nn.Module, run: Any) -> None:
        if halves := [key for key, p in model.named_parameters() if p.is_floating_point() and p.element_size() < 4]:
            run.say(
                f"warning: {self._kind}: {name!r} has weights in {str(model.get_parameter(halves[0]).dtype).removeprefix('torch.')} ({halves[0]}), "
                "whose average moves in steps of their own rounding; keep weights in float32, and set machine.precision"
            )


class EMA(_Average):
    """Keep an exponential moving average of the weights, and evaluate it beside the raw ones.

    After each `every`: ``average = decay * average + (1 - decay) * weights``; the first time it takes the weights as they are. The running
    statistics of BatchNorm are averaged in the same way; other buffers are those of the raw model.

    A `Trainer` logs ``valid/ema/<name>`` beside ``valid/<name>``, which ``checkpoint.best`` may name; ``evaluate`` and ``predict`` take
    ``weights="ema"``; ``treadle.load_weights(result.best, model, name="ema")`` gives the average. In an own loop:
    ``run.evaluate(ema.model, ...)``.

    Args:
        decay: how much of the average stays, in (0, 1).
        every: how often weights are averaged.
        start: when it begins: a length such as ``"10 epochs"``, or a share of the run such as ``"50 %"``; at once unless told.
        warmup: begin with the smaller decay ``(1 + n) / (10 + n)`` at the n-th average, so that the first weights are soon forgotten.
        name: what the set is called.
        models: which models, by name, such as ``("generator",)``; all unless told.

    Raises:
        ConfigError: `decay` is not between 0 and 1, or another argument cannot be read.

    Source:
        B. T. Polyak, A. B. Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; the warm-up is TensorFlow's
        ``ExponentialMovingAverage(num_updates=...)``.

    Example:
        >>> EMA(decay=0.99, start="10 %").name
        'ema'
    """

    _kind = "EMA"

    def __init__(
        self,
        decay: float = 0.999,
        *,
        every: str | Duration = "1 step",
        start: str | Duration | None = None,
        warmup: bool = False,
        name: str = "ema",
        models: Sequence[str] | None = None,
    ) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay < 1:
            raise ConfigError(f"EMA: decay must be between 0 and 1, such as 0.999, got {decay!r}")
        super().__init__(name, every, start, models)
        self._decay, self._warmup = decay, warmup

    def _average(self, averaged: Tensors, current: Tensors) -> None:
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._warmup else self._decay
        get_ema_multi_avg_fn(decay)(averaged, current, self._updates)  # type: ignore[no-untyped-call]


class SWA(_Average):
    """Keep the plain mean of the weights over the last part of a run, and evaluate it beside the raw ones.

    As `EMA`, but every time weighs the same. Statistics of BatchNorm are averaged with the weights; to compute them anew on the training
    data instead, as the paper does: ``torch.optim.swa_utils.update_bn(batches, swa.model)``.

    Args:
        start: when it begins: a share of the run such as ``"75 %"``, or a length such as ``"10 epochs"``.
        every: how often weights are averaged.
        name: what the set is called.
        models: which models, by name; all unless told.

    Raises:
        ConfigError: an argument cannot be read.

    Source:
        P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, Algorithm 1.

    Example:
        >>> SWA(start="75 %", every="1 epoch").name
        'swa'
    """

    _kind = "SWA"

    def __init__(
        self, start: str | Duration | None = "75 %", *, every: str | Duration = "1 epoch", name: str = "swa", models: Sequence[str] | None = None
    ) -> None:
        super().__init__(name, every, start, models)

    def _average(self, averaged: Tensors, current: Tensors) -> None:
        get_swa_multi_avg_fn()(averaged, current, self._updates)  # type: ignore[no-untyped-call]


class _Pair:
    """A model and its averaged copy.

    Args:
        raw: the model.
    """

    def __init__(self, raw: nn.Module) -> None:
        self.averaged = deepcopy(raw).requires_grad_(False).eval()
        both = list(zip(self.averaged.parameters(), raw.parameters(), strict=True))
        self._weights = [(ours, theirs) for ours, theirs in both if theirs.is_floating_point() or theirs.is_complex()]
        self._others = [(ours, theirs) for ours, theirs in both if not (theirs.is_floating_point() or theirs.is_complex())]
        modules = list(zip(self.averaged.modules(), raw.modules(), strict=True))
        self._buffers = [(ours, theirs, key) for ours, theirs in modules for key, value in theirs._buffers.items() if value is not None]

    @torch.no_grad()
    def update(self, average: Average) -> None:
        """Average the weights and the statistics of normalisation, all in one go; any other buffer is that of the raw model."""
        averaged: list[tuple[Any, Any]] = list(self._weights)
        kept: list[tuple[Any, Any]] = list(self._others)
        for ours, theirs, key in self._buffers:  # asked for each time: a module may put another tensor in the place of its buffer
            is_statistic = isinstance(theirs, _NORMS) and key in ("running_mean", "running_var")
            (averaged if is_statistic else kept).append((ours._buffers[key], theirs._buffers[key]))
        average([ours for ours, _ in averaged], [theirs for _, theirs in averaged])
        for copy, now in kept:
            copy.copy_(now)


def _as_they_are(averaged: Tensors, current: Tensors) -> None:
    """The first average is what there is."""
    torch._foreach_copy_(averaged, current)


class _Weights:
    """The weights of a module as a checkpoint keeps them: under the module's plain keys, and no model of the run's."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers by plain name."""
        return {_plain(key): value for key, value in self._module.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        own = {_plain(key): key for key in self._module.state_dict()}
        self._module.load_state_dict({own.get(key, key): value for key, value in state.items()})


class _Start:
    """A moment of a run: a length, or a share of the whole."""

    def __init__(self, text: str | Duration) -> None:
        self._text, self._share, self._length = str(text), None, None
        if isinstance(text, str) and text.strip().endswith("%"):
            self._share = _share(text)
        else:
            self._length = Duration.parse(text)

    def reached(self, progress: Progress) -> bool:
        """Whether the run is there."""
        if self._share is not None:
            return progress.fraction >= self._share
        return self._length is not None and self._length.count(progress) >= 1

    def __str__(self) -> str:
        return repr(self._text)


def _share(text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise ConfigError(f"start: {text!r} must be a share of the run from 0 % to less than 100 %, such as '75 %'")
    return percent / 100


def _plain(key: str) -> str:
    """A key without the mark of torch.compile."""
    return key.replace("_orig_mod.", "")
