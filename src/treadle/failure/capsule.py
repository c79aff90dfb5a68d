"""The capsule: a step that failed, kept so that it can be made again.

    capsules/step-000124/      a checkpoint of the run as it was before step 124, and beside it
      batch.safetensors        the batch of that step
      state.json               also says what happened: error, traceback, sample ids, gradients that were not finite

It is read as checkpoints are: verified, and without running any code. `treadle replay` goes on from it, for one step.
"""

from __future__ import annotations

import shlex
import shutil
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tracked import BATCH, Tracked
from treadle.checkpoint.tree import encode
from treadle.config.schema import Config
from treadle.core.errors import CheckpointError, NonFiniteLoss, TreadleError
from treadle.core.structure import describe
from treadle.failure.parameters import Parameters
from treadle.step.before import Before
from treadle.step.gradients import Finiteness
from treadle.step.step import Step
from treadle.system.files import discard

_KEPT = 3
"""How many capsules of a run stay: the newest."""


def write_capsule(
    run_folder: Path, step: Step, states: Mapping[str, Any], models: Mapping[str, nn.Module], error: BaseException, **facts: Any
) -> Path:
    """Keep a step.

    Args:
        run_folder: of the run.
        step: the step that failed.
        states: everything that is in a checkpoint, as it was before the step.
        models: the models, whose gradients are still there.
        error: what happened.
        facts: further JSON facts.

    Returns:
        the capsule's folder.

    Raises:
        CheckpointError, OSError: it cannot be written.
    """
    info = {
        "step": step.number,
        "error": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "ids": None if step.ids is None else step.ids.tolist(),
        "counts": list(step.counts),
        "batch": [describe(part) for part in step.parts],
        "updates": step.updates,
        "gradients": _wrong_gradients(models),
        **facts,
    }
    encoded = {name: encode(state, name) for name, state in states.items()}
    try:
        encoded[BATCH] = encode(list(step.parts), BATCH)
    except CheckpointError as why:  # it is read again from the data, then
        info["batch_missing"] = str(why)
    parent = run_folder / "capsules"
    found = write_checkpoint(parent, step.number, encoded, info)
    _clean(parent)
    return found


class Failures:
    """What comes of steps that fail: they are kept, and where the config wants it the run goes on without them.

    Args:
        run: gives the current step and takes what is logged and said.
        folder: the run folder.
        config: what to do where something is not finite.
        tracked: what a checkpoint holds.
        states: gives everything that is in a checkpoint, with these random generators.
    """

    def __init__(self, run: Any, folder: Path, config: Config, tracked: Tracked, states: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._run, self._folder, self._config, self._tracked, self._states = run, folder, config, tracked, states
        self.before = self._before = Before()
        self.mark = self._before.mark
        """A step begins."""
        self._refused: NonFiniteLoss | None = None
        self.skipped = 0
        """Updates that were left out."""

    def begin(self) -> None:
        """The run begins, with everything that it tracks."""
        self._parameters = Parameters(self._tracked.named())
        self._before.watch(self._tracked.models().items(), self._tracked.generators())

    def check_parameters(self) -> None:
        """See that what is trained is what the run began with.

        Raises:
            UsageError: a handler, or the body of the loop, changed it.
        """
        self._parameters.check(self._run.progress.steps)

    def take_back(self) -> None:
        """Put back what the forward pass of a step without an update did to BatchNorm's statistics and the like."""
        self._before.put_back()

    def refuse(self, what: str) -> None:
        """A loss or a gradient is not finite: nothing is updated. Go on without this update where the config says so.

        Raises:
            NonFiniteLoss: it does not, or this was one too many.
        """
        limit, left_out = self._config.skip_non_finite, self.skipped
        if left_out >= limit:
            more = f"; {left_out} updates were left out before it, and skip_non_finite is {limit}" if limit else ""
            self._refused = NonFiniteLoss(what + more)
            raise self._refused
        kept = self._keep(NonFiniteLoss(what))
        self.skipped += 1
        self._run.log({"train/skipped_updates": self.skipped})
        self._run.say(f"warning: {what}. This update is left out, {self.skipped} of at most {limit} so far; {kept}")

    def failed(self, error: BaseException) -> None:
        """The body of a step raised: keep the step, where it is worth it, and say so in a note; nothing takes the error's place.

        A wrong use of Treadle is no failure of the step, nor is a loss of an earlier one that is seen now. At the very first
        step, starting again does the same.
        """
        is_of_the_step = isinstance(error, Exception) and not isinstance(error, TreadleError) and self._run.progress.steps > 0
        if is_of_the_step or error is self._refused:
            note = self._keep(error)
            with suppress(Exception):  # an exception can be one that takes no notes
                error.add_note(note)

    def _keep(self, error: BaseException) -> str:
        """Write a capsule, and say where it is, or why there is none."""
        try:
            place = self._write(error)
            return f"the step is kept in {place}; to make it again: treadle replay {shlex.quote(str(place))}"
        except Exception as second:
            return f"the step could not be kept for treadle replay: {type(second).__name__}: {second}"

    def _write(self, error: BaseException) -> Path:
        before = self._before
        facts = {"doubtful": before.doubtful_generators(), "doubtful_buffers": before.doubtful_buffers(), "epoch": self._run.progress.epoch}
        before.put_back()  # what the rest of the body does to them is taken back at its end
        states = {**self._states(before.generators()), **before.own_generators()}
        return write_capsule(self._folder, self._run.step, states, self._tracked.models(), error, **facts)


def _wrong_gradients(models: Mapping[str, nn.Module]) -> list[str]:
    """Parameters whose gradient is not finite, by name."""
    finiteness = Finiteness()
    return [
        f"{name}.{key}"
        for name, model in models.items()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None and not finiteness.holds([parameter.grad])
    ]


def _clean(parent: Path) -> None:
    """Leave the newest ones, and nothing of those that were never finished or half removed."""
    with suppress(OSError):
        for remains in [*parent.glob(".step-*.tmp"), *parent.glob(".step-*.old")]:
            shutil.rmtree(remains, ignore_errors=True)
        for old in sorted(parent.glob("step-*"), key=lambda path: path.stat().st_mtime_ns)[:-_KEPT]:
            discard(old)
