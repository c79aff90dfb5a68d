"""Which kernels an optimizer computes with belongs to the machine: a checkpoint does not bring those of another one."""

from typing import Any

import pytest
import torch
from torch import nn

from treadle.checkpoint.tracked import Tracked


def stepped(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **options)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(("before", "now"), [({"fused": True}, {}), ({}, {"fused": True}), ({"foreach": True}, {"fused": True})])
def test_state_is_taken_up_and_kernels_are_not(before: dict[str, Any], now: dict[str, Any]) -> None:
    saved, loaded = Tracked(), Tracked()
    saved.add("optimizer", stepped(nn.Linear(2, 2), **before))
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=0.1, **now)
    loaded.add("optimizer", optimizer)
    loaded.load(saved.states(), accept_changes=False)
    assert loaded.compare(saved.settings(), accept_changes=False) == []
    assert optimizer.param_groups[0]["fused"] is now.get("fused")
    assert optimizer.param_groups[0]["foreach"] is now.get("foreach")
    assert optimizer.state_dict()["state"][0]["step"].item() == 1


def test_state_is_laid_out_as_its_weight_is() -> None:
    plain, last = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    saved, loaded = Tracked(), Tracked()
    saved.add("optimizer", stepped(plain))
    optimizer = torch.optim.AdamW(last.parameters(), lr=0.1)
    loaded.add("optimizer", optimizer)
    loaded.load(saved.states(), accept_changes=False)
    moment = optimizer.state[last.weight]["exp_avg"]
    assert moment.stride() == last.weight.stride()
    assert torch.equal(moment, saved.states()["optimizer"]["state"][0]["exp_avg"])
