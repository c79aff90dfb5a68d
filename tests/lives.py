"""Two lives of a run: one that is never interrupted, and one that falls over and goes on, for tests that both are the same."""

from pathlib import Path

import treadle
from guarantees.remains import bits, first_difference
from treadle.checkpoint.restore import read_checkpoint
from treadle.log.writer import is_clock


class Killed(Exception):
    """What ends a life."""


def quiet(folder, **given):
    """A config for tests: on the CPU, silent, with a row and a checkpoint every few steps."""
    parts = {
        "machine": treadle.MachineConfig(device="cpu"),
        "log": treadle.LogConfig(every="2 steps", console="quiet", tensorboard=False),
        "checkpoint": treadle.CheckpointConfig(every="3 steps", keep_last=1),
        "data": treadle.DataConfig(leaks="off"),
        "batch_size": 8,
        "duration": "4 epochs",
    }
    return treadle.Config(run_dir=str(folder), **(parts | given))


def killed_at(trainer, step):
    """Fit until the body of a step has ended, and fall over there."""

    def fall(run):
        if run.progress.steps == step:
            raise Killed

    trainer.on("step_finished")(fall)
    try:
        trainer.fit()
    except Killed:
        return
    raise AssertionError(f"the run did not come to step {step}")


def rows(folder):
    """The journal without what only a clock gives."""
    return [{name: value for name, value in row.items() if name != "wall" and not is_clock(name)} for row in treadle.read_journal(folder)]


def same_after_a_fall(make, tmp_path: Path, *steps: int):
    """Hold a run that fell over, and went on, to one that did not; returns the result of the latter.

    Args:
        make: builds the trainer, from the run folder.
        tmp_path: where both live.
        steps: where it falls over, one life after the other.
    """
    whole = make(tmp_path / "whole").fit()
    folder = tmp_path / f"killed-{'-'.join(map(str, steps))}"
    for step in steps:
        killed_at(make(folder), step)
    other = make(folder).fit()
    assert (whole.status, whole.steps) == (other.status, other.steps)
    assert {label: place.name for label, place in whole.kept.items()} == {label: place.name for label, place in other.kept.items()}
    assert first_difference(rows(whole.run_dir), rows(other.run_dir)) is None
    one, two = (bits(read_checkpoint(result.last)[0]) for result in (whole, other))
    for states in (one, two):
        states.pop("TimeBudget", None)  # a clock
        states["run"].pop("journal")  # as long as the digits of its clocks
    assert first_difference(one, two) is None
    return whole
