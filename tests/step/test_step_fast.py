"""The update without wrappers: torch's bits and state, and torch's own step wherever anything else is wanted."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from treadle.step import fast
from treadle.step.fast import Update

STEPS = 7


class Net(nn.Module):
    """Small tensors, one that is larger than a bundle, one without elements, one that is used in every second step."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator).to(dtype))

        self.scale, self.weight, self.wide = nn.Parameter(torch.tensor(0.5, dtype=dtype)), parameter(6, 5), parameter(400, 300)
        self.empty, self.seldom = parameter(0, 3), parameter(4)
        self.strided = nn.Parameter(torch.randn(5, 6, generator=generator).to(dtype).t())

    def loss(self, number: int) -> torch.Tensor:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(number)).to(self.weight.dtype)
        value = (x @ self.weight * self.scale).square().mean() + (x @ self.strided).tanh().mean() + self.wide.square().mean() * (number + 1)
        value = value + self.empty.sum()
        return value + self.seldom.sum() ** 2 if number % 2 else value


def pair(kind: type[Optimizer], options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Net, Optimizer, Net, Optimizer]:
    one, two = Net(dtype), Net(dtype)
    return one, kind(groups(one), **options), two, kind(groups(two), **options)


def groups(net: Net) -> list[dict[str, Any]]:
    return [{"params": [net.scale, net.weight, net.empty]}, {"params": [net.wide, net.seldom, net.strided], "weight_decay": 0.05}]


def same(one: Net, first: Optimizer, two: Net, second: Optimizer) -> None:
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    a, b = first.state_dict(), second.state_dict()
    assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
    for place in a["state"]:
        assert a["state"][place].keys() == b["state"][place].keys()
        for name, value in a["state"][place].items():
            other = b["state"][place][name]
            if not isinstance(value, torch.Tensor):
                assert value == other
                continue
            assert value.dtype == other.dtype and value.stride() == other.stride() and torch.equal(value, other)


def step_by_torch(net: Net, optimizer: Optimizer, number: int) -> None:
    optimizer.zero_grad()
    net.loss(number).backward()
    optimizer.step()


def step_by_update(net: Net, update: Update, number: int) -> None:
    net.loss(number).backward()
    update.step(*update.gradients())
    assert all(p.grad is None for p in net.parameters())


def compare(kind: type[Optimizer], options: dict[str, Any], between: Callable[[Net, Optimizer, int], Any] = lambda net, opt, n: None) -> Update:
    """Step both ways, with something done to each between two steps; gives the one that was looked at."""
    one, first, two, second = pair(kind, options)
    update = Update(second)
    for number in range(STEPS):
        step_by_torch(one, first, number)
        step_by_update(two, update, number)
        same(one, first, two, second)
        between(one, first, number)
        between(two, second, number)
    return update


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were called, by name."""
    called: list[str] = []
    for kind, kernel in list(fast._KERNELS.items()):

        def watched(*args: Any, kernel: Any = kernel) -> None:
            called.append(kernel.__name__)
            kernel(*args)

        monkeypatch.setitem(fast._KERNELS, kind, watched)
    return called


PLAIN: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (Adam, {"lr": 0.01}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    (AdamW, {"lr": 0.01}),
    (AdamW, {"lr": 0.01, "foreach": True}),
]


@pytest.mark.parametrize(("kind", "options"), PLAIN, ids=str)
def test_the_same_bits_and_state(kind, options, kernels):
    compare(kind, options)
    assert len(kernels) >= STEPS - 2  # of Adam the state is made by torch, twice: for the parameter that is seldom used, too


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([SGD, Adam, AdamW]),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.99),
    st.floats(0.0, 0.9),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_the_same_bits_with_any_options(kind, lr, decay, momentum, dampening, nesterov, dtype):
    if kind is SGD:
        nesterov = nesterov and momentum > 0
        options = {"lr": lr, "weight_decay": decay, "momentum": momentum, "dampening": 0.0 if nesterov else dampening, "nesterov": nesterov}
    else:
        options = {"lr": lr, "weight_decay": decay, "betas": (momentum, dampening)}
    one, first, two, second = pair(kind, options, dtype)
    update = Update(second)
    for number in range(4):
        step_by_torch(one, first, number)
        step_by_update(two, update, number)
    same(one, first, two, second)


# --- what may happen between two steps ---


def reload(net: Net, optimizer: Optimizer, number: int) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def forget(net: Net, optimizer: Optimizer, number: int) -> None:
    optimizer.state.clear()


def replace(net: Net, optimizer: Optimizer, number: int) -> None:
    for param in list(optimizer.state):
        optimizer.state[param] = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in optimizer.state[param].items()}


def double(net: Net, optimizer: Optimizer, number: int) -> None:
    for entry in optimizer.state.values():
        for name in ("momentum_buffer", "exp_avg"):
            if isinstance(entry.get(name), torch.Tensor):
                entry[name] = entry[name] * 2


def rate(net: Net, optimizer: Optimizer, number: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.1 / (number + 1)
        group["weight_decay"] = 0.01 * number


def freeze(net: Net, optimizer: Optimizer, number: int) -> None:
    net.weight.requires_grad_(number % 3 == 0)


def add(net: Net, optimizer: Optimizer, number: int) -> None:
    if number == 3:
        extra = nn.Parameter(torch.ones(3))
        net.register_parameter("extra", extra)
        optimizer.add_param_group({"params": [extra], "lr": 0.5})
        net.loss = lambda number: Net.loss(net, number) + extra.square().sum()  # type: ignore[method-assign]


def move(net: Net, optimizer: Optimizer, number: int) -> None:
    """A parameter with other memory, and one that is another object."""
    net.weight.data = net.weight.data.clone()
    if number == 2:
        old, new = net.scale, nn.Parameter(net.scale.detach() + 1)
        net.scale = new
        optimizer.param_groups[0]["params"][0] = new
        optimizer.state.pop(old, None)


def regroup(net: Net, optimizer: Optimizer, number: int) -> None:
    optimizer.param_groups.reverse()


@pytest.mark.parametrize("between", [reload, forget, replace, double, rate, freeze, add, move, regroup], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("kind", "options"), [PLAIN[1], PLAIN[6]], ids=["SGD", "AdamW"])
def test_whatever_is_done_between_two_steps(kind, options, between, kernels):
    compare(kind, options, between)
    assert kernels or between is forget


def momentum_on(optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["momentum"] = 0.5


def momentum_off(optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["momentum"] = 0.0


def no_buffer(optimizer: Optimizer) -> None:
    for entry in optimizer.state.values():
        entry["momentum_buffer"] = None


def empty_entry(optimizer: Optimizer) -> None:
    for entry in optimizer.state.values():
        entry.clear()


def pass_on(optimizer: Optimizer) -> None:
    """From one group to the next: the order of all parameters stays what it was."""
    optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("change", [momentum_on, momentum_off, no_buffer, empty_entry, pass_on], ids=lambda f: f.__name__)
def test_what_is_changed_in_place_when_all_else_stays(change, momentum, kernels):
    nets = Net(), Net()
    first, second = (SGD([{"params": [net.scale, net.weight]}, {"params": [net.strided], "lr": 0.5}], lr=0.1, momentum=momentum) for net in nets)
    update = Update(second)
    for number in range(STEPS):
        step_by_torch(nets[0], first, number)
        nets[1].loss(number).backward()
        update.step(*update.gradients())
        same(nets[0], first, nets[1], second)
        if number == 3:
            change(first), change(second)
    assert kernels


def test_state_of_another_dtype_is_left_to_torch(kernels):
    def between(net: Net, optimizer: Optimizer, number: int) -> None:
        for entry in optimizer.state.values():
            entry["momentum_buffer"] = entry["momentum_buffer"].bfloat16()

    compare(SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, between)
    assert not kernels


@pytest.mark.parametrize(("kind", "options"), [PLAIN[3], PLAIN[6]], ids=["SGD", "AdamW"])
def test_weights_that_share_memory_are_left_to_torch(kind, options, kernels):
    one, first, two, second = pair(kind, options)
    for net in (one, two):
        net.strided.data = net.weight.data
    update = Update(second)
    for number in range(STEPS):
        step_by_torch(one, first, number)
        step_by_update(two, update, number)
        same(one, first, two, second)
    assert not kernels


def test_a_weight_of_another_type_is_left_to_torch(kernels):
    class Own(torch.Tensor):
        pass

    weight = nn.Parameter(torch.ones(3).as_subclass(Own))
    update = Update(SGD([weight], lr=0.1))
    weight.square().sum().backward()
    update.step(*update.gradients())
    assert weight.grad is None and not kernels


def test_weights_that_become_narrow_are_left_to_torch(kernels):
    weight = nn.Parameter(torch.ones(3))
    update = Update(SGD([weight], lr=0.1))
    for dtype in (torch.float32, torch.bfloat16):
        weight.data = weight.data.to(dtype)  # what module.to() does: the parameter stays the same object
        weight.square().sum().backward()
        update.step(*update.gradients())
    assert len(kernels) == 1


# --- what brings the optimizer's own step back ---

ASKED: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.1, "fused": True}),
    (SGD, {"lr": 0.1, "maximize": True}),
    (SGD, {"lr": torch.tensor(0.1)}),
    (AdamW, {"lr": 0.01, "amsgrad": True}),
    (AdamW, {"lr": 0.01, "maximize": True}),
    (AdamW, {"lr": 0.01, "fused": True}),
    (AdamW, {"lr": 0.01, "betas": (torch.tensor(0.9), torch.tensor(0.99))}),
    (torch.optim.RMSprop, {"lr": 0.01}),
]


@pytest.mark.parametrize(("kind", "options"), ASKED, ids=str)
def test_options_and_optimizers_that_the_kernels_do_not_know(kind, options, kernels):
    compare(kind, options)
    assert not kernels


def counted(optimizer: Optimizer, how: str) -> list[Any]:
    """Something that wants to see every step, and the steps that it saw."""
    seen: list[Any] = []
    if how == "before":
        optimizer.register_step_pre_hook(lambda *args: seen.append(1))
    elif how == "after":
        optimizer.register_step_post_hook(lambda *args: seen.append(1))
    elif how == "own method":
        step = optimizer.step
        optimizer.step = lambda *args: seen.append(1) or step(*args)  # type: ignore[method-assign]
    elif how == "own zero_grad":
        zero_grad = optimizer.zero_grad
        optimizer.zero_grad = lambda *args, **more: seen.append(1) or zero_grad(*args, **more)  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("how", ["before", "after", "own method", "own zero_grad"])
def test_who_wants_to_see_each_step_sees_it(how, kernels):
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    update = Update(optimizer)
    step_by_update(net, update, 0)
    before = len(kernels)
    assert before
    seen = counted(optimizer, how)
    step_by_update(net, update, 1)
    assert len(seen) == 1 and len(kernels) == before


def test_a_hook_for_all_optimizers(kernels):
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen: list[int] = []
    handle = register_optimizer_step_pre_hook(lambda *args: seen.append(1))
    try:
        net = Net()
        step_by_update(net, Update(SGD(net.parameters(), lr=0.1)), 0)
    finally:
        handle.remove()
    assert seen == [1] and not kernels


def test_a_scheduler_of_torchs_is_not_confused(kernels):
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    update = Update(optimizer)
    for number in range(3):
        step_by_update(net, update, number)
        scheduler.step()  # warns, and warnings are errors, where it has not seen the optimizer's step
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**3 and not kernels


def test_a_profiler_sees_the_range_of_the_step(kernels):
    net = Net()
    update = Update(SGD(net.parameters(), lr=0.1))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step_by_update(net, update, 0)
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()} and not kernels
    step_by_update(net, update, 1)
    assert kernels


def test_a_subclass_is_not_taken_for_its_parent(kernels):
    class Own(SGD):
        def step(self, closure: Any = None) -> Any:
            self.steps = getattr(self, "steps", 0) + 1
            return super().step(closure)

    net = Net()
    optimizer = Own(net.parameters(), lr=0.1)
    step_by_update(net, Update(optimizer), 0)
    assert optimizer.steps == 1 and not kernels


def test_a_step_that_is_any_callable(kernels):
    class Still:
        def __call__(self, closure: Any = None) -> None:
            return None

    class Own(Optimizer):
        step = Still()

    weight = nn.Parameter(torch.ones(3))
    update = Update(Own([weight], {}))
    weight.sum().backward()
    update.step(*update.gradients())
    assert weight.grad is None and torch.equal(weight, torch.ones(3)) and not kernels


def test_a_class_whose_step_was_replaced(kernels, monkeypatch):
    net = Net()
    optimizer = SGD(net.parameters(), lr=0.1)
    update, seen, step = Update(optimizer), [], SGD.step
    monkeypatch.setattr(SGD, "step", lambda self, closure=None: seen.append(1) or step(self, closure))
    step_by_update(net, update, 0)
    step_by_update(net, Update(optimizer), 1)  # made after it was
    assert seen == [1, 1] and not kernels


def test_sparse_and_complex_parameters_go_the_long_way(kernels):
    table = nn.Embedding(5, 3, sparse=True)
    other = copy.deepcopy(table)
    mine, theirs = SGD(table.parameters(), lr=0.1), SGD(other.parameters(), lr=0.1)
    update = Update(mine)
    for _ in range(2):
        table(torch.tensor([1, 3])).sum().backward()
        update.step(*update.gradients())
        theirs.zero_grad()
        other(torch.tensor([1, 3])).sum().backward()
        theirs.step()
    assert torch.equal(table.weight, other.weight)
    wave = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    spinning = Update(Adam([wave], lr=0.1))
    for _ in range(3):
        wave.abs().sum().backward()
        spinning.step(*spinning.gradients())
    assert wave.isfinite().all() and not kernels


def test_gradients_are_recorded_again_after_a_step_and_after_an_error(kernels, monkeypatch):
    net = Net()
    update = Update(SGD(net.parameters(), lr=0.1))
    step_by_update(net, update, 0)
    assert torch.is_grad_enabled()

    def fails(*args: Any) -> None:
        raise RuntimeError("no memory")

    update._kernel = fails
    with pytest.raises(RuntimeError, match="no memory"):
        step_by_update(net, update, 1)
    assert torch.is_grad_enabled()
