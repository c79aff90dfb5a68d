"""Rows: what a run logs of a window of steps, brought from the device in one copy."""

from __future__ import annotations

from typing import Any

import torch

from treadle.core.schedules.named import flat
from treadle.core.when import Progress
from treadle.log.log import Log
from treadle.log.pace import Pace
from treadle.metrics.means import Means
from treadle.step.step import Step
from treadle.system.transfer import to_host


def fetch(means: Means, log: Log) -> None:
    """Bring everything that waits on the device to the host: losses, flags, whatever was logged.

    Raises:
        NonFiniteLoss: one of the losses, or of the gradients, was not finite.
    """
    waiting = means.waiting()
    numbers = to_host([*waiting, *log.waiting()])
    log.fetched(numbers[len(waiting) :])
    means.fetch(numbers[: len(waiting)])


def window_row(means: Means, log: Log, pace: Pace, step: Step, progress: Progress, saving: float, device: torch.device) -> dict[str, Any]:
    """The row of a window: means of the loss and its companions since the last one, schedules, times.

    Args:
        means: what the steps gave.
        log: what else was logged.
        pace: how long they took.
        step: the last of them.
        progress: where the run is.
        saving: seconds for which checkpoints were being written.
        device: where it trains.
    """
    fetch(means, log)
    row: dict[str, Any] = {f"train/{name}": value for name, value in means.window().items()}
    row |= {f"schedule/{name}": value for name, value in flat(step.values)}
    row |= pace.window(progress, saving)
    if device.type == "cuda":
        row["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return row
