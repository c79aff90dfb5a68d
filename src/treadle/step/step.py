"""The step: micro-batches, backward, update. One optimizer step, whatever it is cut into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch.optim import Optimizer

from treadle.core.errors import NonFiniteLoss, ObjectiveError, UsageError
from treadle.step.fast import Update
from treadle.step.gradients import Finiteness, backward, clip_gradients, norm_of, scale_gradients
from treadle.step.objective import Count, Outcome
from treadle.system.precision import Precision


class Record(Protocol):
    """Where the values of a step go: ``record(name, value, weight, counted)``."""

    def __call__(self, name: str, value: Any, weight: Any, counted: bool = True) -> None:
        """Take a mean over `weight` things; `counted`: whether these were not counted before."""


class Part(Protocol):
    """What a step needs to know of a batch, see `treadle.data.batch.Batch`."""

    parts: Sequence[Any]
    counts: Sequence[int]
    ids: Any


class Step:
    """One optimizer step. It belongs to its turn of the loop and is used again for the next.

    Iterate over it for its micro-batches (again, for a second optimizer), call `backward` on each loss and `update`
    once for each optimizer.

    Attributes:
        number: the n-th update is step n, from 1.
        samples: samples in the whole batch.
        ids: index of each sample in its dataset, int64 array of shape (samples,), or None.
        values: this step's value of every schedule, by name.
        updates: how many optimizers have moved in this step.
        run: the `Run` that it belongs to; None for a step without one.
        scaler: the loss scaler of fp16; None in any other number format.
        has_moved: whether an optimizer has moved in this step, or was about to.
    """

    def __init__(
        self,
        record: Record,
        precision: Precision,
        refuse: Callable[[str], object] | None = None,
        doubt: Callable[[int, torch.Tensor], object] | None = None,
        ask: bool = False,
        run: Any = None,
    ) -> None:
        self._record, self._precision, self._refuse, self._doubt = record, precision, refuse or _stop, doubt
        # A value is asked for at once where that costs no wait for an accelerator, or where the run wants to know.
        self._ask = ask or self._is_free(precision.device)
        self.run = run
        self.scaler: Any = precision.scaler
        self.number, self.samples, self.ids, self.updates = 0, 0, None, 0
        self.values: Mapping[str, float] = {}
        self._parts: Sequence[Any] = ()
        self._optimizers: dict[Optimizer, Update] = {}
        self._counts: Sequence[int] = ()
        self._part = 0
        # A window goes from the first backward after an update to the last update after a backward.
        self._seen: dict[int, Count] = {}  # count of each part in this window
        self._updated = False  # whether the window's gradient has moved an optimizer
        self._scaled = False  # whether an optimizer moved since the loss scaler last looked, in fp16
        self._logged: set[int] = set()  # parts whose count the mean loss has taken in
        self._explicit = False  # whether an objective named its own counts
        self._refused = False  # whether something in it was not finite, so that it moves nothing
        self._left_out = False  # whether that was so in any window of the step
        self.has_moved = False
        self._finiteness = Finiteness()
        self._grads: list[torch.Tensor] = []
        self._norm: torch.Tensor | None = None

    @staticmethod
    def _is_free(device: torch.device) -> bool:
        return device.type == "cpu"

    def adopt(self, optimizers: Sequence[Optimizer]) -> None:
        """Know the optimizers of a run: where there are several, a backward pass for one leaves gradients with the others."""
        for optimizer in optimizers:
            if optimizer not in self._optimizers:
                self._known(optimizer).clear()  # of what was before the run

    def clear(self) -> None:
        """Leave no gradient with any optimizer: it may move parameters that belong to none of the run's models."""
        for known in self._optimizers.values():
            known.clear()

    def begin(self, number: int, batch: Part, values: Mapping[str, float]) -> None:
        """Take the next batch. Called by the run."""
        self.number, self.ids, self.values = number, batch.ids, values
        self._parts, self._counts, self.samples = batch.parts, batch.counts, sum(batch.counts)
        self._part, self.updates, self.has_moved = 0, 0, False
        self._logged.clear()
        self._grads, self._norm, self._left_out = [], None, False
        self._open_window()

    def __iter__(self) -> Iterator[Any]:
        """The micro-batches, each in the user's own structure, on the run's device, under the run's precision."""
        for part, batch in enumerate(self._parts):
            self._part = part
            if self._precision.dtype is None:
                yield batch
            else:
                with self._precision.autocast():
                    yield batch

    def backward(self, loss: torch.Tensor | Outcome, count: Count | None = None) -> None:
        """Add the gradient of a loss, weighted by its count over the whole batch's count.

        Args:
            loss: scalar tensor, a mean over `count` things; or an `Outcome`, whose count and logs are used.
            count: how many things; the micro-batch's samples unless told.

        Raises:
            ObjectiveError: the loss is not one number, or has no gradient.
            NonFiniteLoss: it is NaN or infinite. On the CPU at once; on an accelerator when values are next fetched.
        """
        logs: Mapping[str, Any] | None = None
        if isinstance(loss, Outcome):
            logs, given, loss = loss.logs, loss.count, loss.loss
            count = given if count is None else count
        if self._updated:
            self._open_window()
        if self._refused:
            return
        if count is None:
            count = self._counts[self._part]
        else:
            self._explicit = True
        if not isinstance(loss, torch.Tensor):
            raise ObjectiveError(f"step {self.number}: the loss must be a tensor of one number with a gradient, got {loss!r}")
        if loss.numel() != 1 or not loss.requires_grad:
            raise ObjectiveError(
                f"step {self.number}: the loss must be one number with a gradient, got the shape {list(loss.shape)}, "
                f"requires_grad={loss.requires_grad}"
            )
        if self._ask:
            value: Any = loss.item()
            if isinstance(count, torch.Tensor):
                count = count.item()
            if count == 0:  # nothing in this micro-batch counts: its mean is 0 / 0 and it has no share
                self._seen.setdefault(self._part, 0)
                self._explicit = True
                return
            if not math.isfinite(value):
                return self._refuse_window(f"the loss is {value}")
        else:
            value = loss.detach()
        if logs:
            for name, number in logs.items():
                self._record(name, number, count)
        self._record("loss", value, count, self._part not in self._logged)
        self._logged.add(self._part)
        self._seen[self._part] = count
        share = count / self.samples if len(self._parts) > 1 else None
        if self._precision.dtype is None:
            backward(loss, share)
            return
        with self._precision.full():
            backward(loss if self.scaler is None else self.scaler.scale(loss), share)

    def update(self, optimizer: Optimizer, clip: float | None = None) -> None:
        """One optimizer update: unscale, clip, this step's schedule values, step, zero_grad.

        Args:
            optimizer: whose parameters move.
            clip: largest norm of the whole gradient; None does not clip.

        Raises:
            UsageError: there is no gradient, because `backward` was not called, or its loss does not depend on these parameters.
        """
        known = self._optimizers.get(optimizer) or self._known(optimizer)
        if self._refused:
            return self._leave_out(known)
        params, grads = known.gradients()
        self._grads = grads
        if not params:
            self._check_nothing_counted()
            return
        if len(self._parts) > 1 or self.scaler is not None:
            self._weigh(optimizer)
        self._norm = self._norm_before(optimizer, clip)
        flag = None
        if self.scaler is None:  # which leaves out by itself what is not finite, and scales less
            if not self._ask:
                flag = self._flag(clip)
            elif wrong := self._wrong(clip):
                self._refuse_window(wrong)
                return self._leave_out(known)
        if clip is not None:
            clip_gradients(params, self._norm, clip)  # type: ignore[arg-type]
        self.has_moved = True
        if self.values:
            self._set_values(optimizer)
        if self.scaler is not None:
            self.scaler.step(optimizer)
            known.clear()
        elif flag is None:
            known.step(params, grads)
        else:
            self._step_unless(optimizer, flag)
            known.clear()
        self._updated = True
        self.updates += 1

    def _known(self, optimizer: Optimizer) -> Update:
        """How an optimizer is stepped, from its first time on."""
        return self._optimizers.setdefault(optimizer, Update(optimizer))

    def _open_window(self) -> None:
        """Forget counts and gradients: where there are several optimizers, a backward for one leaves gradients with the others."""
        if self._scaled:
            self._rescale()
        self._seen.clear()
        self._explicit = self._updated = self._refused = False
        if len(self._optimizers) > 1:
            self.clear()

    def _weigh(self, optimizer: Optimizer) -> None:
        """Make the gradient that of the whole batch, which was cut into parts or scaled.

        Raises:
            UsageError: some of the parts had no backward.
        """
        if 0 < len(self._seen) < len(self._parts):
            raise UsageError(
                f"step {self.number}: update() after {len(self._seen)} of {len(self._parts)} micro-batches; call it after the loop over the step, "
                "so that the batch is one however it is cut"
            )
        if self.scaler is not None:  # gradients as they are without the loss scale, which stays the same through a window
            self.scaler.unscale_(optimizer)
            self._scaled = True
        if self._explicit and len(self._parts) > 1:
            total = sum(self._seen.values())
            if isinstance(total, torch.Tensor) or total not in (0, self.samples):
                scale_gradients(self._grads, self.samples / total)

    def _set_values(self, optimizer: Optimizer) -> None:
        """This step's schedule values, for the fields of an optimizer that have their names."""
        for group in optimizer.param_groups:
            for name, value in self.values.items():
                if name in group:
                    group[name] = value

    def made(self, outcome: Outcome, grads: list[torch.Tensor], norm: torch.Tensor | None, found: torch.Tensor) -> None:
        """Take in a whole step that was made in one piece, see `treadle.step.whole`: what `backward` and `update` would have noted.

        Args:
            outcome: of the one micro-batch, without a graph.
            grads: the gradients.
            norm: of the whole gradient, where it is known.
            found: 1.0 where something was not finite, so that nothing moved.

        Raises:
            NonFiniteLoss: it was. On the CPU at once; on an accelerator when values are next fetched.
        """
        value: Any = outcome.loss
        count: Any = self._counts[0] if outcome.count is None else outcome.count
        self._seen[0], self._updated = count, True
        if self._ask:
            value, count = value.item(), count.item() if isinstance(count, torch.Tensor) else count
            if count == 0:
                return
            if not math.isfinite(value):
                return self._refuse_window(f"the loss is {value}")
        for name, number in outcome.logs.items():
            self._record(name, number, count)
        self._record("loss", value, count)
        if self._ask and found.item():
            what = "the gradient is" if norm is None else f"the norm of the gradient is {norm.item()}:"
            return self._refuse_window(f"{what} not finite")
        if not self._ask and self._doubt is not None:
            self._doubt(self.number, found.clone())
        self._grads, self._norm = grads, norm
        self.updates += 1

    def _wrong(self, clip: float | None) -> str:
        """What about the gradient is not finite; empty where all is. To clip, its norm has to be, too."""
        if clip is None:
            return "" if self._finiteness.holds(self._grads) else "the gradient is not finite"
        norm = self._norm.item()  # type: ignore[union-attr]
        return "" if math.isfinite(norm) else f"the norm of the gradient is {norm}"

    def _flag(self, clip: float | None) -> torch.Tensor:
        """The same, as a number that stays on the device: 1.0 where something is not finite."""
        return self._finiteness.flag(self._grads if clip is None else [self._norm])  # type: ignore[list-item]

    def _step_unless(self, optimizer: Optimizer, flag: torch.Tensor) -> None:
        """Step where a flag is 0.0: an optimizer that can, a fused one, looks at it on the device. The host is told at the next fetch."""
        if self._doubt is not None:
            self._doubt(self.number, flag)
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.step()
            return
        optimizer.grad_scale, optimizer.found_inf = None, flag  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]

    def _refuse_window(self, what: str) -> None:
        """Something is not finite: stop, or go on without this update."""
        self._refused = self._left_out = True
        moved = f"{self.updates} other update(s) of this step were made before" if self.updates else "nothing was updated in this step"
        self._refuse(f"{what} at step {self.number}; {moved}. Its samples, by their index in the data: {_short(self.ids)}")

    def _leave_out(self, known: Update) -> None:
        known.clear()
        self._updated = True

    @property
    def parts(self) -> Sequence[Any]:
        """The micro-batches, each in the user's own structure."""
        return self._parts

    @property
    def counts(self) -> Sequence[int]:
        """Samples in each micro-batch."""
        return self._counts

    @property
    def reached(self) -> int:
        """Samples in the micro-batches up to the current one."""
        return sum(self._counts[: self._part + 1])

    @property
    def refused(self) -> bool:
        """Whether an update of this step was left out, because something was not finite."""
        return self._left_out

    def _check_nothing_counted(self) -> None:
        if self._seen and all(not isinstance(count, torch.Tensor) and count == 0 for count in self._seen.values()):
            self._updated = True
            return
        raise UsageError(
            f"step {self.number}: update() without a gradient; call step.backward(loss), of a loss that depends on this optimizer's parameters"
        )

    def _rescale(self) -> None:
        self.scaler.update()
        self._scaled = False

    def _norm_before(self, optimizer: Optimizer, clip: float | None) -> torch.Tensor | None:
        """The gradient's norm, where it has to be known before the update: to clip, or since the optimizer writes into the gradients."""
        needed = clip is not None
        for group in optimizer.param_groups:
            needed = needed or bool(group.get("nesterov") or (self.scaler is not None and group.get("fused")))
        return norm_of(self._grads) if needed else None

    @property
    def grad_norm(self) -> torch.Tensor:
        """Norm of the last update's whole gradient before clipping, a scalar on its device; computed when asked for."""
        if self._norm is None:
            self._norm = norm_of(self._grads)
        return self._norm

    def finish(self) -> None:
        """Raise where gradients would leak into the next step. Called by the run."""
        if self._scaled:
            self._rescale()
        if self._seen and not self._updated:
            raise UsageError(f"step {self.number}: backward() was called, update() was not; call step.update(optimizer) once for each optimizer")


def _stop(what: str) -> NoReturn:
    raise NonFiniteLoss(what)


def _short(ids: Any) -> str:
    return "unknown" if ids is None else f"[{', '.join(map(str, ids[:8].tolist()))}{', ...' if len(ids) > 8 else ''}]"
