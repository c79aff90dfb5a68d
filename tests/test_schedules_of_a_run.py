"""Schedules in runs: by parameter group and optimizer, for own steps, and torch's own; bit for bit as a loop by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import treadle
from treadle import errors, schedules
from treadle.explain.timeline import Timeline

X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
QUIET = treadle.LogConfig(every="1 step", console="quiet", tensorboard=False)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
STEPS = 25  # of 5 in an epoch


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(run_dir: str = "run", **more: Any) -> treadle.Config:
    return treadle.Config(run_dir=run_dir, **{"duration": "5 epochs", "batch_size": 8, "log": QUIET, **more})


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def trainer(given: Any, run_dir: str = "run", **parts: Any) -> treadle.Trainer:
    parts = {"model": net(), "optimizer": SGD, "objective": nn.MSELoss(), "data": (X, Y), "config": config(run_dir), **parts}
    return treadle.Trainer(parts.pop("model"), parts.pop("objective"), parts.pop("data"), schedules=given, **parts)


def rows(run_dir: str, *names: str) -> list[Any]:
    found = [tuple(row[name] for name in names) for row in treadle.read_journal(run_dir) if names[0] in row]
    return [row[0] for row in found] if len(names) == 1 else found


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The order of the run, from a run that only looks."""
    seen: list[Any] = []

    def look(model: Any, batch: Any) -> Any:
        seen.append(batch)
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    trainer({}, "look", objective=look).fit()
    return [(x.clone(), y.clone()) for x, y in seen[1:]]  # the first is preflight's


def by_hand(make: Callable[[Any], Any], each: Any, optimizer: Any = SGD) -> tuple[list[torch.Tensor], list[float]]:
    """The weights and rates of a plain loop of torch's."""
    order = batches()
    model = net()
    optimizer = optimizer(model.parameters())
    scheduler, rates = make(optimizer), []
    for number, (x, y) in enumerate(order, 1):
        rates.append(optimizer.param_groups[0]["lr"])
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if each == "step" or number % 5 == 0:
            scheduler.step()
    return [p.detach() for p in model.parameters()], rates


def same(model: nn.Module, weights: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, other) for p, other in zip(model.parameters(), weights, strict=True))


# --- torch's schedulers ---

TORCH: dict[str, tuple[Callable[[Any], Any], str, Any]] = {
    "one cycle, with momentum": (partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=STEPS), "step", SGD),
    "one cycle, with beta1": (partial(lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=STEPS), "step", partial(torch.optim.AdamW, lr=0.01)),
    "cyclic": (partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4), "step", SGD),
    "step by the epoch": (partial(lr_scheduler.StepLR, step_size=2), "epoch", SGD),
    "exponential, recursive": (partial(lr_scheduler.ExponentialLR, gamma=0.9), "step", SGD),
    "restarts": (partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=2), "step", SGD),
    "sequential": (
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 21)], [4]),
        "step",
        SGD,
    ),
    "chained": (
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.ExponentialLR(o, 0.9)]),
        "step",
        SGD,
    ),
    "lambda": (partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 0.9**n), "epoch", SGD),
}


@pytest.mark.parametrize(("make", "each", "optimizer"), TORCH.values(), ids=TORCH)
def test_a_scheduler_of_torchs_gives_the_bits_of_the_loop_by_hand(make: Any, each: str, optimizer: Any) -> None:
    weights, rates = by_hand(make, each, optimizer)
    one = trainer({"lr": schedules.from_torch(make, every=f"1 {each}")}, optimizer=optimizer)
    one.fit()
    assert rows("run", "schedule/lr") == rates
    assert same(one.model, weights)
    assert "step" not in vars(one.optimizer)  # it is not patched, so nothing slows its step down


@pytest.mark.parametrize("name", ["one cycle, with momentum", "step by the epoch", "exponential, recursive"])
def test_a_run_with_a_scheduler_of_torchs_that_was_cut_ends_with_the_same_bits(name: str) -> None:
    make, each, optimizer = TORCH[name]
    weights, rates = by_hand(make, each, optimizer)
    given = {"lr": schedules.from_torch(make, every=f"1 {each}")}
    cut = trainer(given, optimizer=optimizer)
    cut.on("step_finished", every="13 steps")(lambda run: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cut.fit()
    again = trainer(given, optimizer=optimizer)
    assert again.fit().status == "finished"
    assert rows("run", "schedule/lr") == rates
    assert same(again.model, weights)


def test_what_a_scheduler_of_torchs_cycles_beside_the_rate_is_logged() -> None:
    make = partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=STEPS)
    trainer({"lr": schedules.from_torch(make, every="1 step")}).fit()
    trainer({"lr": schedules.from_torch(make, every="1 step")}, "adam", optimizer=torch.optim.Adam).fit()
    assert rows("run", "schedule/momentum")[0] == rows("adam", "schedule/beta1")[0] == pytest.approx(0.95)
    assert min(rows("run", "schedule/momentum")) == pytest.approx(0.85, abs=1e-3)


def test_a_scheduler_that_was_made_already_is_a_pattern_and_stays_as_it_is() -> None:
    make = partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=STEPS)
    weights, rates = by_hand(make, "step")
    model = net()
    optimizer = SGD(model.parameters())
    scheduler = make(optimizer)
    trainer({"lr": schedules.from_torch(scheduler, every="1 step")}, model=model, optimizer=optimizer).fit()
    assert rows("run", "schedule/lr") == rates
    assert same(model, weights)
    assert scheduler.last_epoch == 0


def test_a_scheduler_of_torchs_keeps_the_rates_of_parameter_groups_apart() -> None:
    model = net()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.01, "name": "body"}, {"params": model[2].parameters()}], lr=0.1)
    make = partial(lr_scheduler.StepLR, step_size=10, gamma=0.5)
    trainer({"lr": schedules.from_torch(make, every="1 step")}, model=model, optimizer=optimizer).fit()
    found = rows("run", "schedule/lr/body", "schedule/lr/group 2")
    assert [found[n] for n in (0, 10, 24)] == [(0.01, 0.1), (0.005, 0.05), (0.0025, 0.025)]
    assert [group["lr"] for group in optimizer.param_groups] == [0.0025, 0.025]


def test_a_scheduler_of_torchs_stepped_by_hand_in_an_own_loop_goes_on_where_it_was() -> None:
    make = partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=STEPS)
    weights, _ = by_hand(make, "step")

    def loop(run_dir: str, stop: int | None) -> nn.Module:
        with treadle.Run(config(run_dir)) as run:
            model, optimizer = run.prepare(net(), SGD)
            scheduler = make(optimizer)
            run.track(model=model, optimizer=optimizer, scheduler=scheduler)
            for step in run.steps((X, Y)):
                for x, y in step:
                    step.backward(nn.functional.mse_loss(model(x), y))
                step.update(optimizer)
                scheduler.step()
                if step.number == stop:
                    raise ZeroDivisionError
        return model

    assert same(loop("whole", None), weights)
    with pytest.raises(ZeroDivisionError):
        loop("cut", 13)
    assert same(loop("cut", None), weights)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": partial(lr_scheduler.StepLR, step_size=3)}, r"'lr' .* scheduler of torch's.*from_torch\(..., every='1 step'\)"),
        ({"lr": schedules.from_torch(lr_scheduler.ReduceLROnPlateau, every="1 epoch")}, r"ReduceLROnPlateau looks at a metric.*treadle.Plateau"),
        ({"lr": schedules.from_torch(lambda o: 3, every="1 epoch")}, "makes a torch.optim.lr_scheduler.LRScheduler, it made 3"),
        ({"momentum": schedules.from_torch(partial(lr_scheduler.StepLR, step_size=3), every="1 epoch")}, "'momentum' is a scheduler of torch's"),
        ({"kl": schedules.from_torch(partial(lr_scheduler.StepLR, step_size=3), every="1 epoch")}, "'kl' is neither a field of the optimizer"),
        (
            {"lr": schedules.from_torch(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=5), every="1 step")},
            "the schedule 'lr': OneCycleLR is made for 5 steps, and every='1 step' of this run steps it 24 times",
        ),
        (
            {"lr": schedules.from_torch(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=99), every="1 step")}
            | {"momentum": schedules.constant(0.5)},
            "'momentum' is set by the scheduler of torch's, too; make that with cycle_momentum=False",
        ),
    ],
)
def test_a_scheduler_of_torchs_that_cannot_be_meant_is_refused(given: Any, says: str) -> None:
    with pytest.raises(errors.ConfigError, match=says):
        trainer(given).fit()
    assert rows("run", "train/loss") == []


def test_a_scheduler_of_torchs_needs_something_that_makes_it_of_this_runs_optimizer() -> None:
    with pytest.raises(errors.ConfigError, match="from_torch needs a callable that makes a scheduler"):
        schedules.from_torch(3, every="1 step")
    with pytest.raises(errors.ConfigError, match="'1' is not a number of steps"):
        schedules.from_torch(partial(lr_scheduler.StepLR, step_size=1), every="1")
    other = lr_scheduler.StepLR(SGD(net().parameters()), 3)
    with pytest.raises(errors.ConfigError, match="the StepLR was made of another optimizer"):
        trainer({"lr": schedules.from_torch(other, every="1 step")}).fit()


# --- by parameter group ---


def groups(model: Any, **more: Any) -> torch.optim.Optimizer:
    found = [{"params": model[0].parameters(), "name": "body", **more}, {"params": model[2].parameters(), "name": "head"}]
    return torch.optim.SGD(found, lr=0.1, weight_decay=0.0)


def test_each_group_has_its_own_schedule_and_the_others_stay() -> None:
    model = net()
    optimizer = groups(model)
    given = {"lr": {"body": schedules.linear(0.01, 0.0), "head": schedules.constant(0.2)}, "weight_decay": {"head": schedules.constant(0.5)}}
    trainer(given, model=model, optimizer=optimizer).fit()
    found = rows("run", "schedule/lr/body", "schedule/lr/head", "schedule/weight_decay/head")
    assert found[0] == (0.01, 0.2, 0.5)
    assert found[24] == pytest.approx((0.01 * (1 - 24 / 25), 0.2, 0.5))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(found[24][0], 0.0), (0.2, 0.5)]


def test_a_group_that_is_not_named_is_left_at_the_rate_that_it_was_built_with() -> None:
    model = net()
    optimizer = groups(model, lr=0.0)
    before = [p.clone() for p in model[0].parameters()]
    trainer({"lr": {"head": schedules.constant(0.2)}}, model=model, optimizer=optimizer).fit()
    assert all(torch.equal(p, old) for p, old in zip(model[0].parameters(), before, strict=True))


def test_a_schedule_that_groups_share_is_multiplied_by_their_scale() -> None:
    model = net()
    optimizer = groups(model, lr=0.01, lr_scale=0.1)
    trainer({"lr": schedules.linear(0.2, 0.0)}, model=model, optimizer=optimizer).fit()
    last = rows("run", "schedule/lr")[-1]
    assert [group["lr"] for group in optimizer.param_groups] == [last * 0.1, last]


def test_the_value_of_a_group_by_its_name_is_taken_as_it_is() -> None:
    model = net()
    optimizer = groups(model, lr=0.01, lr_scale=0.1)
    trainer({"lr": {"body": schedules.constant(0.2)}}, model=model, optimizer=optimizer).fit()
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


def test_groups_without_a_name_are_called_by_their_number() -> None:
    model = net()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1)
    trainer({"lr": {"group 2": schedules.constant(0.3)}}, model=model, optimizer=optimizer).fit()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]


def test_betas_are_scheduled_one_by_one() -> None:
    one = trainer({"beta1": schedules.constant(0.8), "beta2": schedules.linear(0.9, 0.8)}, optimizer=torch.optim.Adam)
    one.fit()
    assert one.optimizer.param_groups[0]["betas"] == pytest.approx((0.8, 0.9 - 0.1 * 24 / 25))


def test_one_value_never_takes_the_place_of_several_that_somebody_chose() -> None:
    model = net()
    optimizer = groups(model, weight_decay=0.3)
    says = r"'weight_decay' would set weight_decay to one value .* \(body: 0.3, head: 0.0\); .*'weight_decay_scale'"
    with pytest.raises(errors.ConfigError, match=says):
        trainer({"weight_decay": schedules.constant(0.1)}, model=model, optimizer=optimizer).fit()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": {"boddy": 1}}, "the schedule 'lr/boddy' must be a callable"),
        ({"lr": {}}, "'lr' is an empty dict"),
        ({"lr": {"boddy": schedules.constant(1)}}, "'lr/boddy': no optimizer or parameter group is named 'boddy'; did you mean 'body'"),
        ({"lr": {"body": {"x": schedules.constant(1)}}}, "'lr/body': a parameter group has no parts, got 'x'"),
        ({"lr": {"optimizer": {"boddy": schedules.constant(1)}}}, "'lr/optimizer/boddy': no .* 'boddy'; did you mean 'body'"),
        ({"lr": {"optimizer": schedules.constant(1), "body": schedules.constant(1)}}, "'lr/body': no optimizer is named 'body'"),
        ({"lr": {"body": schedules.from_torch(lr_scheduler.StepLR, every="1 step")}}, "sets all groups of an optimizer"),
        ({"momentums": {"body": schedules.constant(1)}}, "neither a field of the optimizer nor a keyword.*did you mean 'momentum'"),
        ({"lr": lambda progress: None}, "the schedule 'lr' must give a number, gave None"),
        ({"lr": {"body": lambda progress: torch.ones(1)}}, r"the schedule 'lr/body' must give a number, gave tensor\(\[1.\]\)"),
        ({"lr": lambda progress: float("nan")}, "the schedule 'lr' must give a number, gave nan"),
        ([schedules.constant(1)], "schedules must be a dict by name"),
    ],
)
def test_a_schedule_for_groups_that_cannot_be_meant_is_refused(given: Any, says: str) -> None:
    model = net()
    with pytest.raises(errors.ConfigError, match=says):
        trainer(given, model=model, optimizer=groups(model)).fit()


def test_what_a_schedule_raises_arrives_with_its_name() -> None:
    def wrong(progress: Any) -> float:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        trainer({"lr": wrong}).fit()
    assert "raised by the schedule 'lr'" in caught.value.__notes__[0]


# --- by optimizer ---


def two_steps(step: treadle.Step, models: Any, optimizers: Any) -> None:
    for x, y in step:
        step.backward(nn.functional.mse_loss(models["D"](models["G"](x)), y))
    for optimizer in optimizers.values():
        step.update(optimizer)


def two(given: Any, **parts: Any) -> treadle.Trainer:
    models = {"G": nn.Linear(3, 4), "D": nn.Linear(4, 2)}
    optimizers = {"G": partial(torch.optim.Adam, lr=0.01), "D": SGD}
    return trainer(given, model=models, optimizer=optimizers, objective=None, step=parts.pop("step", two_steps), **parts)


def test_each_optimizer_has_its_own_schedule() -> None:
    given = {"lr": {"G": schedules.constant(0.02), "D": schedules.linear(0.1, 0.0)}, "beta1": {"G": schedules.constant(0.5)}}
    one = two(given)
    one.fit()
    assert rows("run", "schedule/lr/G", "schedule/lr/D", "schedule/beta1/G")[0] == (0.02, 0.1, 0.5)
    assert one.optimizer["G"].param_groups[0]["lr"] == 0.02
    assert one.optimizer["D"].param_groups[0]["lr"] == pytest.approx(0.1 / 25)
    assert one.optimizer["G"].param_groups[0]["betas"] == (0.5, 0.999)


def test_one_of_torchs_beside_one_of_ours() -> None:
    given = {"lr": {"G": schedules.from_torch(partial(lr_scheduler.StepLR, step_size=2), every="1 epoch"), "D": schedules.constant(0.3)}}
    two(given).fit()
    assert [rows("run", "schedule/lr/G", "schedule/lr/D")[n] for n in (0, 10, 24)] == [
        (0.01, 0.3),
        (pytest.approx(0.001), 0.3),
        (pytest.approx(0.0001), 0.3),
    ]


def test_one_of_torchs_for_every_optimizer() -> None:
    two({"lr": schedules.from_torch(partial(lr_scheduler.ExponentialLR, gamma=0.5), every="1 epoch")}).fit()
    assert rows("run", "schedule/lr/G", "schedule/lr/D")[5] == (0.005, 0.05)


def test_groups_of_an_optimizer_are_given_below_it() -> None:
    with treadle.Run(config(), schedules={"lr": {"one": {"head": schedules.constant(0.4)}, "two": schedules.constant(0.5)}}) as run:
        first, second = net(), net()
        first, one = run.prepare(first, groups(first))
        second, other = run.prepare(second, SGD)
        run.track(first=first, one=one, second=second, two=other)
        for step in run.steps((X, Y)):
            for x, y in step:
                step.backward(nn.functional.mse_loss(first(x) + second(x), y))
            step.update(one)
            step.update(other)
    assert [group["lr"] for group in (*one.param_groups, *other.param_groups)] == [0.1, 0.4, 0.5]
    assert run.result.metrics["schedule/lr/one/head"] == 0.4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": {"G": schedules.constant(1), "E": schedules.constant(1)}}, "'lr/E': no optimizer is named 'E'.*known: D, G"),
        ({"momentum": {"G": schedules.constant(1)}}, "'momentum/G': the optimizer 'G' has no field 'momentum'"),
        ({"kl": {"G": schedules.constant(1)}}, "'kl' is given by names of optimizers or parameter groups, and no optimizer of this run has a field"),
        ({"weight_decy": schedules.constant(1)}, "'weight_decy' is neither .* keyword of the step or the objective; did you mean 'weight_decay'"),
    ],
)
def test_a_schedule_for_optimizers_that_cannot_be_meant_is_refused(given: Any, says: str) -> None:
    with pytest.raises(errors.ConfigError, match=says):
        two(given).fit()


# --- own steps ---


def test_an_own_step_takes_schedules_as_keywords() -> None:
    seen: list[tuple[float, float]] = []

    def my_step(step: treadle.Step, model: Any, optimizer: Any, *, weight: float, other: float = 7.0) -> None:
        seen.append((weight, other))
        for x, y in step:
            step.backward(weight * nn.functional.mse_loss(model(x), y))
        step.update(optimizer)

    trainer({"weight": schedules.linear(1.0, 0.0), "lr": schedules.constant(0.01)}, step=my_step, objective=None).fit()
    assert seen == [(pytest.approx(1 - n / STEPS), 7.0) for n in range(STEPS)]


def test_an_own_step_may_read_a_schedule_of_any_name_from_the_step() -> None:
    seen: list[float] = []

    def my_step(step: treadle.Step, model: Any, optimizer: Any) -> None:
        seen.append(step.values["mixture"])
        for x, y in step:
            step.backward(nn.functional.mse_loss(model(x), y))
        step.update(optimizer)

    trainer({"mixture": schedules.constant(0.25)}, step=my_step, objective=None).fit()
    assert seen == [0.25] * STEPS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"wieght": schedules.constant(1)}, "the step takes the keyword 'weight', and no schedule has this name; did you mean 'wieght'"),
        ({"weight": schedules.constant(1), "momentun": schedules.constant(1)}, "'momentun' is neither .* did you mean 'momentum'"),
    ],
)
def test_a_keyword_of_an_own_step_without_a_schedule_is_named(given: Any, says: str) -> None:
    def my_step(step: treadle.Step, model: Any, optimizer: Any, *, weight: float) -> None:
        raise AssertionError("never")

    with pytest.raises(errors.ConfigError, match=says):
        trainer(given, step=my_step, objective=None).fit()


def test_in_an_own_loop_a_near_miss_of_a_field_is_a_misspelling() -> None:
    run = treadle.Run(config(), schedules={"momentun": schedules.constant(0.5), "mine": schedules.constant(1.0)})
    with pytest.raises(errors.ConfigError, match="'momentun' is no field of an optimizer; did you mean 'momentum'"), run:
        model, optimizer = run.prepare(net(), SGD)
        run.track(model=model, optimizer=optimizer)
        next(run.steps((X, Y)))


# --- composed ---


def test_a_composed_schedule_of_a_run_that_was_cut_ends_with_the_same_bits() -> None:
    given = {
        "lr": {"body": schedules.linear(0.01, 0.1).then(schedules.cosine(0.1), at="6 steps") * 0.5, "head": schedules.wsd(0.1, "3 steps", "1 epoch")}
    }

    def one(run_dir: str) -> treadle.Trainer:
        model = net()
        return trainer(given, run_dir, model=model, optimizer=groups(model))

    whole = one("whole")
    whole.fit()
    cut = one("cut")
    cut.on("step_finished", every="13 steps")(lambda run: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cut.fit()
    again = one("cut")
    again.fit()
    assert same(again.model, [p.detach() for p in whole.model.parameters()])
    names = ("step", "schedule/lr/body", "schedule/lr/head", "train/loss")
    assert rows("cut", *names) == rows("whole", *names)
    assert len(rows("cut", "step")) == STEPS


def test_what_schedules_will_do_is_explained_part_by_part() -> None:
    given = {
        "lr": {"G": schedules.from_torch(partial(lr_scheduler.StepLR, step_size=2), every="1 epoch"), "D": schedules.linear(0.1, 0.0)},
        "mixture": lambda progress: progress.fraction,
    }
    found = {name: (first, last, what) for name, first, last, what in Timeline.of(two(given)._plan()).schedules}
    assert found["lr/G"] == (None, None, "torch.optim.lr_scheduler:StepLR, every 1 epoch")
    assert found["lr/D"][:2] == (0.1, pytest.approx(0.1 * (1 - 4 / 25)))
    assert found["mixture"][0] == 0.0 and " at 0x" not in found["mixture"][2]
