"""One model with several optimizers: who gets what, one gradient, and what cannot be meant."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from deaths import config, goes_on
from treadle.errors import ConfigError, UsageError

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)
SGD, ADAM = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.AdamW, lr=0.1)
MUON = partial(torch.optim.Muon, lr=0.02)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2


BOTH = {"muon": (MUON, is_matrix), "adamw": ADAM}


def train(run_dir: str = "run", handlers: Sequence[object] = (), **given: Any) -> treadle.Trainer:
    parts = {"model": net, "optimizer": BOTH, **given}
    values = parts.pop("config", {})
    data = treadle.Samples((X, Y), sampler="sequential")
    one = treadle.Trainer(parts.pop("model"), nn.MSELoss(), data, config=config(run_dir, **values), handlers=handlers, **parts)
    one.fit()
    return one


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("clip", [None, 0.1])
def test_muon_and_adamw_do_what_the_loop_by_hand_does_with_one_norm(clip: float | None) -> None:
    found = train(config={"clip": clip})
    model = net()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    optimizers = [MUON(matrices), ADAM([p for p in model.parameters() if p.ndim != 2])]
    norms = []
    for number in range(7):
        mse_loss(model(X.split(4)[number % 4]), Y.split(4)[number % 4]).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf")))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(flat(found.model), flat(model), rtol=1e-6, atol=1e-7)
    assert max(norms) > 0.1  # something was clipped


@pytest.mark.parametrize(
    "given", [{}, {"clip": 0.1}, {"machine": treadle.MachineConfig(micro_batch=3)}, {"machine": treadle.MachineConfig(precision="bf16")}]
)
def test_a_run_that_dies_goes_on(given: dict[str, Any]) -> None:
    goes_on(lambda run_dir, handlers: train(run_dir, handlers, config=given))


def test_each_has_a_state_of_its_own_in_the_checkpoint() -> None:
    one = train()
    assert {name: len(optimizer.param_groups[0]["params"]) for name, optimizer in one.optimizer.items()} == {"muon": 2, "adamw": 2}
    assert sorted(path.stem for path in one.fit().last.glob("optimizer*")) == ["optimizer-adamw", "optimizer-muon"]  # type: ignore[union-attr]


def test_a_pattern_is_a_rule_too_and_a_schedule_reaches_them_all() -> None:
    one = train(optimizer={"head": (SGD, "2"), "body": ADAM}, schedules={"lr": treadle.schedules.constant(0.5)})
    assert [group["lr"] for optimizer in one.optimizer.values() for group in optimizer.param_groups] == [0.5, 0.5]
    assert {id(p) for p in one.optimizer["head"].param_groups[0]["params"]} == {id(p) for p in one.model[2].parameters()}


def test_a_ready_optimizer_keeps_what_it_has_and_the_other_gets_the_rest() -> None:
    model = net()
    one = train(model=model, optimizer={"head": torch.optim.SGD(model[2].parameters(), lr=0.1), "body": ADAM})
    assert {id(p) for p in one.optimizer["body"].param_groups[0]["params"]} == {id(p) for p in model[0].parameters()}


def test_in_an_own_loop_they_come_by_name_and_are_updated_together() -> None:
    def loop(run_dir: str, handlers: Sequence[object]) -> None:
        with treadle.Run(config(run_dir), handlers=handlers) as run:
            model, optimizers = run.prepare(net(), BOTH)
            run.track(model=model, **optimizers)
            for step in run.steps((X, Y)):
                for x, y in step:
                    step.backward(mse_loss(model(x), y))
                step.update(*optimizers.values(), clip=0.1)
                assert step.updates == 2

    goes_on(loop)


def test_one_that_has_no_gradient_stays_where_it_is() -> None:
    model = net()

    class Frozen:
        def on_run_started(self, run: treadle.Run) -> None:
            model[0].requires_grad_(False)

    before = flat(model[0])
    train(model=model, optimizer={"body": (SGD, "0.*"), "head": ADAM}, handlers=[Frozen()])
    assert torch.equal(flat(model[0]), before)


def test_a_gradient_of_either_that_is_not_finite_moves_none_of_them() -> None:
    def objective(model: Any, batch: Any) -> torch.Tensor:
        x, y = batch
        loss = mse_loss(model(x), y)
        return loss + model[2].bias.sum().log() if calls.append(0) or len(calls) == 5 else loss

    calls: list[int] = []
    model = net()
    with torch.no_grad():
        model[2].bias.fill_(-1.0)
    moved: list[torch.Tensor] = []
    data = treadle.Samples((X, Y), sampler="sequential")
    one = treadle.Trainer(model, objective, data, optimizer=BOTH, config=config("run", clip=1.0, skip_non_finite=1))
    one.on("step_finished")(lambda run: moved.append(flat(model)))
    one.fit()
    equal = [torch.equal(a, b) for a, b in pairwise(moved)]
    assert equal == [False, False, True, False, False, False]


def test_with_fp16_they_share_the_loss_scale() -> None:
    class SmallScale:
        def on_run_started(self, run: treadle.Run) -> None:
            if run.precision.scaler is not None:
                state = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 1, "_growth_tracker": 0}
                run.precision.scaler.load_state_dict(state)

    both = {"a": (SGD, is_matrix), "b": SGD}
    half, full = (
        train(precision, [SmallScale()], optimizer=both, config={"machine": treadle.MachineConfig(precision=precision), "clip": 0.5})
        for precision in ("fp16", "fp32")
    )
    torch.testing.assert_close(flat(half.model), flat(full.model), rtol=2e-2, atol=2e-2)


def test_compile_auto_puts_both_back() -> None:
    """Here nothing is compiled: the trial itself moves weights and states, and must leave no trace."""
    machine = treadle.MachineConfig(compile="auto")
    import treadle.form.forms as forms

    kept, forms.BACKEND = forms.BACKEND, "eager"
    try:
        tried = train("tried", config={"machine": machine})
    finally:
        forms.BACKEND = kept
    torch.testing.assert_close(flat(tried.model), flat(train("plain").model))


# --- what cannot be meant ---

REFUSED = {
    "no rules": ({"a": SGD, "b": ADAM}, r"'a' and 'b' of one model have no rule"),
    "takes nothing": ({"a": (SGD, "nothing.*"), "b": ADAM}, r"the rule of the optimizer 'a': 'nothing.\*' matches no parameter; its parameters: 0"),
    "both": ({"a": (SGD, "*.weight"), "b": (SGD, "2.*"), "c": ADAM}, r"'a' and 'b' both take '2.weight'"),
    "left over": ({"a": (SGD, "*.weight")}, r"no optimizer gets 0.bias, 2.bias"),
    "nothing left": ({"a": (SGD, "*"), "b": ADAM}, r"the optimizer 'b' gets nothing"),
    "no rule": ({"a": (SGD,), "b": ADAM}, r"must be \(factory, rule\)"),
    "no pattern": ({"a": (SGD, 3), "b": ADAM}, r"the rule of the optimizer 'a': a pattern is a name .* got 3"),
    "no factory": ({"a": ("sgd", "*.weight"), "b": ADAM}, r"the optimizer 'a' must be a callable that takes parameters"),
    "no optimizer": ({"a": (list, "*.weight"), "b": ADAM}, r"the optimizer 'a' must give a torch.optim.Optimizer .* got list"),
}


@pytest.mark.parametrize(("optimizer", "message"), REFUSED.values(), ids=REFUSED)
def test_rules_that_cannot_be_meant(optimizer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(optimizer=optimizer)


def test_two_optimizers_of_the_same_parameters_are_refused_unless_told() -> None:
    model = net()
    with treadle.Run(config("run")) as run:
        run.prepare(model, SGD)
        with pytest.raises(ConfigError, match=r"two optimizers move the same parameters: 2.weight, 2.bias; .*shared=True"):
            run.prepare(model[2:], ADAM)
    with pytest.raises(ConfigError, match="two optimizers move the same parameters"):
        treadle.train({"a": model, "b": model}, None, (X, Y), optimizer={"a": SGD, "b": SGD}, step=print, config=config("b"))
    ready = {"a": torch.optim.SGD(model.parameters(), lr=0.1), "b": torch.optim.SGD(model.parameters(), lr=0.1)}
    with pytest.raises(ConfigError, match=r"'a' and 'b' both take '0.weight'"):
        train(model=model, optimizer=ready)


def test_told_so_adam_may_begin_what_lbfgs_ends() -> None:
    def loop(run_dir: str, handlers: Sequence[object]) -> None:
        with treadle.Run(config(run_dir), handlers=handlers) as run:
            model, adam = run.prepare(net(), ADAM)
            _, lbfgs = run.prepare(model, torch.optim.LBFGS, shared=True)
            run.track(model=model, adam=adam, lbfgs=lbfgs)
            for step in run.steps((X, Y)):

                def backward(step: treadle.Step = step) -> None:
                    for x, y in step:
                        step.backward(mse_loss(model(x), y))

                if step.number < 4:
                    backward()
                    step.update(adam)
                else:
                    step.update(lbfgs, closure=backward)

    goes_on(loop)


def test_parameters_of_another_device_are_named() -> None:
    def elsewhere(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(5, device="meta"))], lr=0.1)

    with pytest.raises(ConfigError, match=r"the optimizer has 1 parameters on meta, and the run is on cpu; the first has the shape \[5\]"):
        train(optimizer=elsewhere)


def test_a_closure_belongs_to_one_optimizer() -> None:
    def body(step: treadle.Step, models: Any, optimizers: Any) -> None:
        step.update(*optimizers.values(), closure=lambda: None)

    with pytest.raises(UsageError, match="a closure belongs to one optimizer"):
        treadle.train(
            {"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)}, None, (X, Y), optimizer={"a": SGD, "b": SGD}, step=body, config=config("run")
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wrap", "where"), [(nn.DataParallel, ""), (lambda model: nn.Sequential(nn.Linear(3, 3), nn.DataParallel(model)), ", at '1'")]
)
def test_data_parallel_is_refused_wherever_it_is(wrap: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=f"nn.DataParallel is not supported{where}: .* give the model inside it"):
        train(model=lambda: wrap(nn.Linear(3, 1)), optimizer=SGD)
