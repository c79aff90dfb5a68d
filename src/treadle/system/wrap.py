"""Models and optimizers, made ready for a device: moved, laid out, built, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from treadle.core.errors import ConfigError, ObjectiveError
from treadle.system.groups import Groups
from treadle.system.shares import check_apart, shares

Say = Callable[[str], None]
_FUSED = (SGD, Adam, AdamW)
"""Optimizers with a fused kernel for CUDA in every torch that is supported."""


def prepare(model: Any, optimizer: Any, device: torch.device, say: Say, channels_last: ExitStack | None = None) -> tuple[Any, Any]:
    """Put models on a device, and build their optimizers.

    Args:
        model: a module, or several by name.
        optimizer: a callable that takes parameters, or an optimizer; for several models, one for each under the same names, but for those
            that are frozen; for one model also several by name, see `treadle.system.shares`.
        device: where they go.
        say: told what is odd but allowed.
        channels_last: until when images are laid out with the channels last; None leaves them as they are.

    Returns:
        model and optimizer, in the shape in which they were given.

    Raises:
        ObjectiveError: there is nothing to train, or the optimizer has none of the model's parameters.
        ConfigError: a model is no module, an optimizer is none, or the names do not fit.
    """
    if channels_last is not None:
        for one in model.values() if isinstance(model, Mapping) else (model,):
            if isinstance(one, nn.Module):
                channels_last.callback(lay_out_channels_last(unwrapped(one)).remove)
    if not isinstance(model, Mapping):
        return _prepare_one(model, optimizer, device, "the optimizer", say)
    if not isinstance(optimizer, Mapping) or not optimizer or set(optimizer) - set(model):
        given = sorted(optimizer) if isinstance(optimizer, Mapping) else type(optimizer).__name__
        raise ConfigError(f"several models need an optimizer each, under the same names {sorted(model)}; got {given}")
    for name in [name for name in model if name not in optimizer]:
        _keep_still(model[name], name, device)
    pairs = {name: _prepare_one(model[name], optimizer[name], device, f"the optimizer {name!r}", say) for name in model if name in optimizer}
    return {name: pairs[name][0] if name in pairs else model[name] for name in model}, {name: pair[1] for name, pair in pairs.items()}


def called(model: Any) -> Any:
    """What a callable builds that was given as a model.

    Raises:
        ConfigError: it is none.
    """
    if not callable(model):
        raise ConfigError(f"model must be a torch.nn.Module, or a callable that builds one, got {model!r}")
    try:
        return model()
    except TypeError as error:
        error.add_note("the model is called without arguments; where it needs some, give a callable that brings them: lambda: MyModel(...)")
        raise


def lay_out_channels_last(model: nn.Module) -> RemovableHandle:
    """Put the channels of images and of convolutions' weights last, which their kernels are faster with; values stay the same.

    Args:
        model: its weights of four dimensions are laid out anew, in place; its inputs of four dimensions as they come.

    Returns:
        what to remove, so that inputs stay as they are.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def lay_out(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(_channels_last, args)), {name: _channels_last(value) for name, value in kwargs.items()}

    return model.register_forward_pre_hook(lay_out, with_kwargs=True)


def fused_where_it_can_be(factory: Any, device: torch.device, parameters: Iterable[nn.Parameter]) -> Any:
    """An optimizer's factory, with its fused kernel on a CUDA GPU: one launch for all parameters, and it looks at what is not finite by itself.

    Args:
        factory: what builds the optimizer. A class of torch's or a partial of one is changed, unless it says by which kernels it computes.
        device: where the parameters are.
        parameters: what it is going to move.
    """
    kind, said = (factory.func, factory.keywords) if isinstance(factory, partial) else (factory, {})
    if device.type != "cuda" or kind not in _FUSED or set(said) & {"fused", "foreach", "capturable", "differentiable"}:
        return factory
    return partial(factory, fused=True) if all(p.is_floating_point() for p in parameters) else factory


def unwrapped(item: Any) -> Any:
    """What is inside torch.compile's wrapper, so that its prefix never reaches a file."""
    return getattr(item, "_orig_mod", item)


def _prepare_one(model: Any, optimizer: Any, device: torch.device, name: str, say: Say) -> tuple[nn.Module, Any]:
    _check_model(model)
    trainable = _trainable(model)
    model.to(device)
    found: Any
    if isinstance(optimizer, Mapping):
        given = shares(optimizer, trainable)
        found = {key: _built(model, one, share, device, f"the optimizer {key!r}") for key, (one, share) in given.items()}
        check_apart((), found.values(), [model])
    else:
        found = _built(model, optimizer, trainable, device, name)
        _compare(model, trainable, found, name, say)
    for one in found.values() if isinstance(found, dict) else (found,):
        _check_device(one, device, name)
    return model, found


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        if isinstance(module, nn.DataParallel):
            where = f", at {path!r}" if path else ""
            raise ConfigError(
                f"nn.DataParallel is not supported{where}: it copies the model at each step and averages means of batches; give the model inside it"
            )
    if lazy := [key for key, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise ConfigError(
            f"{', '.join(lazy[:3])} of {type(model).__name__} have no shape yet, so there is nothing to optimize: call the model once on an example "
            "batch before, in an own loop ahead of run.prepare, else in the function that builds it"
        )


def _built(model: nn.Module, optimizer: Any, parameters: Mapping[str, nn.Parameter], device: torch.device, name: str) -> Optimizer:
    """An optimizer, from what was given for one."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not callable(optimizer):
        raise ConfigError(
            f"{name} must be a callable that takes parameters, such as partial(torch.optim.SGD, lr=0.01), or an optimizer; got {optimizer!r}"
        )
    given = list(parameters.values())

    def kernels(factory: Any) -> Any:
        return fused_where_it_can_be(factory, device, given)

    found = optimizer.build(model, parameters, kernels) if isinstance(optimizer, Groups) else kernels(optimizer)(given)
    if not isinstance(found, Optimizer):
        raise ConfigError(f"{name} must give a torch.optim.Optimizer when called with parameters, got {type(found).__name__}")
    return found


def _check_device(optimizer: Optimizer, device: torch.device, name: str) -> None:
    elsewhere = [p for group in optimizer.param_groups for p in group["params"] if p.device.type != device.type]
    if elsewhere:
        raise ConfigError(
            f"{name} has {len(elsewhere)} parameters on {elsewhere[0].device}, and the run is on {device}; the first has the shape "
            f"{list(elsewhere[0].shape)}. Make it a parameter of the model, which is moved, or make it on that device"
        )


def _keep_still(model: Any, name: str, device: torch.device) -> None:
    """Put a model that nobody trains, such as a teacher, on a device, in evaluation mode."""
    _check_model(model)
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"the model {name!r} has no optimizer, and is not frozen: give it one under its name, or freeze it: model.requires_grad_(False)"
        )
    model.to(device).eval()


def _channels_last(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters())
    trainable = {key: parameter for key, parameter in named.items() if parameter.requires_grad}
    if not named:
        raise ObjectiveError(f"the model {type(model).__name__} has no parameters; there is nothing to train")
    if not trainable:
        raise ObjectiveError(f"all {len(named)} parameters of {type(model).__name__} are frozen (requires_grad=False); there is nothing to train")
    return trainable


def _compare(model: nn.Module, trainable: Mapping[str, nn.Parameter], optimizer: Optimizer, name: str, say: Say) -> None:
    """Compare what an optimizer moves with what a model can learn."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [key for key, parameter in trainable.items() if id(parameter) not in held]
    if len(missing) == len(trainable):
        raise ObjectiveError(
            f"{name} has none of the parameters of {type(model).__name__}; give a callable such as partial(torch.optim.SGD, lr=0.01), "
            "or build it from this very model's parameters"
        )
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        say(f"warning: {name} does not move {len(missing)} of {len(trainable)} trainable parameters: {shown}")
