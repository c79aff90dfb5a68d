"""What a forward pass moves by itself is known as it was when the step began."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from treadle.step import buffers
from treadle.step.before import Before
from treadle.system.seed import set_rng_state


class Own:
    """A generator as a run tracks it."""

    def __init__(self, generator):
        self.state_dict, self.load_state_dict = generator.get_state, generator.set_state


def before(*models, **own):
    found = Before()
    found.watch([(f"model{number}", model) for number, model in enumerate(models)], {name: Own(g) for name, g in own.items()})
    return found


def content(model):
    return [value.clone() for value in model.state_dict(keep_vars=True).values()]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Table(nn.Module):
    """A buffer, and what a forward pass does to it."""

    def __init__(self, size=4, change=lambda self: self.table.add_(1)):
        super().__init__()
        self.register_buffer("table", torch.zeros(size))
        self.change = change

    def forward(self, x):
        self.change(self)
        return x


def spoil(model):
    """A forward pass, in which everything becomes what is not finite."""
    with torch.no_grad():
        model(torch.full((4, 4), float("nan")))
        for buffer in model.buffers():
            buffer.fill_(-1 if buffer.dtype == torch.int64 else float("nan"))


@pytest.mark.parametrize("good", [0, 1, 2, 3, 4, 5, 6, 7, 12])
@pytest.mark.parametrize(
    "model", [nn.BatchNorm1d(4), nn.utils.spectral_norm(nn.Linear(4, 4)), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), Table()], ids=str
)
def test_buffers_are_put_back_at_any_step(model, good):
    found = before(model)
    for _ in range(good):
        found.mark()
        model(torch.randn(8, 4))
    found.mark()
    expected = content(model)
    spoil(model)
    assert not equal(content(model), expected)
    found.put_back()
    assert equal(content(model), expected)
    assert found.doubtful_buffers() == []


@pytest.mark.parametrize("frozen", [0, 1, 5, 9])
def test_statistics_that_stood_still_for_long_are_those_of_the_last_step(frozen):
    model = nn.BatchNorm1d(4).eval()
    found = before(model)
    for number in range(frozen + 3):
        found.mark()
        model.train(number >= frozen)
        model(torch.randn(8, 4))
    found.mark()
    expected = content(model)
    spoil(model)
    found.put_back()
    assert equal(content(model), expected)


def replace(self):
    self.table = self.table + 1


def replace_after_change(self):
    self.table.add_(1)
    self.table = torch.cat([self.table, self.table])


def resize(self):
    self.table.data = torch.full((9,), 7.0)


def remove(self):
    self.table = None


@pytest.mark.parametrize("change", [replace, replace_after_change, resize, remove])
@pytest.mark.parametrize("good", [0, 1, 3])
def test_buffers_that_are_replaced_are_put_back_and_the_new_ones_left_alone(change, good):
    model = Table(change=lambda self: None)
    found = before(model)
    for _ in range(good):
        found.mark()
        model.table = model.table + 1
    found.mark()
    first = model.table
    expected = content(model)
    change(model)
    new = model.table
    kept = None if new is None or new is first else new.clone()
    found.put_back()
    assert model.table is first
    assert equal(content(model), expected)
    assert kept is None or torch.equal(new, kept)


def test_a_buffer_that_was_none_is_none_again():
    model = nn.Module()
    model.register_buffer("table", None)
    found = before(model)
    found.mark()
    model.table = torch.ones(2)
    found.put_back()
    assert model.table is None


def test_modules_that_are_added_later_are_found():
    model = nn.Sequential(nn.Linear(4, 4))
    found = before(model)
    for number in range(5):
        found.mark()
        if number == 2:
            model.append(nn.BatchNorm1d(4))
        model(torch.randn(8, 4))
    expected = content(model)[2:]
    found.mark()
    spoil(model)
    found.put_back()
    assert equal(content(model)[2:], expected)


def test_two_models_that_share_a_module():
    shared = nn.BatchNorm1d(4)
    one, other = nn.Sequential(shared), nn.Sequential(nn.Identity(), shared)
    found = before(one, other)
    found.mark()
    expected = content(shared)
    spoil(one)
    spoil(other)
    found.put_back()
    assert equal(content(shared), expected)


def large(change=lambda self: self.table.add_(1)):
    return Table(buffers._SMALL + 1, change)


@pytest.mark.parametrize("good", [0, 1, 2, 5])
@pytest.mark.parametrize("change", [lambda self: self.table.add_(1), replace], ids=["in place", "replaced"])
def test_large_buffers_that_move_are_put_back(good, change):
    model = large(change)
    found = before(model)
    for _ in range(good):
        found.mark()
        model(torch.zeros(1))
    found.mark()
    spoil(model)
    assert found.doubtful_buffers() == []
    found.put_back()
    assert (model.table == good).all()


def test_large_buffers_that_stand_still_are_not_copied_after_the_first_step():
    model = large()
    found = before(model)
    for _ in range(3):
        found.mark()
    assert found._buffers._copies == []
    model(torch.zeros(1))  # for the first time: nobody has a copy, and that is said
    assert found.doubtful_buffers() == ["model0.table"]
    found.mark()
    assert found.doubtful_buffers() == []
    model(torch.zeros(1))
    found.put_back()
    assert (model.table == 1).all()


def test_what_is_larger_than_there_may_be_memory_for_is_never_copied_unless_it_moves(monkeypatch):
    monkeypatch.setattr(buffers, "_HUGE", 1000)
    model = large()
    found = before(model)
    found.mark()
    assert found._buffers._copies == []


@pytest.mark.parametrize("buffer", [torch.empty(2, device="meta"), torch.eye(2).to_sparse(), torch.zeros(2, requires_grad=True), torch.tensor(True)])
def test_odd_buffers_are_no_harm(buffer):
    model = nn.Module()
    model.register_buffer("odd", buffer)
    found = before(model)
    for _ in range(4):
        found.mark()
        found.put_back()
    assert model.odd is buffer


def test_buffers_from_inference_mode_are_no_harm():
    model = nn.Module()
    with torch.inference_mode():
        model.register_buffer("small", torch.zeros(2))
        model.register_buffer("table", torch.zeros(buffers._SMALL + 1))
    found = before(model)
    for _ in range(4):
        found.mark()
    found.put_back()
    assert (model.small == 0).all()


def test_putting_back_in_the_middle_of_a_step_breaks_no_backward_pass():
    model = nn.BatchNorm1d(4).eval()
    found = before(model)
    found.mark()
    loss = model(torch.randn(8, 4)).sum()
    found.put_back()
    loss.backward()


# --- generators ---

DRAWS = {"torch": lambda: torch.rand(1).item(), "numpy": lambda: np.random.rand(), "python": random.random}


@pytest.mark.parametrize("good", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("draws", [["torch"], ["numpy", "python"], list(DRAWS)], ids=str)
def test_generators_that_move_in_every_step_are_as_they_were(good, draws):
    found = before()
    for _ in range(good):
        found.mark()
        [DRAWS[name]() for name in draws]
    found.mark()
    expected = [DRAWS[name]() for name in draws]
    assert found.doubtful_generators() == []
    set_rng_state(found.generators())
    assert [DRAWS[name]() for name in draws] == expected


def test_a_generator_that_moves_for_the_first_time_in_many_steps_is_doubtful():
    found = before()
    for _ in range(6):
        found.mark()
        torch.rand(1)
    np.random.rand()
    assert found.doubtful_generators() == ["numpy"]
    assert found.doubtful_generators() == ["numpy"]  # asking changes nothing
    for _ in range(4):  # by then all were looked at, and what moved is remembered from there on
        found.mark()
    assert found.doubtful_generators() == []
    expected = np.random.rand()
    set_rng_state(found.generators())
    assert np.random.rand() == expected


def test_generators_of_ones_own_are_as_they_were():
    own = torch.Generator().manual_seed(3)
    found = before(own=own)
    for _ in range(7):
        found.mark()
        expected = torch.rand(1, generator=own)
    own.set_state(found.own_generators()["own"])
    assert torch.equal(torch.rand(1, generator=own), expected)
    found.put_back_generators()
    assert torch.equal(torch.rand(1, generator=own), expected)


def test_marking_draws_nothing():
    state = torch.get_rng_state(), random.getstate()
    found = before(nn.BatchNorm1d(4))
    for _ in range(9):
        found.mark()
    found.put_back()
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
