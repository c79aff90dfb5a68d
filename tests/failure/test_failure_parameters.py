"""A model that is rebuilt in the middle of a run is refused; one that is frozen or handed to an optimizer bit by bit is not."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.failure.parameters import Parameters

SGD = partial(torch.optim.SGD, lr=0.1)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def fit(change: Any, **config: Any) -> treadle.Result:
    quiet = treadle.LogConfig(console="quiet", tensorboard=False, every=config.pop("log_every", "2 steps"))
    given = treadle.Config(run_dir="results/a", batch_size=4, **{"duration": "8 steps", "log": quiet, **config})
    data = (torch.ones(16, 3), torch.zeros(16, 1))
    trainer = treadle.Trainer(model(), nn.MSELoss(), data, optimizer=SGD, config=given)

    @trainer.on("step_finished", every="3 steps", once=True)
    def handler(run: treadle.Run) -> None:
        change(trainer.model, trainer.optimizer)

    return trainer.fit()


def adds_a_layer(model: Any, optimizer: Any) -> None:
    model.append(nn.Linear(1, 1))


def replaces_a_layer(model: Any, optimizer: Any) -> None:
    model[2] = nn.Linear(4, 1)


def removes_a_bias(model: Any, optimizer: Any) -> None:
    model[0].bias = None


def replaces_a_parameter(model: Any, optimizer: Any) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def gives_the_optimizer_a_stranger(model: Any, optimizer: Any) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 5))]})


def takes_from_the_optimizer(model: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["params"].pop()


CHANGES = [
    (adds_a_layer, r"the model 'model' has other parameters .*seen after step 4: new: 3\.weight, 3\.bias\. .*set requires_grad"),
    (replaces_a_layer, r"seen after step 4: replaced: 2\.weight, 2\.bias"),
    (removes_a_bias, r"seen after step 4: gone: 0\.bias"),
    (replaces_a_parameter, r"replaced: 0\.weight"),
    (gives_the_optimizer_a_stranger, r"the optimizer moves what belongs to none of the run's models, one of shape \(2, 5\), seen after step 4"),
    (takes_from_the_optimizer, r"the optimizer no longer moves model\.2\.bias, seen after step 4"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_change_in_the_middle_is_refused_at_the_next_row(change: Any, message: str) -> None:
    with pytest.raises(treadle.errors.UsageError, match=message):
        fit(change)


def test_it_never_reaches_a_checkpoint() -> None:
    """Also where no row is due."""
    with pytest.raises(treadle.errors.UsageError, match="seen after step 4"):
        fit(adds_a_layer, log_every="1000 steps", checkpoint=treadle.CheckpointConfig(every="1 epoch"))


def freezes(model: Any, optimizer: Any) -> None:
    model[0].requires_grad_(False)


def hands_over_in_groups(model: Any, optimizer: Any) -> None:
    params = optimizer.param_groups[0]["params"]
    optimizer.add_param_group({"params": [params.pop()], "lr": 0.01})


def swaps_an_activation(model: Any, optimizer: Any) -> None:
    model[1] = nn.Tanh()


def frozen_and_taken_out(model: Any, optimizer: Any) -> None:
    params = optimizer.param_groups[0]["params"]
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    params[:] = params[2:]


@pytest.mark.parametrize("change", [freezes, hands_over_in_groups, swaps_an_activation, frozen_and_taken_out])
def test_what_leaves_the_parameters_as_they_are_is_allowed(change: Any) -> None:
    assert fit(change).status == "finished"


def test_a_frozen_part_that_is_given_to_the_optimizer_later_is_known() -> None:
    one = model()
    one[0].requires_grad_(False)
    optimizer = SGD([p for p in one.parameters() if p.requires_grad])
    parameters = Parameters({"model": one, "optimizer": optimizer})
    one[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(one[0].parameters())})
    parameters.check(step=3)
    parameters.check(step=4)


def test_a_model_that_nobody_trains_may_change() -> None:
    """An average of weights, a teacher: they are nothing that the optimizer could miss."""
    one, teacher = model(), model()
    parameters = Parameters({"model": one, "teacher": teacher, "optimizer": SGD(one.parameters())})
    teacher[0] = nn.Linear(3, 4)
    parameters.check(step=1)


def test_parameters_of_no_module_belong_to_the_optimizer_from_the_start() -> None:
    one, temperature = model(), nn.Parameter(torch.zeros(()))
    optimizer = SGD([*one.parameters(), temperature])
    parameters = Parameters({"model": one, "optimizer": optimizer})
    optimizer.param_groups[0]["params"].reverse()
    parameters.check(step=1)
