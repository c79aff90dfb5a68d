"""Generators of the user's own are tracked like anything with state."""

import random
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import treadle

KINDS = {
    "torch": (lambda: torch.Generator().manual_seed(3), lambda generator: torch.rand((), generator=generator).item()),
    "numpy": (lambda: np.random.default_rng(3), lambda generator: generator.normal()),
    "numpy, MT19937": (lambda: np.random.Generator(np.random.MT19937(3)), lambda generator: generator.normal()),
    "numpy, the older kind": (lambda: np.random.RandomState(3), lambda generator: generator.normal()),
    "python": (lambda: random.Random(3), lambda generator: generator.gauss()),
}


def draws(make, draw, folder, fall_over_at=None):
    """What each step of a run drew, from where it went on."""
    generator, found = make(), {}
    config = treadle.Config(
        run_dir=str(folder),
        duration="6 steps",
        batch_size=4,
        checkpoint=treadle.CheckpointConfig(every="2 steps"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    with suppress(ZeroDivisionError), treadle.Run(config) as run:
        model, optimizer = run.prepare(nn.Linear(2, 1), partial(torch.optim.SGD, lr=0.1))
        run.track(model=model, optimizer=optimizer, noise=generator)
        for step in run.steps((torch.ones(24, 2), torch.ones(24, 1))):
            found[step.number] = draw(generator)
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
            if step.number == fall_over_at:
                raise ZeroDivisionError
    return found


@pytest.mark.parametrize(("make", "draw"), KINDS.values(), ids=KINDS)
def test_a_generator_goes_on_where_it_was(tmp_path, make, draw):
    whole = draws(make, draw, tmp_path / "whole")
    assert len(set(whole.values())) == 6
    draws(make, draw, tmp_path / "cut", fall_over_at=5)
    assert draws(make, draw, tmp_path / "cut") == {5: whole[5], 6: whole[6]}
