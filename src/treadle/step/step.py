"""The step: micro-batches, backward, update. One optimizer step, whatever it is cut into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch.optim import Optimizer

from treadle.core.errors import NonFiniteLoss, UsageError
from treadle.step.closure import Closure, update_by_closure
from treadle.step.fast import Update
from treadle.step.fields import set_fields
from treadle.step.gradients import Finiteness, backward, clip_gradients, needs_norm, norm_of, scale_gradients
from treadle.step.joint import Joint
from treadle.step.objective import Count, Outcome, check_loss
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
        values: this step's value of every schedule, by name: a number, or a dict by the names of optimizers or parameter groups.
        names: the name of each optimizer that the run tracks.
        updates: how many optimizers have moved in this step.
        run: the `Run` that it belongs to; None for a step without one.
        scaler: the loss scaler of fp16; None in any other number format.
        has_moved: whether an optimizer has moved in this step, or was about to.
        observers: called by each update as ``observer(params, grads)``, with the whole batch's gradient before it is clipped.
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
        self.values: Mapping[str, Any] = {}
        self.names: Mapping[Optimizer, str] = {}
        self._parts: Sequence[Any] = ()
        self._optimizers: dict[Optimizer, Update] = {}
        self._joint: dict[tuple[Optimizer, ...], Joint] = {}
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
        self.observers: list[Callable[[list[torch.Tensor], list[torch.Tensor]], object]] = []

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

    def begin(self, number: int, batch: Part, values: Mapping[str, Any]) -> None:
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

    def backward(self, loss: torch.Tensor | Outcome, count: Count | None = None, *, retain_graph: bool = False, log: bool = True) -> None:
        """Add the gradient of a loss, weighted by its count over the whole batch's count.

        Args:
            loss: scalar tensor, a mean over `count` things; or an `Outcome`, whose count and logs are used.
            count: how many things; the micro-batch's samples unless told.
            retain_graph: keep what the forward pass saved: another loss goes back through it.
            log: whether loss and logs are those of the step; False for a further pass of the same update, which would count twice.

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
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad or loss.dtype.is_complex:
            check_loss(loss, trains=True, where=f"step {self.number}: ")  # says which of these it is
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
        if log:
            if logs:
                for name, number in logs.items():
                    self._record(name, number, count)
            self._record("loss", value, count, self._part not in self._logged)
            self._logged.add(self._part)
        self._seen[self._part] = count
        share = count / self.samples if len(self._parts) > 1 else None
        if self._precision.dtype is None:
            backward(loss, share, retain_graph)
            return
        with self._precision.full():
            backward(loss if self.scaler is None else self.scaler.scale(loss), share, retain_graph)

    def update(self, optimizer: Optimizer, *others: Optimizer, clip: float | None = None, closure: Closure | None = None) -> None:
        """One optimizer update: unscale, clip, this step's schedule values, step, zero_grad.

        Args:
            optimizer: whose parameters move.
            others: further optimizers that move by the same gradient: it has one norm, and is finite or not as one.
            clip: largest norm of the whole gradient; None does not clip.
            closure: for an optimizer that evaluates loss and gradient by itself, such as `torch.optim.LBFGS`: a function
                without arguments that goes over the step and calls `backward`, as often as it is called. Each call draws the
                same random numbers, and the first one's loss is logged.

        Raises:
            UsageError: there is no gradient, because `backward` was not called, or its loss does not depend on these parameters.
        """
        known: Update | Joint = self._optimizers.get(optimizer) or self._known(optimizer)
        if others:
            known = self._together(optimizer, *others)
            optimizer = known.optimizer
        if closure is not None:
            if others:
                raise UsageError("a closure belongs to one optimizer, which evaluates it when it likes; update each with a closure of its own")
            return update_by_closure(self, known, closure, clip)
        if self._refused:
            return self._leave_out(known)
        params, grads = known.gradients()
        self._grads = grads
        if not params:
            self._check_nothing_counted()
            return
        if len(self._parts) > 1 or self.scaler is not None:
            self._weigh(optimizer)
        if self.observers:
            for observe in self.observers:
                observe(params, grads)
        self._norm = norm_of(grads) if needs_norm(optimizer, clip, self.scaler is not None) else None
        flag = None
        if self.scaler is None:  # which leaves out by itself what is not finite, and scales less
            if not self._ask:
                flag = self._finiteness.flag(grads if clip is None else [self._norm])  # type: ignore[list-item]
            elif wrong := self._finiteness.wrong(grads, None if clip is None else self._norm):
                self._refuse_window(wrong)
                return self._leave_out(known)
        if clip is not None:
            clip_gradients(params, self._norm, clip)  # type: ignore[arg-type]
        self.has_moved = True
        if self.values:
            self.set_values(optimizer)
        if self.scaler is not None:
            self.scaler.step(optimizer)
            known.clear()
        elif flag is None:
            known.step(params, grads)
        else:
            if self._doubt is not None:
                self._doubt(self.number, flag)
            known.step_unless(flag)
        self._updated = True
        self.updates += 1
        if others:
            self.updates += len(others)

    def take_gradient(self, optimizer: Optimizer, *others: Optimizer) -> dict[torch.Tensor, torch.Tensor]:
        """The gradient of the whole batch, taken away, and nothing is updated: for updates that need more than one pass.

        What is done with it is the caller's: move weights and go over the step again, compare it with that of another loss, or write
        a gradient of one's own into ``parameter.grad`` before `update`.

        Args:
            optimizer: whose parameters it belongs to.
            others: further optimizers.

        Returns:
            gradient by parameter, weighted over micro-batches and not clipped; empty where this update is left out, because
            something was not finite.

        Raises:
            UsageError: there is no gradient; or in fp16, whose gradients are scaled.
        """
        if self.scaler is not None:
            raise UsageError("take_gradient() needs the gradient as it is, and fp16 scales it; use machine.precision='bf16' or 'fp32'")
        known = self._together(optimizer, *others) if others else self._known(optimizer)
        params, grads = ([], []) if self._refused else known.gradients()
        self._grads, self._norm = grads, None
        if self._refused:
            return {}
        if not params:
            self._check_nothing_counted()
            return {}
        if len(self._parts) > 1:
            self._weigh(known.optimizer)
        if not self._ask:
            if self._doubt is not None:
                self._doubt(self.number, self._finiteness.flag(grads))
        elif wrong := self._finiteness.wrong(grads, None):
            self._refuse_window(wrong)
            return {}
        known.clear()
        self._updated = self.has_moved = True  # what the caller moves by it, nobody can take back
        return dict(zip(params, grads, strict=True))

    def _known(self, optimizer: Optimizer) -> Update:
        """How an optimizer is stepped, from its first time on."""
        return self._optimizers.setdefault(optimizer, Update(optimizer))

    def _together(self, *optimizers: Optimizer) -> Joint:
        if optimizers not in self._joint:
            self._joint[optimizers] = Joint([self._known(optimizer) for optimizer in optimizers])
        return self._joint[optimizers]

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
        if len(self._seen) < len(self._parts) and not self._updated:
            raise UsageError(
                f"step {self.number}: update() after {len(self._seen)} of {len(self._parts)} micro-batches; call step.backward for each, and "
                "update() after the loop over the step, so that the batch is one however it is cut"
            )
        if self.scaler is not None:  # gradients as they are without the loss scale, which stays the same through a window
            self.scaler.unscale_(optimizer)
            self._scaled = True
        if self._explicit and len(self._parts) > 1:
            total = sum(self._seen.values())
            if isinstance(total, torch.Tensor) or total not in (0, self.samples):
                scale_gradients(self._grads, self.samples / total)

    def set_values(self, optimizer: Optimizer) -> None:
        """Put this step's schedule values into the fields of an optimizer that have their names; `update` does it by itself."""
        set_fields(optimizer, self.values, self.names.get(optimizer, ""))

    def _refuse_window(self, what: str) -> None:
        """Something is not finite: stop, or go on without this update."""
        self._refused = self._left_out = True
        moved = f"{self.updates} other update(s) of this step were made before" if self.updates else "nothing was updated in this step"
        self._refuse(f"{what} at step {self.number}; {moved}. Its samples, by their index in the data: {_short(self.ids)}")

    def _leave_out(self, known: Update | Joint) -> None:
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
    def seen(self) -> Mapping[int, Count]:
        """What each micro-batch counted, by its place, since the last update before which there was no backward."""
        return self._seen

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
            f"step {self.number}: update() without a gradient; call step.backward(loss), of a loss that depends on this optimizer's parameters, "
            "before each update()"
        )

    def _rescale(self) -> None:
        self.scaler.update()
        self._scaled = False

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
