"""Runs that die between two checkpoints and go on: what is left must be that of a run that nobody disturbed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import treadle
from guarantees.remains import NOT_COMPARED, bits, first_difference
from treadle.checkpoint.restore import read_checkpoint

DIES_AT, SAVES = 5, treadle.CheckpointConfig(every="3 steps")


class Death(BaseException):
    """The end of a process, as far as a test can have it: nobody handles it, nothing is saved."""


class Die:
    """Ends a run after a step."""

    def on_step_finished(self, run: treadle.Run) -> None:
        if run.progress.steps == DIES_AT:
            raise Death


def config(run_dir: str, **values: Any) -> treadle.Config:
    """Of a short run that saves every third step."""
    quiet = treadle.LogConfig(console="quiet", tensorboard=False, every="1 step")
    return treadle.Config(**{"run_dir": run_dir, "duration": "7 steps", "batch_size": 4, "checkpoint": SAVES, "log": quiet, **values})


def left(folder: str) -> dict[str, Any]:
    """The newest checkpoint and the journal of a run."""
    record = json.loads(Path(folder, "run.json").read_text())
    states, _ = read_checkpoint(Path(folder, record["last"]))
    own = states.pop("run")
    del own["journal"]  # its length: the clock is in there
    rows = [{key: value for key, value in row.items() if not key.startswith(NOT_COMPARED)} for row in treadle.read_journal(folder)]
    return {"status": record["status"], "journal": rows, "states": bits(states), "run": bits(own)}


def goes_on(train: Callable[[str, Sequence[object]], Any]) -> Any:
    """Hold a run that dies two steps after a checkpoint, and is started again, to the bits of one that was not disturbed.

    Args:
        train: called as ``train(run_dir, handlers)``.

    Returns:
        what it returned for the run that went on.
    """
    train("undisturbed", [])
    with pytest.raises(Death):
        train("died", [Die()])
    found = train("died", [])
    assert left("died")["status"] == "finished"
    difference = first_difference(left("undisturbed"), left("died"))
    assert difference is None, difference
    return found
