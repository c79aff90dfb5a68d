"""Loading an optimizer: its state as it was saved, computed with the kernels and laid out for the weights of now."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch.optim import Optimizer

from treadle.checkpoint.settings import check_groups
from treadle.core.structure import map_leaves

_KERNELS = ("foreach", "fused", "capturable")
"""Which of torch's kernels an optimizer computes with: that of this machine, not of the one that saved."""


def load_optimizer(optimizer: Optimizer, state: Any) -> None:
    """Put back what ``optimizer.state_dict()`` gave.

    torch takes all that it finds in a state for numbers of the weight's own type: bytes of a quantised momentum would become floats, half
    precision would become full, texts and arrays would be broken. So it gets what it can load, and the rest is put in as it was.

    Args:
        optimizer: one with a loading of its own does it by itself.
        state: of such an optimizer.

    Raises:
        ValueError: it was another optimizer's.
    """
    known = set(optimizer.param_groups[0]) - {"initial_lr"}
    if "param_groups" not in state:  # the optimizer says in its own way how it is
        optimizer.load_state_dict(state)
        return
    check_groups(state["param_groups"], optimizer.param_groups)
    state = _with_kernels_of(optimizer, state)
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict or optimizer._optimizer_load_state_dict_pre_hooks:
        optimizer.load_state_dict(state)
    else:
        _load_as_saved(optimizer, state)
    _lay_out(optimizer)
    if lost := known - set(optimizer.param_groups[0]):  # torch would notice in the middle of the next step
        raise ValueError(f"the state has no {', '.join(sorted(lost))}; was it another optimizer's?")


def _load_as_saved(optimizer: Optimizer, state: Any) -> None:
    params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
    odd: dict[Any, dict[str, Any]] = {}
    plain = dict(state["state"])
    for param, number in zip(params, numbers, strict=False):  # where there are more of one, torch says so
        entries = state["state"].get(number, {})
        if kept := {key: value for key, value in entries.items() if not _is_for_torch(key, value, param)}:
            odd[param] = kept
            plain[number] = {key: value for key, value in entries.items() if key not in kept}
    defaults = dict(optimizer.defaults)
    optimizer.load_state_dict({**state, "state": plain})
    optimizer.defaults = defaults  # torch adds an option of its own, which a group that comes later would have in a run that went on alone
    for param, kept in odd.items():
        optimizer.state[param].update({key: _moved(value, param.device) for key, value in kept.items()})


def _is_for_torch(key: str, value: Any, param: torch.Tensor) -> bool:
    """Whether torch loads it as what it is."""
    if isinstance(value, torch.Tensor):
        return key == "step" or value.dtype is param.dtype
    return value is None or isinstance(value, (bool, int, float))


def _moved(value: Any, device: torch.device) -> Any:
    """A state of its own on a device."""
    return map_leaves(lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, torch.Tensor) else leaf, value)


def _with_kernels_of(optimizer: Optimizer, state: Any) -> Any:
    """An optimizer's state, to be computed with the kernels that this one was built with."""
    kept = [{key: own[key] for key in _KERNELS if key in own} for own in optimizer.param_groups]
    return {**state, "param_groups": [{**group, **own} for group, own in zip(state["param_groups"], kept, strict=True)]}


def _lay_out(optimizer: Optimizer) -> None:
    """Lay out what belongs to each weight as the weight is: a file knows no channels_last, and kernels for many tensors do not look."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
