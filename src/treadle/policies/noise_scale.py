"""The gradient noise scale: how large a batch is worth its price."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from treadle.core.errors import ConfigError
from treadle.core.when import Duration
from treadle.policies.watch import comes_next, in_steps, moved_by, norms

_DECAY = 0.9
"""Of the running means: the two estimates of a single step are too noisy to be divided."""


class NoiseScale:
    """Log the gradient noise scale as ``train/noise_scale``: about the batch size up to which more samples a step are worth it.

    It compares the gradients of a batch's micro-batches with that of the whole batch, so it needs `MachineConfig.micro_batch`. Both
    estimates, of the noise and of the signal, are running means over the steps that it looks at. It is in samples, or in what the
    objective counts; NaN where the noise hides every signal, or a gradient of this step was not finite.

    A step that it does not look at costs nothing; one that it does needs two copies of the gradient.

    Args:
        every: how often, in steps, such as ``"100 steps"``.

    Raises:
        ConfigError: `every` is not in steps; or, when the run begins, batches are not cut, or there are several optimizers.

    Source:
        McCandlish, Kaplan, Amodei et al., An Empirical Model of Large-Batch Training, appendix A.1: the simple noise scale, there for two
        batch sizes; here for parts of any size: with n_i samples and gradient g_i in the i-th of k parts, N and g in the batch, the noise
        is ``(sum n_i |g_i|^2 - N |g|^2) / (k - 1)``, and the signal ``|g|^2 - noise / N``.

    Example:
        >>> NoiseScale(every="50 steps").every
        Duration.parse('50 steps')
    """

    logs = ("train/noise_scale",)

    def __init__(self, *, every: str | Duration = "100 steps") -> None:
        self.every = in_steps("NoiseScale", every)
        self._means: Tensor | None = None  # of noise and signal
        self._hooks: list[Any] = []
        self._parts: dict[int, dict[Tensor, Tensor]] = {}  # by place, the squared norm of each parameter's share
        self._start: dict[Tensor, Tensor | None] = {}  # what had been added up before the current part
        self._latest: dict[Tensor, tuple[int, Tensor]] = {}  # what has been, and up to which part
        self._whole: Tensor | None = None
        self._step: Any = None

    def attach(self, run: Any) -> None:
        """Begin anew, and look whether there is something to compare."""
        self._means = None
        size, micro = run.config.batch_size, run.config.machine.micro_batch
        if micro is None or (isinstance(micro, int) and micro >= size):
            raise ConfigError(
                f"NoiseScale compares micro-batches, and there is one: machine.micro_batch={micro}, batch_size={size}; "
                f"set machine.micro_batch to {max(1, size // 4)}, for example"
            )
        if len(run.optimizers) != 1:
            raise ConfigError(f"NoiseScale is that of one optimizer's gradient, and there are {len(run.optimizers)}: {', '.join(run.optimizers)}")

    def on_run_started(self, run: Any) -> None:
        """Make ready where the next step is due."""
        self._arm(run)

    def on_step_finished(self, run: Any) -> None:
        """Log what was seen of this step, and make ready where the next is due."""
        if self._hooks:
            self._disarm(run)
            run.log({"noise_scale": self._scale(run.step)}, prefix="train")
        self._arm(run)

    def detach(self, run: Any) -> None:
        """Look no more, however the run ended."""
        self._disarm(run)

    def _arm(self, run: Any) -> None:
        if comes_next(self.every, run) and not run.progress.finished:
            self._parts, self._start, self._latest, self._whole, self._step = {}, {}, {}, None, run.step
            self._hooks = [p.register_post_accumulate_grad_hook(self._added) for p in moved_by(run.optimizers)]  # type: ignore[no-untyped-call]
            run.step.observers.append(self._observe)

    def _disarm(self, run: Any) -> None:
        if self._hooks:
            run.step.observers.remove(self._observe)
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _added(self, parameter: Tensor) -> None:
        """A backward pass has added to a gradient: find out how much, for its micro-batch."""
        gradient = parameter.grad
        assert gradient is not None
        place = _place(self._step)
        before, latest = self._latest.get(parameter, (-1, None))
        if place > before:
            self._start[parameter] = latest
        elif place < before:  # the step is made again, in smaller parts
            self._start[parameter] = None
        start, now = self._start[parameter], gradient.detach().clone()
        self._parts.setdefault(place, {})[parameter] = norms([now if start is None else now - start])[0].float() ** 2
        self._latest[parameter] = (place, now)

    def _observe(self, params: list[Tensor], grads: list[Tensor]) -> None:
        self._whole = torch.stack([norm.float() for norm in norms(grads)]).square().sum()

    def _scale(self, step: Any) -> Tensor | float:
        """Noise over signal, of the means so far with this step."""
        counts = {place: count for place, count in step.seen.items() if place in self._parts}
        if self._whole is None or len(counts) < 2:
            return math.nan
        # Shares are weighted by samples and, in fp16, scaled when they are added up; the whole gradient says by how much.
        added = torch.stack([norm.float() for norm in norms([latest for _, latest in self._latest.values()])]).square().sum()
        unit = self._whole / added
        total = sum(counts.values())
        parts = sum(total * total / count * torch.stack(list(self._parts[place].values())).sum() * unit for place, count in counts.items())
        noise = (parts - total * self._whole) / (len(counts) - 1)
        new = torch.stack([noise, self._whole - noise / total])
        means = torch.zeros_like(new) if self._means is None else self._means.to(new.device)
        is_finite = new.isfinite().all()
        self._means = torch.where(is_finite, _DECAY * means + new, means)  # in their ratio the sum of the weights cancels
        return torch.where(is_finite & (self._means[1] > 0), self._means[0] / self._means[1], math.nan)

    def state_dict(self) -> dict[str, Any]:
        """Both running means, for a checkpoint."""
        return {"means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._means = state["means"]


def _place(step: Any) -> int:
    """The place of the current micro-batch."""
    reached, place = step.reached, 0
    while reached > step.counts[place]:
        reached, place = reached - step.counts[place], place + 1
    return place
