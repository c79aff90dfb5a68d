"""The whole step as one function: it does what the standard body does, and can be recorded and played."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.step.capture import WARM_UP, Captured, Unrecordable
from treadle.step.objective import as_objective
from treadle.step.rules import UpdateRule, why_not
from treadle.step.whole import Made, WholeStep
from treadle.system.precision import Precision

CPU = torch.device("cpu")
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "maximize": partial(torch.optim.SGD, lr=0.1, maximize=True),
    "adam": partial(torch.optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.99)),
}
CROSS_ENTROPY = as_objective(nn.CrossEntropyLoss())


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def whole(model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None = None, objective: Any = CROSS_ENTROPY) -> WholeStep:
    return WholeStep(model, objective, optimizer, Precision("fp32", CPU), clip, keeps_output=True)


def made(step: WholeStep, batch: Any, times: int = 1) -> Made:
    for _ in range(times):
        step.update.begin()
        result = step(batch)
    return result


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None, times: int) -> torch.Tensor:
    for _ in range(times):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return loss.detach()


def tensors(item: Any) -> dict[str, torch.Tensor]:
    state = item.state_dict()
    if "param_groups" not in state:
        return dict(state)
    return {f"{place}.{key}": value for place, held in state["state"].items() for key, value in held.items()}


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_it_moves_weights_statistics_and_state_as_a_loop_does(name: str, clip: float | None) -> None:
    one, other = build(), build()
    first, second = OPTIMIZERS[name](one.parameters()), OPTIMIZERS[name](other.parameters())
    loss = by_hand(one, first, clip, times=5)
    result = made(whole(other, second, clip), (X, Y), times=5)
    torch.testing.assert_close(result.outcome.loss, loss)
    for ours, theirs in ((tensors(other), tensors(one)), (tensors(second), tensors(first))):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=2e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_what_is_not_finite_moves_no_weight_and_no_state(name: str) -> None:
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    step = whole(model, optimizer)
    assert made(step, (X, Y)).found.item() == 0.0
    before = {key: value.clone() for key, value in {**dict(model.named_parameters()), **tensors(optimizer)}.items()}
    assert made(step, (X * float("inf"), Y)).found.item() == 1.0
    after = {**dict(model.named_parameters()), **tensors(optimizer)}
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_batch_in_which_nothing_counts_moves_nothing_and_is_nothing_wrong() -> None:
    model = build()
    step = whole(model, OPTIMIZERS["adamw"](model.parameters()))
    before = [p.clone() for p in model.parameters()]
    assert made(step, (X, torch.full_like(Y, -100))).found.item() == 0.0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_parameter_without_a_gradient_stays_although_weights_decay() -> None:
    model = nn.ModuleDict({"used": nn.Linear(8, 3), "idle": nn.Linear(2, 2)})
    idle = [p.clone() for p in model["idle"].parameters()]
    step = whole(model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5), objective=lambda m, b: CROSS_ENTROPY(m["used"], b))
    made(step, (X, Y), times=3)
    assert all(torch.equal(p, q) for p, q in zip(model["idle"].parameters(), idle, strict=True))


def test_state_that_is_loaded_and_parameters_that_thaw_are_taken_up() -> None:
    one, other = build(), build()
    first, second = OPTIMIZERS["adam"](one.parameters()), OPTIMIZERS["adam"](other.parameters())
    step = whole(other, second)
    made(step, (X, Y), times=2)  # of a step that is about to be forgotten
    by_hand(one, first, None, times=2)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    next(one.parameters()).requires_grad_(False)
    next(other.parameters()).requires_grad_(False)
    by_hand(one, first, None, times=1)
    made(step, (X, Y))
    next(other.parameters()).requires_grad_(True)
    thawed = next(other.parameters()).clone()
    torch.testing.assert_close(tensors(second)["0.step"], torch.tensor(2.0))
    made(step, (X, Y))
    assert not torch.equal(thawed, next(other.parameters()))


def test_a_learning_rate_is_written_where_it_is_another_one_also_within_a_tensor() -> None:
    optimizer = torch.optim.SGD(build().parameters(), lr=0.5)
    rule = UpdateRule(optimizer)
    rule.begin()
    rate = rule._rates[0]
    writes = rate._version
    rule.begin()
    assert (rate.item(), rate._version) == (0.5, writes)
    optimizer.param_groups[0]["lr"] = 0.25
    rule.begin()
    assert rate.item() == 0.25
    optimizer.param_groups[0]["lr"] = torch.tensor(0.125)
    rule.begin()
    optimizer.param_groups[0]["lr"].mul_(2)
    rule.begin()
    assert (rate.item(), rule.gathered) == (0.25, 1)


def test_a_parameter_or_a_state_that_is_replaced_is_gathered_anew() -> None:
    model = build()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    rule = UpdateRule(optimizer)
    rule.begin()
    held = optimizer.param_groups[0]["params"]
    held[0] = nn.Parameter(held[0].detach().clone())
    rule.begin()
    assert rule.params[0] is held[0]
    optimizer.state[held[1]] = {name: value.clone() for name, value in optimizer.state[held[1]].items()}
    rule.begin()
    assert rule._states[0][1] is optimizer.state[held[1]]


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (partial(torch.optim.RMSprop, lr=0.1), "RMSprop is none of SGD, Adam, AdamW"),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.1), "dampening"),
        (partial(torch.optim.AdamW, lr=0.1, differentiable=True), "differentiable"),
    ],
)
def test_what_cannot_be_part_of_a_graph_is_named(optimizer: Callable[..., torch.optim.Optimizer], says: str) -> None:
    assert says in why_not(optimizer(build().parameters()))


def test_hooks_keep_an_update_out_of_a_graph() -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert why_not(optimizer) == ""
    handle = optimizer.register_step_pre_hook(lambda *given: None)
    assert "hooks" in why_not(optimizer)
    handle.remove()
    next(model.parameters()).register_hook(lambda grad: grad * 2)
    assert "gradient hook" in why_not(optimizer)


# --- recorded and played: a closure stands for a CUDA graph ---


class Closures:
    """Records a step as a closure; outputs of a play are written over those of the recording, as a graph does."""

    def __init__(self) -> None:
        self.warm_ups = self.plays = 0

    def warm(self, make: Callable[[], Made]) -> Made:
        self.warm_ups += 1
        return make()

    def record(self, make: Callable[[], Made]) -> tuple[Callable[[], object], Made]:
        held = [Made(treadle.Outcome(torch.zeros(()), torch.zeros(16, 3), Y.clone(), torch.zeros(())), [], None, torch.zeros(()))]

        def play() -> None:
            self.plays += 1
            now = make()
            for place, value in ((held[0].outcome.loss, now.outcome.loss), (held[0].outcome.output, now.outcome.output), (held[0].found, now.found)):
                place.copy_(value)

        return play, held[0]


def recorded(name: str = "adamw") -> tuple[WholeStep, Captured, Closures, torch.optim.Optimizer]:
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    step, closures = whole(model, optimizer), Closures()
    return step, Captured(step, step, closures), closures, optimizer


def test_a_recorded_step_takes_each_batch_and_each_learning_rate() -> None:
    batches = [(X + number / 10, Y.roll(number)) for number in range(8)]
    rates = [0.01 * (number + 1) for number in range(8)]
    plain = build()
    other = OPTIMIZERS["adamw"](plain.parameters())
    expected = whole(plain, other)
    step, captured, closures, optimizer = recorded()
    for batch, rate in zip(batches, rates, strict=True):
        losses = []
        for one, make, owner in ((expected, expected, other), (step, captured, optimizer)):
            owner.param_groups[0]["lr"] = rate
            one.update.begin()
            losses.append(make(batch).outcome.loss.item())
        assert losses[0] == losses[1]
    assert (closures.warm_ups, closures.plays) == (WARM_UP, 8 - WARM_UP)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), step._model.parameters(), strict=True))


def test_outputs_that_are_kept_are_not_written_over_by_the_next_step() -> None:
    step, captured, _, _ = recorded()
    kept = []
    for number in range(WARM_UP + 2):
        step.update.begin()
        kept.append(captured((X * (number + 1), Y)).outcome.output)
    assert not torch.equal(kept[-2], kept[-1])


def test_what_a_graph_holds_for_good_is_recorded_anew_where_it_changes() -> None:
    step, captured, _, optimizer = recorded()

    def turns(number: int) -> None:
        for _ in range(number):
            step.update.begin()
            captured((X, Y))

    turns(WARM_UP + 2)
    assert captured.recordings == 1
    optimizer.param_groups[0]["lr"] = 0.5  # a tensor in the graph
    turns(1)
    assert captured.recordings == 1
    for number, change in enumerate(
        [
            lambda: optimizer.param_groups[0].update(weight_decay=0.5),
            lambda: step._model.eval(),
            lambda: optimizer.load_state_dict(optimizer.state_dict()),
            lambda: next(step._model.parameters()).requires_grad_(False),
        ],
        2,
    ):
        change()
        turns(WARM_UP + 2)
        assert captured.recordings == number


def test_another_shape_is_made_as_it_is_and_the_recording_stays() -> None:
    step, captured, closures, _ = recorded()
    for size in [16] * (WARM_UP + 1) + [5] + [16]:
        step.update.begin()
        captured((X[:size], Y[:size]))
    assert (captured.recordings, closures.warm_ups, closures.plays) == (1, WARM_UP + 1, 2)


def test_a_batch_of_more_than_tensors_cannot_be_recorded() -> None:
    step, captured, _, _ = recorded()
    step.update.begin()
    with pytest.raises(Unrecordable, match=r"tensors alone, this one is \(float32\[16, 8\], \[str"):
        captured((X, ["a"] * 16))
