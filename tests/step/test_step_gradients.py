"""The backward pass from a loss's share: torch's bits, and nothing that stays from one pass to the next."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from treadle.core.errors import ObjectiveError
from treadle.step.gradients import backward
from treadle.step.objective import check_loss


class InPlace(torch.autograd.Function):
    """Writes into the gradient that it is given."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 3

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.mul_(3)


def hooked(x: torch.Tensor) -> torch.Tensor:
    loss = x * 3
    loss.register_hook(lambda grad: grad.mul_(2))
    return loss


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda x: (x * 3).exp(),
    "the parameter itself": lambda x: x,
    "a view of it": lambda x: x.view(()),
    "one number in a row": lambda x: (x * 3)[None],
    "double": lambda x: (x * 3).double(),
    "bfloat16": lambda x: (x * 3).bfloat16(),
    "a hook that writes": hooked,
    "a function that writes": InPlace.apply,
}


@pytest.mark.parametrize("share", [None, 1 / 3, torch.tensor(1 / 3), torch.tensor(1 / 3, dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_bits_of_torchs_own_pass_again_and_again(loss, share):
    mine, theirs = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.7))
    for number in range(4):
        torch.autograd.backward(loss(theirs) if share is None else loss(theirs) * share)
        backward(loss(mine), share)
        assert mine.grad is not None and theirs.grad is not None and torch.equal(mine.grad, theirs.grad)
        for param in (mine, theirs):
            param.grad.mul_(0.5)  # as clipping does
            if number == 1:
                param.grad = None


def test_the_share_is_not_written_into():
    share = torch.tensor(0.25)
    backward(hooked(nn.Parameter(torch.tensor(0.7))), share)
    assert share == 0.25


def test_two_parameters_never_hold_the_same_gradient():
    one, other = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.7))
    for param in (one, other):
        backward(param.view(()))
    assert one.grad is not None and other.grad is not None
    one.grad.mul_(5)
    assert other.grad == 1


def test_a_complex_loss_is_refused():
    with pytest.raises(ObjectiveError, match="complex number"):
        check_loss(nn.Parameter(torch.tensor(1 + 1j)) * 2, trains=True)
