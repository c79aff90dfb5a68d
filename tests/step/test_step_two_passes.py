"""Updates that need the gradient more than once: it is taken, and nothing is updated by that."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from deaths import config, goes_on
from treadle.errors import NonFiniteLoss, UsageError

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)
RHO = 0.05


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))


@contextmanager
def uphill(gradient: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """Weights a little way up the gradient, and back as they were."""
    before = [weight.detach().clone() for weight in gradient]
    length = torch.stack([grad.norm() for grad in gradient.values()]).norm() if gradient else 1.0
    try:
        with torch.no_grad():
            for weight, grad in gradient.items():
                weight.add_(grad, alpha=RHO / float(length))
        yield
    finally:
        with torch.no_grad():
            for weight, was in zip(gradient, before, strict=True):
                weight.copy_(was)


def sam(step: treadle.Step, model: Any, optimizer: Any) -> None:
    for x, y in step:
        step.backward(mse_loss(model(x), y))
    with uphill(step.take_gradient(optimizer)):
        for x, y in step:
            step.backward(mse_loss(model(x), y), log=False)
    step.update(optimizer)


def train(run_dir: str = "run", handlers: Sequence[object] = (), **given: Any) -> treadle.Trainer:
    parts = {"model": net, "optimizer": SGD, "step": sam, **given}
    values = parts.pop("config", {})
    data = treadle.Samples((X, Y), sampler="sequential")
    one = treadle.Trainer(parts.pop("model"), None, data, config=config(run_dir, **values), handlers=handlers, **parts)
    one.fit()
    return one


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def batches(steps: int = 7) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(X.split(4)[number % 4].double(), Y.split(4)[number % 4].double()) for number in range(steps)]


def sam_by_hand() -> nn.Module:
    model = plain_net()
    weights, optimizer = list(model.parameters()), SGD(model.parameters())
    for x, y in batches():
        grads = torch.autograd.grad(mse_loss(model(x), y), weights)
        before = [weight.detach().clone() for weight in weights]
        length = torch.cat([grad.flatten() for grad in grads]).norm()
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight += RHO * grad / length
        for weight, grad in zip(weights, torch.autograd.grad(mse_loss(model(x), y), weights), strict=True):
            weight.grad = grad
        with torch.no_grad():
            for weight, was in zip(weights, before, strict=True):
                weight.copy_(was)
        optimizer.step()
    return model


def sam_in_double(step: treadle.Step, model: Any, optimizer: Any) -> None:
    for x, y in step:
        step.backward(mse_loss(model(x.double()), y.double()))
    with uphill(step.take_gradient(optimizer)):
        for x, y in step:
            step.backward(mse_loss(model(x.double()), y.double()), log=False)
    step.update(optimizer)


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_sam_does_what_the_loop_by_hand_does_however_the_batch_is_cut(micro_batch: int | None) -> None:
    found = train(model=plain_net, step=sam_in_double, config={"machine": treadle.MachineConfig(micro_batch=micro_batch)})
    torch.testing.assert_close(flat(found.model), flat(sam_by_hand()), rtol=1e-9, atol=1e-12)


def test_it_counts_once_and_logs_the_loss_of_the_first_pass() -> None:
    losses: list[list[float]] = []

    def watched(step: treadle.Step, model: Any, optimizer: Any) -> None:
        losses.append([])
        kept = step.backward

        def backward(loss: Any, **given: Any) -> None:
            losses[-1].append(loss.item())
            kept(loss, **given)

        step.backward = backward  # type: ignore[method-assign]
        try:
            sam(step, model, optimizer)
        finally:
            del step.backward
        assert step.updates == 1

    train(step=watched)
    rows = list(treadle.read_journal("run"))
    assert [row["train/loss"] for row in rows] == [first for first, second in losses]
    assert all(first != second for first, second in losses)
    assert [(row["step"], row["samples"]) for row in rows] == [(n, 4 * n) for n in range(1, 8)]


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_run_that_dies_goes_on(micro_batch: int | None) -> None:
    machine = treadle.MachineConfig(micro_batch=micro_batch)
    goes_on(lambda run_dir, handlers: train(run_dir, handlers, config={"machine": machine}))


def test_what_is_taken_is_gone_and_weighted_by_counts() -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for number, (x, _) in enumerate(step):
            step.backward(model(x).mean(), count=number + 1)  # means over 1 and 2 things
        taken = step.take_gradient(optimizer)
        assert all(weight.grad is None for weight in taken)
        first, second = (part[0] for part in step.parts)
        mean = (model(first).mean() + 2 * model(second).mean()) / 3
        expected = torch.autograd.grad(mean, list(taken))
        torch.testing.assert_close(list(taken.values()), list(expected))
        assert float(step.grad_norm) == pytest.approx(float(torch.cat([grad.flatten() for grad in expected]).norm()))
        for weight, grad in taken.items():
            weight.grad = grad
        step.update(optimizer)

    train(model=lambda: nn.Linear(3, 1), step=body, config={"duration": "1 step", "machine": treadle.MachineConfig(micro_batch=2)})


def test_a_gradient_penalty_needs_nothing_but_torch() -> None:
    def penalised(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            x.requires_grad_()
            output = model(x)
            (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
            step.backward(mse_loss(output, y) + slope.square().mean())
        step.update(optimizer)

    goes_on(lambda run_dir, handlers: train(run_dir, handlers, step=penalised))


def test_gradients_of_two_losses_can_be_put_together_by_hand() -> None:
    """Where two gradients point against each other, each loses that part: Yu et al., Gradient surgery for multi-task learning."""

    def surgery(step: treadle.Step, model: Any, optimizer: Any) -> None:
        taken = []
        for task in (lambda out, y: mse_loss(out, y), lambda out, y: (out + y).abs().mean()):
            for x, y in step:
                step.backward(task(model(x), y))
            taken.append(step.take_gradient(optimizer))
        one, other = taken
        dot = sum(float((one[weight] * other[weight]).sum()) for weight in one)
        for weight in one:
            against = min(dot, 0.0)
            sizes = [sum(float(grad.square().sum()) for grad in task.values()) for task in taken]
            weight.grad = one[weight] + other[weight] - against * (other[weight] / sizes[1] + one[weight] / sizes[0])
        step.update(optimizer)

    goes_on(lambda run_dir, handlers: train(run_dir, handlers, step=surgery))


def test_reptile_moves_a_copy_and_updates_towards_it() -> None:
    """Nichol, Achiam and Schulman, On first-order meta-learning algorithms: the update is the way that an inner optimizer went."""

    def reptile(step: treadle.Step, model: Any, optimizer: Any) -> None:
        inner = torch.optim.SGD(model.parameters(), lr=0.05)
        before = [weight.detach().clone() for weight in model.parameters()]
        for turn in range(3):
            for x, y in step:
                step.backward(mse_loss(model(x), y), log=turn == 0)
            step.update(inner)
        with torch.no_grad():
            for weight, was in zip(model.parameters(), before, strict=True):
                weight.grad = was - weight
                weight.copy_(was)
        step.update(optimizer)

    goes_on(lambda run_dir, handlers: train(run_dir, handlers, step=reptile))


def test_of_several_optimizers_the_gradient_is_taken_together_and_the_others_keep_nothing() -> None:
    def body(step: treadle.Step, models: Any, optimizers: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(models["head"](models["body"](x)), y))
        taken = step.take_gradient(*optimizers.values())
        assert set(taken) == {*models["body"].parameters(), *models["head"].parameters()}
        for x, y in step:
            step.backward(mse_loss(models["head"](models["body"](x)), y), log=False)
        assert all(torch.equal(weight.grad, grad) for weight, grad in taken.items())  # a window of its own: nothing was added
        step.update(*optimizers.values())

    train(model={"body": lambda: nn.Linear(3, 2), "head": lambda: nn.Linear(2, 1)}, optimizer={"body": SGD, "head": SGD}, step=body)


# --- what goes wrong ---


def spoilt(at: str) -> Any:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        bad = step.number == 4
        for x, y in step:
            step.backward(mse_loss(model(x), y) * (math.nan if bad and at == "first" else 1.0))
        with uphill(step.take_gradient(optimizer)):
            for x, y in step:
                step.backward(mse_loss(model(x), y) * (math.nan if bad and at == "second" else 1.0), log=False)
        step.update(optimizer)

    return body


def leaving_out(step: treadle.Step, model: Any, optimizer: Any) -> None:
    if step.number != 4:
        sam(step, model, optimizer)


@pytest.mark.parametrize("at", ["first", "second"])
def test_a_pass_that_is_not_finite_stops_the_run_or_leaves_the_update_out(at: str) -> None:
    plain = {"model": lambda: nn.Linear(3, 1)}
    with pytest.raises(NonFiniteLoss, match="step 4"):
        train("stops", step=spoilt(at), **plain)
    left_out = train("goes-on", step=spoilt(at), config={"skip_non_finite": 1}, **plain)
    assert torch.equal(flat(left_out.model), flat(train("without", step=leaving_out, **plain).model))


def test_a_gradient_that_is_not_finite_is_not_given(recwarn: pytest.WarningsRecorder) -> None:
    given: list[int] = []

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * math.inf

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(Spoilt.apply(model(x)) if step.number == 4 else model(x), y))
        taken = step.take_gradient(optimizer)
        given.append(len(taken))
        for weight, grad in taken.items():
            weight.grad = grad
        step.update(optimizer)

    train(step=body, config={"skip_non_finite": 1})
    assert given == [4, 4, 4, 0, 4, 4, 4]


def test_without_a_gradient_there_is_nothing_to_take() -> None:
    with pytest.raises(UsageError, match="without a gradient"):
        train(step=lambda step, model, optimizer: step.take_gradient(optimizer))


def test_before_all_micro_batches_it_is_not_the_gradient_of_the_batch() -> None:
    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
            step.take_gradient(optimizer)

    with pytest.raises(UsageError, match="1 of 2 micro-batches"):
        train(step=body, config={"machine": treadle.MachineConfig(micro_batch=2)})


def test_in_fp16_it_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16 scales it"):
        train(config={"machine": treadle.MachineConfig(precision="fp16")})


def test_a_step_that_took_a_gradient_is_not_made_again_in_smaller_parts() -> None:
    """What was done with the gradient, nobody can take back."""

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        step.take_gradient(optimizer)
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(step=body, config={"machine": treadle.MachineConfig(micro_batch="auto")})
    assert "cannot be made again in smaller parts" in "".join(caught.value.__notes__)


def test_on_an_accelerator_nobody_waits_and_the_run_hears_of_it_at_the_next_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treadle.Step, "_is_free", lambda self, device: False)

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        taken = step.take_gradient(optimizer)
        for weight, grad in taken.items():
            weight.grad = grad * (math.nan if step.number == 4 else 1.0)
        step.update(optimizer)

    with pytest.raises(NonFiniteLoss, match="gradient of step 4"):
        train(step=body)
