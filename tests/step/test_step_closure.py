"""Closures: an optimizer that evaluates loss and gradient as often as it likes, in one update of one step."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from deaths import config, goes_on
from treadle.errors import NonFiniteLoss, UsageError

LBFGS = partial(torch.optim.LBFGS, lr=0.5, max_iter=6, history_size=5, line_search_fn="strong_wolfe")
SGD = partial(torch.optim.SGD, lr=0.1)
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def by_closure(step: treadle.Step, model: Any, optimizer: Any, clip: float | None = None) -> None:
    def closure() -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))

    step.update(optimizer, closure=closure, clip=clip)


def train(run_dir: str = "run", handlers: Sequence[object] = (), **given: Any) -> treadle.Trainer:
    parts = {"model": net, "optimizer": LBFGS, "step": by_closure, **given}
    values = parts.pop("config", {})
    data = treadle.Samples((X, Y), sampler="sequential")
    one = treadle.Trainer(parts.pop("model"), None, data, config=config(run_dir, **values), handlers=handlers, **parts)
    one.fit()
    return one


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(steps: int = 7) -> nn.Module:
    model = net()
    optimizer = LBFGS(model.parameters())
    batches = list(zip(X.split(4), Y.split(4), strict=True))
    for number in range(steps):
        x, y = batches[number % 4]

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return model


def test_lbfgs_does_what_the_loop_by_hand_does() -> None:
    assert torch.equal(flat(train().model), flat(by_hand()))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_each_evaluation_has_the_whole_batch_however_it_is_cut(micro_batch: int) -> None:
    def double() -> nn.Module:
        return net().double()

    def by_double(step: treadle.Step, model: Any, optimizer: Any) -> None:
        def closure() -> None:
            for x, y in step:
                step.backward(mse_loss(model(x.double()), y.double()))

        step.update(optimizer, closure=closure)

    short = {"duration": "3 steps"}  # a line search makes more of each rounding
    whole = train("whole", model=double, step=by_double, config=short)
    cut = train("cut", model=double, step=by_double, config={**short, "machine": treadle.MachineConfig(micro_batch=micro_batch)})
    torch.testing.assert_close(flat(cut.model), flat(whole.model), rtol=1e-6, atol=1e-9)


def test_a_step_counts_once_and_its_loss_is_that_of_the_first_evaluation() -> None:
    losses: list[list[float]] = []

    def watched(step: treadle.Step, model: Any, optimizer: Any) -> None:
        losses.append([])

        def closure() -> None:
            for x, y in step:
                loss = mse_loss(model(x), y)
                losses[-1].append(loss.item())
                step.backward(treadle.Outcome(loss, logs={"twice": 2 * loss}))

        step.update(optimizer, closure=closure)
        assert step.updates == 1

    train(step=watched)
    rows = list(treadle.read_journal("run"))
    assert all(len(found) > 2 for found in losses)
    assert [row["train/loss"] for row in rows] == [found[0] for found in losses]
    assert [row["train/twice"] for row in rows] == [2 * found[0] for found in losses]
    assert [(row["step"], row["samples"]) for row in rows] == [(n, 4 * n) for n in range(1, 8)]


def test_the_gradient_norm_is_that_of_the_first_evaluation() -> None:
    norms: list[tuple[float, float]] = []

    def watched(step: treadle.Step, model: Any, optimizer: Any) -> None:
        first = torch.autograd.grad(mse_loss(model(step.parts[0][0]), step.parts[0][1]), list(model.parameters()))
        by_closure(step, model, optimizer)
        norms.append((float(step.grad_norm), float(torch.cat([g.flatten() for g in first]).norm())))

    train(step=watched)
    assert [one for one, _ in norms] == pytest.approx([other for _, other in norms], rel=1e-6)


def test_every_evaluation_draws_the_same_random_numbers_and_every_step_others() -> None:
    masks: list[list[torch.Tensor]] = []

    class Masked(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            masks[-1].append(torch.rand(3))
            return super().forward(x * masks[-1][-1])

    def watched(step: treadle.Step, model: Any, optimizer: Any) -> None:
        masks.append([])
        by_closure(step, model, optimizer)

    train(model=lambda: Masked(3, 1), step=watched)
    assert all(len(found) > 2 and all(torch.equal(found[0], other) for other in found) for found in masks)
    assert len({tuple(found[0].tolist()) for found in masks}) == 7


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_run_that_dies_goes_on_with_the_same_history(micro_batch: int | None) -> None:
    def with_dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 1))

    machine = treadle.MachineConfig(micro_batch=micro_batch)
    goes_on(lambda run_dir, handlers: train(run_dir, handlers, model=with_dropout, config={"machine": machine}))


def test_in_an_own_loop_a_run_that_dies_goes_on_too() -> None:
    def loop(run_dir: str, handlers: Sequence[object]) -> None:
        with treadle.Run(config(run_dir), handlers=handlers) as run:
            model, optimizer = run.prepare(net(), LBFGS)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps((X, Y)):
                by_closure(step, model, optimizer)

    goes_on(loop)


def test_each_gradient_is_clipped() -> None:
    lengths: list[float] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            closure()
            lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for group in self.param_groups for p in group["params"])))
            return super().step()

    train(optimizer=partial(Watching, lr=0.1), step=partial(by_closure, clip=0.01))
    assert lengths == pytest.approx([0.01] * 7, rel=1e-3)


def test_an_optimizer_that_evaluates_once_does_what_it_does_without_a_closure() -> None:
    def plain(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        step.update(optimizer)

    adam = partial(torch.optim.Adam, lr=0.1)
    assert torch.equal(flat(train("a", optimizer=adam).model), flat(train("b", optimizer=adam, step=plain).model))


# --- what goes wrong ---


class Spoils:
    """A loss that is NaN at one evaluation of one step."""

    def __init__(self, at_step: int, at_evaluation: int, error: Exception | None = None) -> None:
        self.at, self.error, self.evaluation, self.before = (at_step, at_evaluation), error, 0, torch.zeros(())

    def __call__(self, step: treadle.Step, model: Any, optimizer: Any) -> None:
        self.evaluation = 0
        if step.number == self.at[0]:
            self.before = flat(model)

        def closure() -> None:
            self.evaluation += 1
            bad = (step.number, self.evaluation) == self.at
            if bad and self.error is not None:
                raise self.error
            for x, y in step:
                step.backward(mse_loss(model(x), y) * (math.nan if bad else 1.0))

        step.update(optimizer, closure=closure)


@pytest.mark.parametrize("evaluation", [1, 3])
def test_a_loss_that_is_not_finite_leaves_weights_and_history_as_they_were(evaluation: int) -> None:
    spoils, model = Spoils(4, evaluation), net()
    with pytest.raises(NonFiniteLoss, match="step 4; nothing was updated"):
        train(model=model, step=spoils)
    assert torch.equal(flat(model), spoils.before)


@pytest.mark.parametrize("evaluation", [1, 3])
def test_such_an_update_can_be_left_out(evaluation: int) -> None:
    def skipping(step: treadle.Step, model: Any, optimizer: Any) -> None:
        if step.number != 4:
            by_closure(step, model, optimizer)

    left_out = train("a", step=Spoils(4, evaluation), config={"skip_non_finite": 1})
    assert torch.equal(flat(left_out.model), flat(train("b", step=skipping).model))
    assert left_out.optimizer.state_dict()["state"][0]["n_iter"] == train("c", step=skipping).optimizer.state_dict()["state"][0]["n_iter"]


def test_an_exception_of_the_closure_arrives_and_the_line_search_is_taken_back() -> None:
    spoils, model = Spoils(4, 3, ValueError("mine")), net()
    with pytest.raises(ValueError, match="mine"):
        train(model=model, step=spoils)
    assert torch.equal(flat(model), spoils.before)


def test_a_closure_that_does_not_fit_into_memory_is_made_again_in_smaller_parts() -> None:
    spoils = Spoils(4, 3, torch.OutOfMemoryError("out of memory"))
    calls = []

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        calls.append((step.number, len(step.parts)))
        (spoils if len(step.parts) == 1 else by_closure)(step, model, optimizer)

    train(step=body, config={"machine": treadle.MachineConfig(micro_batch="auto")})
    assert calls[3:6] == [(4, 1), (4, 2), (5, 2)]


def test_in_fp16_a_closure_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16 scales it"):
        train(config={"machine": treadle.MachineConfig(precision="fp16")})


def test_a_backward_outside_of_the_closure_is_refused() -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        by_closure(step, model, optimizer)

    with pytest.raises(UsageError, match=r"backward\(\) was called before update\(closure=...\)"):
        train(step=body)


def test_a_closure_without_a_backward_is_refused() -> None:
    with pytest.raises(UsageError, match="without a gradient"):
        train(step=lambda step, model, optimizer: step.update(optimizer, closure=lambda: None))


def test_a_closure_that_leaves_micro_batches_out_is_refused() -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        def closure() -> None:
            x, y = next(iter(step))
            step.backward(mse_loss(model(x), y))

        step.update(optimizer, closure=closure)

    with pytest.raises(UsageError, match="1 of 2 micro-batches"):
        train(step=body, config={"machine": treadle.MachineConfig(micro_batch=2)})


def test_an_update_by_lbfgs_without_a_closure_names_it() -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        step.update(optimizer)

    with pytest.raises(TypeError, match="closure") as caught:
        train(step=body)
    assert "step.update(optimizer, closure=" in "".join(caught.value.__notes__)
