"""Update rules: torch's SGD, Adam and AdamW as functions of tensors, so that an update can be part of a graph.

The state is the optimizer's own, in torch's layout: what is saved, restored and looked at stays the same. Only the
learning rate moves from one step to the next, so it is a tensor; everything else is a constant of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Group = dict[str, Any]
States = list[dict[str, Any]]
Tensors = list[torch.Tensor]
_OPTIONS = ("momentum", "dampening", "nesterov", "betas", "eps", "weight_decay", "decoupled_weight_decay", "amsgrad", "maximize")
"""What is a constant of the update; the learning rate moves, and by which kernels an update outside of a graph is made is no matter."""
Rule = Callable[[Group, Tensors, Tensors, States, torch.Tensor, torch.Tensor | None], None]


def why_not(optimizer: Optimizer) -> str:
    """What keeps an optimizer's update out of a graph; empty where nothing does."""
    if type(optimizer) not in _RULES:
        return f"the update of {type(optimizer).__name__} is none of {', '.join(known.__name__ for known in _RULES)}"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks"
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            return "the optimizer is differentiable"
        if group.get("dampening"):
            return "the optimizer's first step is another one (dampening)"
        if any(not p.is_floating_point() or p.layout is not torch.strided for p in group["params"]):
            return "a parameter is complex or sparse"
        if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in group["params"]):
            return "a parameter has a gradient hook"
    return ""


class UpdateRule:
    """The update of one optimizer, as a function of gradients.

    Args:
        optimizer: of a kind of which `why_not` has nothing to say.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._rule, self._layout = optimizer, _RULES[type(optimizer)][0], _RULES[type(optimizer)][1]
        self._held: Any = None  # what `_key` names by its id, so that no other object gets one of these names
        self._key: list[Any] = []
        self._options: list[Group] = []  # apart from the groups themselves, which hold the rate as a number: a graph would be made for each
        self.gathered = 0
        """How often options, parameters and state were looked at anew: what a recorded graph holds for good may be another since."""
        self._states: list[States] = []
        self._rates: Tensors = []
        self._written: list[Any] = []  # what was last put into each of them
        self.params: list[nn.Parameter] = []
        """Those that it moves, group after group."""

    def begin(self) -> None:
        """A step begins: take in the learning rates, and the state where it was made, loaded or replaced since."""
        groups, state = self._optimizer.param_groups, self._optimizer.state
        if self._seen(groups, state) != self._key:
            self._gather(groups)
            self._key = self._seen(groups, state)
            self._held = [list(group["params"]) for group in groups], state, list(state.values())
        for place, group in enumerate(groups):
            value = group["lr"]
            if value is not self._written[place] or type(value) is not float:  # a tensor may have changed in place
                self._rates[place].fill_(value)
                self._written[place] = value

    @staticmethod
    def _seen(groups: list[Group], state: Any) -> list[Any]:
        """What the gathered lists were made from: which objects, which of them train, and every option. Asked each step, so without a copy."""
        key: list[Any] = [id(state), *map(id, state.values())]
        for group in groups:
            params = group["params"]
            key += map(id, params)
            key += [param.requires_grad for param in params]
            key += map(group.get, _OPTIONS)
        return key

    def __call__(self, grads: Sequence[torch.Tensor | None], skip: torch.Tensor) -> None:
        """Move the parameters that have a gradient.

        Args:
            grads: one for each of `params`; None leaves the parameter and its state as they are.
            skip: 1.0 leaves everything as it is; a scalar on the gradients' device.
        """
        at = 0
        for group, states, rate in zip(self._options, self._states, self._rates, strict=True):
            here = range(len(states))
            own = [(self.params[at + i], grads[at + i], states[i]) for i in here if grads[at + i] is not None]
            at += len(states)
            params: Tensors = [p for p, _, _ in own]
            given: Tensors = [g for _, g, _ in own]  # type: ignore[misc]
            held = [state for _, _, state in own]
            if torch.compiler.is_compiling():
                # In a graph these copies cost nothing: old and new value meet in the kernel that writes.
                moving = [*params, *(value for state in held for value in state.values() if isinstance(value, torch.Tensor))]
                before = [value.clone() for value in moving]
                self._rule(group, params, given, held, rate, None)
                for value, old in zip(moving, before, strict=True):
                    value.copy_(torch.where(skip > 0, old, value))
            else:
                self._rule(group, params, given, held, rate, skip)

    def _gather(self, groups: list[Group]) -> None:
        """The state of each parameter, made as torch makes it where there is none."""
        self.gathered += 1
        self._options = [{name: group[name] for name in _OPTIONS if name in group} for group in groups]
        self.params = [p for group in groups for p in group["params"] if p.requires_grad]
        self._states = []
        for group in groups:
            if group["params"] and group["params"][0].is_cuda and not group.get("fused") and "capturable" in group:
                group["capturable"] = True  # the count of steps is on the device; a step outside of the graph must not ask for it
            self._states.append([self._laid_out(group, p) for p in group["params"] if p.requires_grad])
        self._written = [None] * len(groups)
        self._rates = [torch.zeros((), device=group["params"][0].device, dtype=torch.float32) for group in groups]

    def _laid_out(self, group: Group, parameter: nn.Parameter) -> dict[str, Any]:
        if not self._layout(group):
            return {}
        state: dict[str, Any] = self._optimizer.state[parameter]
        for name in self._layout(group):
            if state.get(name) is None:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
        if self._rule is _adam:
            step = state.get("step", torch.zeros((), dtype=torch.float32))
            state["step"] = step.to(parameter.device)
        return state


def _sgd(group: Group, params: Tensors, grads: Tensors, states: States, rate: torch.Tensor, found: torch.Tensor | None) -> None:
    sgd(
        params,
        [grad.clone() for grad in grads] if group["nesterov"] else grads,  # which writes into them, and two parameters may share one
        [state["momentum_buffer"] if group["momentum"] else None for state in states],
        **_form(params, found),
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=rate,  # type: ignore[arg-type]
        dampening=0.0,
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )


def _adam(group: Group, params: Tensors, grads: Tensors, states: States, rate: torch.Tensor, found: torch.Tensor | None) -> None:
    beta1, beta2 = group["betas"]
    adam(
        params,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        **_form(params, found),
        capturable=torch.compiler.is_compiling(),
        decoupled_weight_decay=group.get("decoupled_weight_decay", False),
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=rate,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _form(params: Tensors, found: torch.Tensor | None) -> dict[str, Any]:
    """Which of torch's kernels: a compiler joins plain operations by itself; without one the fused kernel looks at the flag."""
    if found is None:
        return {"foreach": bool(params) and params[0].is_cuda, "fused": False}
    return {"foreach": False, "fused": True, "found_inf": found}


_RULES: dict[type[Optimizer], tuple[Rule, Callable[[Group], list[str]]]] = {
    SGD: (_sgd, lambda group: ["momentum_buffer"] if group["momentum"] else []),
    Adam: (_adam, lambda group: ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]),
    AdamW: (_adam, lambda group: ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]),
}
