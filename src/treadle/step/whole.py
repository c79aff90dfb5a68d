"""The whole step: forward, loss, backward and update as one function of tensors, that can be compiled or recorded.

It computes what the standard body of the loop computes, and leaves what that leaves: weights in their own tensors,
the optimizer's state in torch's layout. Whether something is not finite is seen inside, where it keeps the update
from moving anything; the host is told as it is told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from treadle.core.structure import leaves, map_leaves
from treadle.step.fields import fields_of
from treadle.step.gradients import Finiteness, norm_of
from treadle.step.objective import Objective, Outcome, as_outcome
from treadle.step.rules import UpdateRule, why_not
from treadle.step.step import Step
from treadle.system.precision import Precision

Body = Callable[[Any, Any, Any], object]
"""``body(step, model, optimizer)``: what is done in a step."""


@dataclass(slots=True)
class Made:
    """What a whole step gave.

    Args:
        outcome: of the objective, without a graph.
        grads: the gradients, as they were used.
        norm: of the whole gradient before clipping, where it had to be known.
        found: 1.0 where the loss or the gradient is not finite, so that nothing moved; else 0.0.
    """

    outcome: Outcome
    grads: list[torch.Tensor]
    norm: torch.Tensor | None
    found: torch.Tensor


def why_not_whole(model: Any, optimizer: Any, precision: Precision, has_own_step: bool, is_cut: bool, taken: list[str], scheduled: set[str]) -> str:
    """What keeps a step from being made as a whole; empty where nothing does.

    Args:
        model: the run's model.
        optimizer: the run's optimizer.
        precision: the number format of the forward pass.
        has_own_step: whether the body of the loop is the user's.
        is_cut: whether batches are cut into micro-batches.
        taken: names of the schedules that the objective takes as keywords.
        scheduled: names of all schedules.
    """
    if has_own_step:
        return "the body of the loop is your own"
    if not isinstance(model, nn.Module) or not isinstance(optimizer, Optimizer):
        return "there are several models or optimizers"
    if precision.scaler is not None:
        return "fp16 has a loss scaler, which looks at every step; bf16 has none"
    if is_cut:
        return "machine.micro_batch cuts the batch"
    if taken:
        return f"the objective takes the schedule {taken[0]!r}"
    fields = fields_of(optimizer) & scheduled
    if others := sorted(fields - {"lr"}):
        return f"{others[0]!r} of the optimizer is scheduled; only lr can be"
    return why_not(optimizer)


class WholeStep:
    """Forward, loss, backward and update as one function.

    Args:
        model: what is trained.
        objective: ``objective(model, batch)``.
        optimizer: of a kind of which `why_not_whole` has nothing to say.
        precision: the number format of the forward pass.
        clip: largest norm of the gradient.
        keeps_output: whether somebody wants the model's output.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, optimizer: Optimizer, precision: Precision, clip: float | None, keeps_output: bool
    ) -> None:
        self._model, self._objective, self._precision = model, objective, precision
        self._clip, self._keeps_output = clip, keeps_output
        self._optimizer = optimizer
        self._finiteness = Finiteness()
        self._measures = clip is not None or any(group.get("nesterov") for group in optimizer.param_groups)  # which writes into the gradients
        self.update = UpdateRule(optimizer)

    def __call__(self, batch: Any) -> Made:
        """Make the step. `UpdateRule.begin` was called before."""
        with self._precision.autocast():
            outcome = as_outcome(self._objective(self._model, batch), batch)
        params = self.update.params
        found = torch.autograd.grad(outcome.loss, params, allow_unused=True)
        with torch.no_grad():
            grads = [grad for grad in found if grad is not None]
            norm = norm_of(grads) if self._measures else None
            flag = self._flag(outcome.loss, grads, norm)
            skip = flag
            if isinstance(outcome.count, torch.Tensor):  # nothing counts: there is no gradient, and nothing is wrong
                is_empty = (outcome.count == 0).to(flag.dtype)
                skip, flag = torch.maximum(flag, is_empty), flag * (1 - is_empty)
            if self._clip is not None:
                assert norm is not None
                factor = (self._clip / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grads_with_norm_
                grads = list(torch._foreach_mul(grads, factor))  # not in place: two parameters may share a gradient
            given = iter(grads)
            self.update([None if grad is None else next(given) for grad in found], skip)
        return Made(self._bare(outcome), grads, norm, flag)

    def constants(self) -> tuple[Any, ...]:
        """What a recorded graph holds for good: options, modes and addresses, to be compared."""
        modules = tuple(module.training for module in self._model.modules())
        addresses = tuple(p.data_ptr() for p in self._model.parameters())
        return (self.update.gathered, modules, addresses)

    def _flag(self, loss: torch.Tensor, grads: list[torch.Tensor], norm: torch.Tensor | None) -> torch.Tensor:
        asked = grads if norm is None or self._clip is None else [norm]
        if torch.compiler.is_compiling():
            good = loss.detach().isfinite()
            for value in asked:  # one after another: torch.stack would be a tensor of its own in memory, beside the kernel that looks at them
                good = good & value.isfinite().all()
            return good.logical_not().to(torch.float32)
        return torch.maximum(self._finiteness.flag(asked), loss.detach().isfinite().logical_not().to(torch.float32))

    def _bare(self, outcome: Outcome) -> Outcome:
        """An outcome without a graph, and without what nobody looks at."""
        output = map_leaves(_detached, outcome.output) if self._keeps_output else None
        logs = {name: _detached(value) for name, value in outcome.logs.items()}
        return Outcome(outcome.loss.detach(), output, outcome.target if self._keeps_output else None, _detached(outcome.count), logs)


class WholeBody:
    """A body of the loop that makes whole steps, and leaves to the standard body what they are not made for.

    Args:
        whole: the step.
        make: the same, compiled or recorded.
        size: samples in a batch that it is made for: those of another size are seldom, such as an epoch's last.
        feed: takes the outcome, for the metrics.
        otherwise: the standard body.
        say: told where the whole step is given up.
        unable: the exceptions that say that it cannot be compiled or recorded; nothing has moved then.
    """

    def __init__(
        self,
        whole: WholeStep,
        make: Callable[[Any], Made],
        size: int,
        feed: Callable[[Outcome], object],
        otherwise: Body,
        say: Callable[[str], object],
        unable: tuple[type[Exception], ...],
    ) -> None:
        self._whole, self._make, self._size = whole, make, size
        self._feed, self._otherwise, self._say, self._unable = feed, otherwise, say, unable
        self.is_given_up = False

    def takes(self, step: Any) -> bool:
        """Whether a step is made as a whole."""
        return not self.is_given_up and list(step.counts) == [self._size]

    def __call__(self, step: Any, model: Any, optimizer: Any) -> None:
        """Make a step."""
        if not self.takes(step):
            self._otherwise(step, model, optimizer)
            return
        if step.values:
            step.set_values(optimizer)
        self._whole.update.begin()
        batch = step.parts[0]
        try:
            made = self._make(batch)
        except self._unable as error:
            self.is_given_up = True
            self._say(f"warning: the step cannot be one graph, and is made as it would be without that: {error}")
            self._otherwise(step, model, optimizer)
            return
        take_in(step, made)
        if not step.refused:
            self._feed(made.outcome)


def take_in(step: Step, made: Made) -> None:
    """Note what `Step.backward` and `Step.update` would have noted, had they made the step.

    Args:
        step: of one micro-batch.
        made: what was made in its place.

    Raises:
        NonFiniteLoss: something was not finite. On the CPU at once; on an accelerator when values are next fetched.
    """
    outcome, norm = made.outcome, made.norm
    value: Any = outcome.loss
    count: Any = step.counts[0] if outcome.count is None else outcome.count
    step._seen[0], step._updated = count, True
    if step._ask:
        value, count = value.item(), count.item() if isinstance(count, torch.Tensor) else count
        if count == 0:
            return
        if not math.isfinite(value):
            return step._refuse_window(f"the loss is {value}")
    for name, number in outcome.logs.items():
        step._record(name, number, count)
    step._record("loss", value, count)
    if step._ask and made.found.item():
        what = "the gradient is" if norm is None else f"the norm of the gradient is {norm.item()}:"
        return step._refuse_window(f"{what} not finite")
    if not step._ask and step._doubt is not None:
        step._doubt(step.number, made.found.clone())
    step._grads, step._norm = made.grads, norm
    step.updates += 1


def own(made: Made) -> Made:
    """What a recorded step gave, in memory of its own where somebody may keep it: the next step is written over it."""
    outcome = made.outcome
    return replace(made, outcome=replace(outcome, output=map_leaves(_copied, outcome.output), target=map_leaves(_copied, outcome.target)))


def tensors_of(batch: Any) -> list[torch.Tensor] | None:
    """The tensors of a batch, in order; None where it holds something else."""
    found = list(leaves(batch))
    return found if all(isinstance(leaf, torch.Tensor) for leaf in found) else None


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
