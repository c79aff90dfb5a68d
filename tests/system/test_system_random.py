"""Random generators: seeded together, kept together, put back together."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

import treadle
from treadle.checkpoint.tree import decode, encode
from treadle.system.seed import get_rng_state, preserved_rng, set_rng_state


def draw():
    """A few numbers of every generator, a normal pair's second half among them."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist(), torch.randn(1).item()]


@pytest.mark.parametrize("number", [0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63 - 1])
def test_one_number_seeds_every_generator(number):
    treadle.seed(number)
    first = draw()
    draw()
    treadle.seed(number)
    assert draw() == first


def test_different_seeds_give_different_numbers():
    draws = []
    for number in range(5):
        treadle.seed(number)
        draws.append(draw())
    for place in range(len(draws[0])):
        assert len({str(one[place]) for one in draws}) == 5


def test_preserved_rng_leaves_every_generator_as_it_was():
    treadle.seed(1)
    random.gauss(0, 1), np.random.randn()  # each keeps the second half of its pair
    expected_state = get_rng_state()
    with preserved_rng():
        treadle.seed(99)
        draw()
    after = draw()
    set_rng_state(expected_state)
    assert draw() == after


def test_preserved_rng_puts_back_after_an_exception():
    treadle.seed(1)
    expected = draw()
    treadle.seed(1)
    with pytest.raises(ZeroDivisionError), preserved_rng():
        draw()
        raise ZeroDivisionError
    assert draw() == expected


def test_the_state_survives_a_file():
    treadle.seed(3)
    random.gauss(0, 1), np.random.randn()
    tree, tensors = encode(get_rng_state(), "rng")
    expected = draw()
    set_rng_state(decode(json.loads(json.dumps(tree)), tensors))
    assert draw() == expected


def settings(folder, seed=0, duration="3 steps"):
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=4,
        seed=seed,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every="1 step"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )


def trainer(folder, seen, **given):
    """A run with a model that is built under the seed, dropout, and noise of every kind in its objective."""

    def objective(model, batch):
        seen.append(draw())
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    data = torch.ones(16, 3), torch.zeros(16, 1)
    build = lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))  # noqa: E731
    return treadle.Trainer(build, objective, data, optimizer=torch.optim.Adam, config=settings(folder, **given))


@pytest.mark.parametrize("disturb", [None, 123])
def test_the_seed_alone_decides_weights_and_noise(tmp_path, disturb):
    found = []
    for name in ("one", "two"):
        if disturb and name == "two":
            treadle.seed(disturb)
        seen = []
        one = trainer(tmp_path / name, seen)
        if disturb and name == "two":
            draw()
        one.fit()
        found.append((seen, [p.tolist() for p in one.model.parameters()]))
    assert found[0] == found[1]


def test_another_seed_gives_other_weights_and_other_noise(tmp_path):
    found = []
    for number in (1, 2):
        seen = []
        one = trainer(tmp_path / str(number), seen, seed=number)
        one.fit()
        found.append((seen[-1], one.model[0].weight.tolist()))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_a_resumed_run_draws_what_the_whole_run_drew(tmp_path):
    whole, before, after = [], [], []
    trainer(tmp_path / "whole", whole, duration="5 steps").fit()
    cut = trainer(tmp_path / "cut", before, duration="5 steps")

    @cut.on("step_finished", every="3 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut.fit()
    trainer(tmp_path / "cut", after, duration="5 steps").fit()
    assert after[1:] == whole[3:]  # each run's first draw is its preflight's
