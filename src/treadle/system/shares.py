"""Shares: which parameters of one model each of several optimizers gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from treadle.core.errors import ConfigError
from treadle.core.patterns import as_patterns, chosen

Named = dict[str, nn.Parameter]


def shares(optimizers: Mapping[str, Any], trainable: Named) -> dict[str, tuple[Any, Named]]:
    """Give every parameter to one of several optimizers.

    Args:
        optimizers: by name: ``(factory, rule)``, the rule a `treadle.core.patterns.Pattern` or several; or a factory alone, which gets what no
            rule takes; or an optimizer, which has its own.
        trainable: the parameters of the model, by name.

    Returns:
        the factory, or the optimizer, and its parameters, by name.

    Raises:
        ConfigError: a rule takes nothing, two take the same parameter, or a parameter is left over.
    """
    ready = {name: given for name, given in optimizers.items() if isinstance(given, Optimizer)}
    ruled = {name: given for name, given in optimizers.items() if isinstance(given, (tuple, list))}
    others = [name for name in optimizers if name not in ready and name not in ruled]
    if len(others) > 1:
        raise ConfigError(
            f"the optimizers {' and '.join(map(repr, others))} of one model have no rule; say which parameters each gets, such as "
            f"{others[0]!r}: (factory, lambda name, parameter: parameter.ndim == 2), and leave it out for one of them"
        )
    taken = {name: _held(given, trainable) for name, given in ready.items()}
    taken |= {name: _taken(name, given, trainable) for name, given in ruled.items()}
    _check_once(taken)
    rest = {key: parameter for key, parameter in trainable.items() if not any(key in share for share in taken.values())}
    if others and not rest:
        raise ConfigError(f"the optimizer {others[0]!r} gets nothing: the rules of the others take every parameter")
    if rest and not others:
        raise ConfigError(f"no optimizer gets {_short(rest)}; leave the rule of one of {sorted(ruled)} out, and it gets the rest")
    taken |= dict.fromkeys(others, rest)
    return {name: (given[0] if name in ruled else given, taken[name]) for name, given in optimizers.items()}


def check_apart(before: Iterable[object], now: Iterable[Optimizer], models: Iterable[nn.Module]) -> None:
    """Raise where two optimizers move the same parameters.

    Args:
        before: those that are known, among other things.
        now: those that come.
        models: know how the parameters are called.

    Raises:
        ConfigError: the first of them are named.
    """
    seen = {id(parameter) for optimizer in before if isinstance(optimizer, Optimizer) for parameter in _parameters(optimizer)}
    names = {id(parameter): key for model in models for key, parameter in model.named_parameters()}
    for optimizer in now:
        held = _parameters(optimizer)
        if both := [names.get(id(parameter), f"one of the shape {list(parameter.shape)}") for parameter in held if id(parameter) in seen]:
            raise ConfigError(
                f"two optimizers move the same parameters: {_short(both)}; give each parameter to one of them, or say "
                "run.prepare(..., shared=True) in an own loop where this is meant"
            )
        seen |= set(map(id, held))


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _held(optimizer: Optimizer, trainable: Named) -> Named:
    held = set(map(id, _parameters(optimizer)))
    return {key: parameter for key, parameter in trainable.items() if id(parameter) in held}


def _taken(name: str, given: Any, trainable: Named) -> Named:
    if len(given) != 2:
        raise ConfigError(f"the optimizer {name!r} must be (factory, rule), such as (SGD, 'head.*'); got {given!r}")
    who = f"the rule of the optimizer {name!r}"
    return {key: trainable[key] for key in chosen(as_patterns(given[1], who), trainable, who)}


def _check_once(taken: Mapping[str, Named]) -> None:
    owner: dict[str, str] = {}
    for name, share in taken.items():
        for key in share:
            if key in owner:
                raise ConfigError(f"the optimizers {owner[key]!r} and {name!r} both take {key!r}; make one of their rules narrower")
            owner[key] = name


def _short(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
