"""Watch how long gradients, weights and updates are, seldom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.core.errors import ConfigError
from treadle.core.patterns import chosen
from treadle.core.when import Duration


class Watch:
    """Log the norms of gradient and weights, and how far an update moves the weights.

    At each step where it is due: ``train/grad_norm``, of the whole batch's gradient before it is clipped; ``train/weight_norm``, after the
    update; ``train/update_ratio``, the norm of what the update added over that of the weights before. With patterns, each of these also
    as ``train/grad_norm/<pattern>`` for the parameters whose names match. What is not finite is logged as it is.

    A step that is not watched costs nothing; one that is needs a copy of the weights. Values stay on their device until a row is due.

    Args:
        every: how often, in steps, such as ``"100 steps"``.
        patterns: globs of parameter names, or names of modules, such as ``"features"``. Of several models they begin with the model's: ``"G.*"``.

    Raises:
        ConfigError: `every` is not in steps; or, when the run begins, a pattern matches no parameter.

    Example:
        >>> Watch(every="100 steps", patterns=["body.*", "head.*"]).every
        Duration.parse('100 steps')
    """

    def __init__(self, *, every: str | Duration = "100 steps", patterns: Sequence[str] = ()) -> None:
        self.every = in_steps("Watch", every)
        if isinstance(patterns, str):
            raise ConfigError(f"Watch: patterns must be a list of globs such as ['features.*'], got {patterns!r}")
        self._patterns = list(patterns)
        self.logs = [f"train/{name}{end}" for name in _NAMES for end in ["", *(f"/{pattern}" for pattern in self._patterns)]]
        self._groups: dict[str, list[Tensor]] = {}
        self._before: dict[Tensor, Tensor] = {}
        self._norms: dict[Tensor, Tensor] = {}
        self._is_armed = False

    def attach(self, run: Any) -> None:
        """Find the parameters of each pattern."""
        named = named_parameters(run.models)
        self._groups = {pattern: [named[name] for name in chosen([pattern], named, "Watch")] for pattern in self._patterns}

    def on_run_started(self, run: Any) -> None:
        """Make ready where the next step is due."""
        self._arm(run)

    def on_step_finished(self, run: Any) -> None:
        """Log what was seen of this step, and make ready where the next is due."""
        if self._is_armed:
            self._disarm(run)
            run.log(self._seen(run), prefix="train")
            self._before, self._norms = {}, {}
        self._arm(run)

    def detach(self, run: Any) -> None:
        """Watch no more, however the run ended."""
        self._disarm(run)

    def _arm(self, run: Any) -> None:
        if comes_next(self.every, run) and not run.progress.finished:
            self._before = {p: p.detach().clone() for p in moved_by(run.optimizers)}
            run.step.observers.append(self._observe)
            self._is_armed = True

    def _disarm(self, run: Any) -> None:
        if self._is_armed:
            run.step.observers.remove(self._observe)
            self._is_armed = False

    def _observe(self, params: list[Tensor], grads: list[Tensor]) -> None:
        self._norms.update(zip(params, norms(grads), strict=True))

    def _seen(self, run: Any) -> dict[str, Any]:
        """The values, by name without ``train/``."""
        params = list(self._before)
        weights = dict(zip(params, norms(params), strict=True))
        old = dict(zip(params, norms(list(self._before.values())), strict=True))
        added = dict(zip(params, norms([p.detach() - before for p, before in self._before.items()]), strict=True))
        values: dict[str, Any] = {}
        for end, some in {"": params, **{f"/{pattern}": found for pattern, found in self._groups.items()}}.items():
            values[f"grad_norm{end}"] = self._grad_norm(run.step, some, whole=not end)
            values[f"weight_norm{end}"] = _joined(weights, some)
            values[f"update_ratio{end}"] = _joined(added, some) / _joined(old, some)
        return values

    def _grad_norm(self, step: Any, params: Iterable[Tensor], whole: bool) -> Any:
        """The norm of the gradient of some parameters; NaN where an update was left out before it had one."""
        if any(p in self._norms for p in params):
            return _joined(self._norms, params)
        if step.refused or not (whole and step.updates):
            return math.nan
        return step.grad_norm  # the step was one graph, of which only the whole is known


_NAMES = ("grad_norm", "weight_norm", "update_ratio")


def in_steps(who: str, every: str | Duration) -> Duration:
    """A cadence in steps.

    Raises:
        ConfigError: it cannot be read, or is in another unit.
    """
    cadence = Duration.parse(every)
    if cadence.unit != "steps":
        raise ConfigError(f"{who}: every must be in steps, such as '100 steps', got {str(cadence)!r}: it has to be known before the step")
    return cadence


def comes_next(every: Duration, run: Any) -> bool:
    """Whether a cadence in steps is due at the next step."""
    return bool((run.progress.steps + 1) % int(every.value) == 0)


def named_parameters(models: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters by name; of several models it begins with the model's."""
    return {
        (name if len(models) == 1 else f"{model.removeprefix('model-')}.{name}"): parameter
        for model, module in models.items()
        for name, parameter in module.named_parameters()
    }


def moved_by(optimizers: Mapping[str, Any]) -> list[Tensor]:
    """The parameters that optimizers move, each once."""
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    return list(dict.fromkeys(p for group in groups for p in group["params"] if p.requires_grad))


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, without a host sync."""
    with torch.no_grad():
        plain = all(t.layout is torch.strided and (t.is_floating_point() or t.is_complex()) for t in tensors)
        if tensors and plain:
            return list(torch._foreach_norm([t.detach() for t in tensors]))
        return [torch.linalg.vector_norm(t.detach().coalesce().values() if t.is_sparse else t.detach()) for t in tensors]


def _joined(found: Mapping[Tensor, Tensor], params: Iterable[Tensor]) -> Any:
    """The norm of several tensors as one vector; 0 where there is none."""
    some = [found[p] for p in params if p in found]
    if not some:
        return 0.0
    return torch.linalg.vector_norm(torch.stack([norm.detach().to(some[0].device, torch.float32, non_blocking=True) for norm in some]))
