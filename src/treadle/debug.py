"""Debug: the whole line of a run, in a few steps and in a folder that is thrown away."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from typing import Any, TypeVar

from treadle.checkpoint.restore import read_checkpoint
from treadle.checkpoint.tracked import RUN
from treadle.config.schema import debug_steps, run_config, with_config
from treadle.core.errors import CheckpointError
from treadle.log.journal import read_journal
from treadle.proof.compare import first_different

T = TypeVar("T")


def as_debugged(config: T) -> T:
    """A config whose run is short, saves in its middle, writes a row a step, and leaves nothing behind; any other as it is.

    Args:
        config: a `Config`, or one that holds one.
    """
    held = run_config(config)
    if held.debug is None:
        return config
    steps = debug_steps(held.debug)
    checkpoint = replace(held.checkpoint, every=f"{max(1, steps // 2)} steps")
    short = replace(held, run_dir=f"{_thrown_away()}/run", duration=f"{steps} steps", checkpoint=checkpoint, log=replace(held.log, every="1 step"))
    return with_config(config, short)


def _thrown_away() -> str:
    """A folder that goes when this process ends: until then a script may look at what is in it."""
    folder, owner = tempfile.mkdtemp(prefix="treadle-debug-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # and not when a process ends that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


class Debug:
    """A handler that loads each checkpoint back while the run goes on, and says at the end what has been seen to work.

    Args:
        mode: `Config.debug`.
    """

    def __init__(self, mode: str) -> None:
        self._mode, self._loaded, self._evaluations = mode, 0, 0

    def on_run_started(self, run: Any) -> None:
        """Say that this is no training."""
        run.say(f"debug={self._mode!r}: {run.progress.duration} in {run.dir}, which is removed when this program ends")

    def on_evaluated(self, run: Any) -> None:
        """Count."""
        self._evaluations += 1

    def on_checkpoint_saved(self, run: Any) -> None:
        """Read the checkpoint, and go on from what is in it, as a run does that was killed.

        Raises:
            CheckpointError: an object is not what it was when its own state is loaded.
        """
        tracked, path = run._loop.tracked, run._loop.checkpoints.last
        states, _ = read_checkpoint(path)
        del states[RUN]
        tracked.load(states, accept_changes=False)
        again = {name: state for name, state in tracked.states().items() if name in states}
        if found := first_different(states, again):
            raise CheckpointError(f"a run that goes on from {path.name} would not be the same: loaded again, {found}")
        self._loaded += 1

    def on_run_finished(self, run: Any) -> None:
        """Say what was seen."""
        progress, rows = run.progress, list(read_journal(run.dir))
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        fall = f"; the loss went from {losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) > 1 else ""
        run.say(
            f"debug={self._mode!r}: steps {progress.steps}, samples {progress.samples:,}, evaluations {self._evaluations}; "
            f"checkpoints saved, and loaded back with the same bits: {self._loaded}{fall}"
        )
        if self._mode == "overfit" and losses and not min(losses[-5:]) < 0.5 * losses[0]:
            run.say(
                "warning: one batch could not be learned by heart: the loss did not even halve. Look at the learning rate, at what is frozen, "
                "at whether inputs and targets belong together"
            )
