"""Several optimizers in a step: which gradient goes into which update."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle

SGD = partial(torch.optim.SGD, lr=0.1)
X = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (8, 5), generator=torch.Generator().manual_seed(2))
Y[:3, 1:] = -100  # uneven numbers of tokens that count


def config(**machine: Any) -> treadle.Config:
    quiet = treadle.LogConfig(console="quiet", tensorboard=False)
    return treadle.Config(
        run_dir=f"run-{sorted(machine.items())}", duration="3 steps", batch_size=8, log=quiet, machine=treadle.MachineConfig(**machine)
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


def trained(**machine: Any) -> nn.Module:
    """Body and head have an optimizer each, and one backward serves both."""
    with treadle.Run(config(**machine)) as run:
        net = Net()
        body, body_sgd = run.prepare(net.body, SGD)
        head, head_sgd = run.prepare(net.head, SGD)
        run.track(body=body, head=head, body_sgd=body_sgd, head_sgd=head_sgd)
        loss = nn.CrossEntropyLoss()
        objective = treadle.supervised(loss)
        for step in run.steps(treadle.Samples((X, Y), sampler="sequential")):
            for batch in step:
                x, y = batch
                step.backward(objective(lambda x: net(x).transpose(1, 2), (x, y)))
            step.update(body_sgd)
            step.update(head_sgd)
    return net


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_one_backward_for_two_optimizers_is_the_same_however_the_batch_is_cut(micro_batch: int) -> None:
    whole, cut = trained(), trained(micro_batch=micro_batch)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_an_update_whose_parameters_the_loss_does_not_reach_is_refused() -> None:
    with pytest.raises(treadle.errors.UsageError, match="depends on this optimizer's parameters"), treadle.Run(config()) as run:
        models, optimizers = run.prepare({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}, {"a": SGD, "b": SGD})
        run.track(a=models["a"], b=models["b"], opt_a=optimizers["a"], opt_b=optimizers["b"])
        for step in run.steps((X, Y)):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(models["a"](x).transpose(1, 2), y))
            step.update(optimizers["a"])
            step.update(optimizers["b"])


def test_the_loss_scale_stays_until_every_optimizer_has_moved() -> None:
    with treadle.Run(config(precision="fp16")) as run:
        models, optimizers = run.prepare({"a": nn.Linear(3, 4), "b": nn.Linear(4, 4)}, {"a": SGD, "b": SGD})
        run.track(a=models["a"], b=models["b"], opt_a=optimizers["a"], opt_b=optimizers["b"])
        scaler = run.precision.scaler
        assert scaler is not None
        scaler.set_growth_interval(1)
        for step in run.steps((X, Y)):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(models["b"](models["a"](x)).transpose(1, 2), y))
            scale = scaler.get_scale()
            step.update(optimizers["a"])
            assert scaler.get_scale() == scale
            step.update(optimizers["b"])
            assert scaler.get_scale() == scale
        assert scaler.get_scale() == 2 * scale
