"""Closures: an optimizer that asks for loss and gradient as often as it likes, in one update of one step.

Each evaluation is the same function of the weights: it has the whole batch, however that is cut, and draws the same random
numbers. The first is the step's: its loss is logged, its gradient is what `grad_norm` measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.optim import Optimizer

from treadle.core.errors import UsageError
from treadle.core.structure import map_leaves
from treadle.step.fast import Update
from treadle.step.gradients import clip_gradients, norm_of
from treadle.step.joint import Joint
from treadle.system.seed import get_rng_state, set_rng_state

if TYPE_CHECKING:
    from treadle.step.step import Step

Closure = Callable[[], object]
"""Goes over the step, and calls `Step.backward` on each loss."""


class _NotFinite(Exception):
    """A loss or a gradient is not finite; on its way out of the optimizer."""


class Evaluations:
    """The closure that an optimizer gets.

    Args:
        step: whose batch it is.
        known: how the optimizer is stepped.
        closure: the user's.
        clip: largest norm of the gradient.
    """

    def __init__(self, step: Step, known: Update | Joint, closure: Closure, clip: float | None) -> None:
        self._step, self._known, self._closure, self._clip = step, known, closure, clip
        self._record, self._rng = step._record, get_rng_state()
        self._total, self._count = 0.0, 0
        self.norm: torch.Tensor | None = None
        """That of the first gradient."""

    def __call__(self) -> torch.Tensor:
        """Evaluate: the loss is the mean over the batch."""
        if self._count:
            set_rng_state(self._rng)
        self._total = 0.0
        with torch.enable_grad():
            counted = self._evaluate()
        self._count += 1
        return torch.tensor(self._total / counted if counted else 0.0, dtype=torch.float64)

    def record(self, name: str, value: Any, weight: Any, counted: bool = True) -> None:
        """Take a value of the step."""
        if name == "loss":
            self._total += value * weight
        if not self._count:
            self._record(name, value, weight, counted)

    def _evaluate(self) -> float:
        """Make the gradient of the whole batch, and say over how many things its loss is a mean."""
        step = self._step
        step._open_window()
        self._known.clear()
        self._closure()
        params, step._grads = self._known.gradients()
        if not params:
            step._check_nothing_counted()
            return 0.0
        if len(step.parts) > 1:
            step._weigh(self._known.optimizer)
        norm = norm_of(step._grads)
        if self.norm is None:
            self.norm = norm
        if wrong := step._finiteness.wrong(step._grads, None if self._clip is None else norm):
            step._refuse_window(wrong)
        if self._clip is not None:
            clip_gradients(params, norm, self._clip)  # type: ignore[arg-type]
        return float(sum(step._seen.values()))


def update_by_closure(step: Step, known: Update | Joint, closure: Closure, clip: float | None) -> None:
    """One update of an optimizer that evaluates a closure, such as `torch.optim.LBFGS`; see `Step.update`.

    Where anything raises, weights and the optimizer's state are as they were before: a line search may be anywhere then.

    Raises:
        UsageError: in fp16; or `backward` was called before, outside of the closure.
    """
    if step.scaler is not None:
        raise UsageError("a closure needs the loss as it is, and fp16 scales it; use machine.precision='bf16' or 'fp32'")
    if step._seen and not step._updated:
        raise UsageError(f"step {step.number}: backward() was called before update(closure=...); call it in the closure, which makes the gradient")
    optimizer, evaluations = known.optimizer, Evaluations(step, known, closure, clip)
    if step.values:
        step.set_values(optimizer)
    before, put_back = (step._record, step._ask, step._refuse), kept(optimizer, with_weights=True)
    step._record, step._ask, step._refuse = evaluations.record, True, _not_finite
    wrong = ""
    try:
        optimizer.step(evaluations)  # type: ignore[arg-type]
    except BaseException as error:
        put_back()
        if not isinstance(error, _NotFinite):
            raise
        wrong = str(error)
    finally:
        step._record, step._ask, step._refuse = before
    if wrong:
        step._refuse(wrong)
        step._leave_out(known)
        return
    known.clear()
    step._norm, step.has_moved, step._updated = evaluations.norm, True, True
    step.updates += 1


def kept(optimizer: Optimizer, with_weights: bool = False) -> Callable[[], None]:
    """An optimizer's state and options as they are now, and how to put them back.

    Args:
        optimizer: any.
        with_weights: also its parameters.
    """
    states = {param: map_leaves(_copied, dict(state)) for param, state in optimizer.state.items()}
    groups = [dict(group) for group in optimizer.param_groups]
    params = [param for group in groups for param in group["params"]] if with_weights else []
    weights = [param.detach().clone() for param in params]

    def put_back() -> None:
        optimizer.state = defaultdict(dict, states)  # another object, as after load_state_dict: who keeps tensors of it sees that
        for group, before in zip(optimizer.param_groups, groups, strict=True):
            group.update(before)
        with torch.no_grad():
            for param, weight in zip(params, weights, strict=True):
                param.copy_(weight)

    return put_back


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _not_finite(what: str) -> NoReturn:
    raise _NotFinite(what)
