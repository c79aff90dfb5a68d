"""Loops without data: steps are all they have, unless they say how many make an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.errors import ConfigError


def config(**given: Any) -> treadle.Config:
    defaults: dict[str, Any] = {"run_dir": "results/r", "duration": "1 epoch", "log": treadle.LogConfig(every="5 steps", console="quiet")}
    return treadle.Config(**defaults | given)


def walk(run: treadle.Run, stop_after: int | None = None, **lengths: Any) -> list[tuple[int, int, int]]:
    """Fit a point by noise; gives step, epochs done before it, and steps into the epoch."""
    model, optimizer = run.prepare(nn.Linear(3, 1), torch.optim.SGD)
    run.track(model=model, optimizer=optimizer)
    seen = []
    for step in run.steps(**lengths):
        seen.append((step.number, run.progress.epochs, run.progress.into_epoch))
        step.backward((model(torch.randn(4, 3)) ** 2).mean())
        step.update(optimizer)
        if step.number == stop_after:
            raise RuntimeError("cut")
    return seen


def test_an_epoch_is_as_many_steps_as_is_said() -> None:
    finished = []
    with treadle.Run(config()) as run:
        run.on("epoch_finished")(lambda run: finished.append(run.progress.steps))
        seen = walk(run, total="10 steps", epoch="4 steps")
    assert seen == [(n, (n - 1) // 4, (n - 1) % 4) for n in range(1, 11)]
    assert finished == [4, 8]


def test_it_goes_on_in_the_middle_of_an_epoch_with_the_same_bits() -> None:
    with treadle.Run(config(run_dir="results/whole")) as run:
        walk(run, total="3 epochs", epoch="4 steps")
    with pytest.raises(RuntimeError, match="cut"), treadle.Run(config(run_dir="results/cut")) as run:
        walk(run, stop_after=7, total="3 epochs", epoch="4 steps")
    with treadle.Run(config(run_dir="results/cut")) as run:
        seen = walk(run, total="3 epochs", epoch="4 steps")
    assert seen[0] == (5, 1, 0) and seen[-1] == (12, 2, 3)
    first, second = (treadle.load_weights(Path("results") / name / "checkpoints" / "step-000012", nn.Linear(3, 1)) for name in ("whole", "cut"))
    assert torch.equal(first.weight, second.weight)


def test_without_it_a_cadence_in_epochs_is_refused_with_both_ways_out() -> None:
    said = r"checkpoint.every: '1 epoch' never comes in a loop without data; give it in steps, or .* run.steps\(total=..., epoch='100 steps'\)"
    with pytest.raises(ConfigError, match=said), treadle.Run(config()) as run:
        walk(run, total="10 steps")


@pytest.mark.parametrize("epoch", ["1 epoch", "10 samples", "nothing", "0 steps"])
def test_an_epoch_that_is_no_number_of_steps_is_refused(epoch: str) -> None:
    with pytest.raises(ConfigError, match=epoch), treadle.Run(config()) as run:
        walk(run, total="10 steps", epoch=epoch)


def test_data_has_epochs_of_its_own() -> None:
    with pytest.raises(ConfigError, match="this data has epochs of its own"), treadle.Run(config()) as run:
        walk(run, data=torch.zeros(8, 3), epoch="4 steps")
