"""Parameter groups: which parameters an optimizer moves with which settings, chosen by name, by layer and by kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from treadle.core.errors import ConfigError
from treadle.core.patterns import Pattern, as_patterns, chosen, plain_name
from treadle.core.settings import NO_DECAY, SCALE, check_settings, is_number

Factory = Callable[..., Any]
Rule = str | Pattern | Sequence[Pattern] | Mapping[str, Any]
REST = "default"
"""The group of the parameters that no rule names."""
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class _Part(NamedTuple):
    """Some parameters, and what holds for them."""

    name: str
    settings: dict[str, Any]
    ids: set[int]


class Groups:
    """What builds an optimizer with named groups; made by `treadle.groups`."""

    def __init__(self, factory: Factory, rules: Mapping[str, Rule], no_decay: bool, layers: Sequence[Any], layer_decay: float | None) -> None:
        self._factory = factory
        self._rules = {name: _checked_rule(name, rule) for name, rule in rules.items()}
        self._no_decay, self._layer_decay = no_decay, layer_decay
        self._layers = [[layer] if isinstance(layer, str) else as_patterns(layer, "layers") for layer in layers]

    def __call__(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model, for a loop by hand; a run builds it by itself."""
        if not isinstance(model, nn.Module):
            raise ConfigError(f"treadle.groups chooses parameters by name, so it is called with the model, not with {type(model).__name__}")
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        return self.build(model, trainable, lambda factory: factory)

    def build(self, model: nn.Module, trainable: Mapping[str, nn.Parameter], kernels: Callable[[Factory], Factory]) -> Optimizer:
        """The optimizer.

        Args:
            model: whose parameters are named.
            trainable: those that it moves.
            kernels: given the factory, what is called in its place.

        Raises:
            ConfigError: a pattern matches nothing, a group would be empty, or the optimizer has no such setting.
        """
        groups = self._split(model, trainable)
        optimizer = kernels(self._factory)([{"params": [p for _, p in own], **settings, "name": name} for name, settings, own in groups])
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"treadle.groups: the factory must give a torch.optim.Optimizer, got {type(optimizer).__name__}")
        for (name, settings, own), group in zip(groups, optimizer.param_groups, strict=True):
            check_settings(f"the group {name!r}", settings, optimizer)
            if SCALE in settings:
                group["lr"] = group["lr"] * settings[SCALE]
            group["param_names"] = [plain_name(key) for key, _ in own]  # torch's key for them: a checkpoint says which they were
        return optimizer

    def _split(self, model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> list[tuple[str, dict[str, Any], list[tuple[str, nn.Parameter]]]]:
        """Name, settings and parameters of each group: those of the rules in their order, cut by layer and by kind."""
        named = {plain_name(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
        free = set(map(id, trainable.values()))
        cuts = [self._by_rule(named, free), self._by_layer(model, named), self._by_kind(model, named)]
        found: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in trainable.items():
            found.setdefault(tuple(_place(parts, parameter) for parts in cuts), []).append((name, parameter))
        groups = []
        for places in sorted(found):
            parts = [cut[place] for cut, place in zip(cuts, places, strict=True) if place < len(cut)]
            settings = {key: value for part in parts for key, value in part.settings.items() if key != SCALE}
            if scales := [part.settings[SCALE] for part in parts if SCALE in part.settings]:
                settings[SCALE] = math.prod(scales)
            *where, kind = parts if self._no_decay else [*parts, _Part("", {}, set())]
            groups.append((("/".join(part.name for part in where) or REST) + kind.name, settings, found[places]))
        return groups

    def _by_rule(self, named: Mapping[str, nn.Parameter], free: set[int]) -> list[_Part]:
        """The parts that the rules name; what two of them name belongs to the first.

        Raises:
            ConfigError: a pattern matches nothing, or nothing is left for a rule.
        """
        parts: list[_Part] = []
        for name, (patterns, settings) in self._rules.items():
            ids = {id(named[key]) for key in chosen(patterns, named, f"the group {name!r}")}
            if not ids & free:
                raise ConfigError(
                    f"the group {name!r} is empty: all that it names is frozen (requires_grad=False) or another optimizer's; leave the group out"
                )
            left = (ids & free).difference(*(part.ids for part in parts))
            if not left:
                earlier = ", ".join(repr(part.name) for part in parts if part.ids & ids)
                raise ConfigError(f"the group {name!r} is empty: all that it names belongs to {earlier}, and the first that matches wins")
            parts.append(_Part(name, settings, left))
        return parts

    def _by_layer(self, model: nn.Module, named: Mapping[str, nn.Parameter]) -> list[_Part]:
        """The layers, from the input to the output, each with its share of the learning rate."""
        found: list[tuple[str, set[int]]] = []
        modules = {plain_name(name): module for name, module in model.named_modules() if name}
        for layer in self._layers:
            container = modules.get(layer[0]) if len(layer) == 1 and isinstance(layer[0], str) else None
            if isinstance(container, (nn.ModuleList, nn.Sequential)):
                children = [(f"{layer[0]}.{name}", child) for name, child in container.named_children()]
                found += [(name, set(map(id, child.parameters()))) for name, child in children if any(True for _ in child.parameters())]
            else:
                name = next((pattern for pattern in layer if isinstance(pattern, str)), f"layer {len(found) + 1}")
                found.append((name, {id(named[key]) for key in chosen(layer, named, "layers")}))
        decay = self._layer_decay if self._layer_decay is not None else 1.0
        return [_Part(name, {SCALE: decay ** (len(found) - 1 - place)}, ids) for place, (name, ids) in enumerate(found)]

    def _by_kind(self, model: nn.Module, named: Mapping[str, nn.Parameter]) -> list[_Part]:
        """What weight decay only harms, behind everything else: biases, and the scales of norms."""
        if not self._no_decay:
            return []
        of_norms = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters(recurse=False)}
        flat = {id(p) for p in named.values() if p.ndim < 2}
        others = {id(p) for p in named.values()} - flat - of_norms
        return [_Part("", {}, others), _Part(NO_DECAY, {"weight_decay": 0.0}, flat | of_norms)]


def groups(
    optimizer: Factory,
    rules: Mapping[str, Rule] | None = None,
    *,
    no_decay: bool = False,
    layers: Sequence[str | Sequence[Pattern]] = (),
    layer_decay: float | None = None,
) -> Groups:
    """An optimizer whose parameters are in named groups, each with settings of its own. Give it wherever an optimizer is asked for.

    A rule is as a group of torch, with patterns in place of parameters: ``{"params": "head.*", "lr": 1e-2}``; or the patterns
    alone. A pattern is a name, where ``*`` stands for anything and a module for all that is in it; a ``re.compile(...)``, which is
    searched for; or a function ``f(name, parameter) -> bool``. The first rule that matches wins. What none matches is
    in the group "default", with the settings of `optimizer`.

    Args:
        optimizer: a callable that takes parameters, such as ``partial(torch.optim.AdamW, lr=1e-3)``.
        rules: patterns and settings, by the name of the group. A setting is a field of the optimizer's groups, such as lr or
            weight_decay; or ``lr_scale``, a factor on the learning rate, also on one that a schedule gives.
        no_decay: no weight decay for what has fewer than two dimensions, such as biases, and for what belongs to a norm.
            It cuts each group in two; the second one's name ends in ``/no_decay``.
        layers: from the input to the output, each a pattern or a list of patterns. An ``nn.ModuleList`` or ``nn.Sequential`` is as
            many layers as it has children. Each is a group.
        layer_decay: the learning rate of the last layer times this is that of the one before it, and so on down to the first.
            What is in no layer has the full rate. (ELECTRA, Clark et al. 2020, section 3.1 and appendix B.)

    Returns:
        what builds the optimizer, when called with a model.

    Raises:
        ConfigError: here, or when the optimizer is built: a pattern matches no parameter, a group would be empty, or the
            optimizer has no such setting; the nearest names are given.

    Example:
        >>> from functools import partial
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> adamw = groups(partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1), {"head": {"params": "2", "lr": 1e-2}}, no_decay=True)
        >>> [(group["name"], group["lr"], group["weight_decay"]) for group in adamw(model).param_groups]
        [('head', 0.01, 0.1), ('head/no_decay', 0.01, 0.0), ('default', 0.001, 0.1), ('default/no_decay', 0.001, 0.0)]
    """
    if isinstance(optimizer, (Optimizer, Groups)) or not callable(optimizer):
        raise ConfigError(
            f"treadle.groups takes a callable that builds an optimizer, such as partial(torch.optim.AdamW, lr=1e-3); got {_short(optimizer)}"
        )
    if bool(layers) != (layer_decay is not None):
        raise ConfigError("treadle.groups: layers and layer_decay belong together; give both, or neither")
    if not (rules or no_decay or layers):
        raise ConfigError("treadle.groups: no rule, no_decay=False and no layers: there is nothing to choose groups by")
    if isinstance(layers, str):
        raise ConfigError(f"treadle.groups: layers must be a list, from the input to the output; got {layers!r}")
    if layer_decay is not None and not (is_number(layer_decay) and 0 < layer_decay <= 1):
        raise ConfigError(f"treadle.groups: layer_decay must be more than 0 and at most 1, got {layer_decay!r}")
    return Groups(optimizer, rules or {}, no_decay, layers, layer_decay)


def labels(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an optimizer's groups are called: by their names; one without, ``group 1`` by its place."""
    return [str(group.get("name") or f"group {place}") for place, group in enumerate(groups, 1)]


def overview(optimizers: Mapping[str, Optimizer], models: Iterable[nn.Module]) -> str:
    """A table of the groups: name, tensors, parameters, learning rate, weight decay. Empty where there is one group, and nothing is frozen.

    Args:
        optimizers: by name.
        models: of these, what is frozen has a line; one that does not train at all has none.
    """
    rows = []
    for name, optimizer in optimizers.items():
        for label, group in zip(labels(optimizer.param_groups), optimizer.param_groups, strict=True):
            rates = [f"{float(group[key]):g}" if key in group else "-" for key in ("lr", "weight_decay")]
            rows.append([f"{name}, {label}" if len(optimizers) > 1 else label, *_counted(group["params"]), *rates])
    training = [model for model in models if any(p.requires_grad for p in model.parameters())]
    if frozen := [p for model in training for p in model.parameters() if not p.requires_grad]:
        rows.append(["frozen", *_counted(frozen), "-", "-"])
    if len(rows) <= len(optimizers):
        return ""
    rows = [["group", "tensors", "parameters", "lr", "decay"], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def _counted(parameters: Sequence[torch.Tensor]) -> list[str]:
    return [f"{len(parameters):,}", f"{sum(p.numel() for p in parameters):,}"]


def _checked_rule(name: Any, rule: Any) -> tuple[list[Pattern], dict[str, Any]]:
    if not isinstance(name, str) or not name or name == REST:
        raise ConfigError(f"treadle.groups: a group's name must be a text, and {REST!r} is that of the rest; got {name!r}")
    who = f"the group {name!r}"
    if not isinstance(rule, Mapping):
        return as_patterns(rule, who), {}
    if "params" not in rule:
        raise ConfigError(f"{who} does not say which parameters: give 'params', such as {{'params': 'head.*', 'lr': 0.01}}; got {dict(rule)!r}")
    return as_patterns(rule["params"], who), {key: value for key, value in rule.items() if key != "params"}


def _place(parts: Sequence[_Part], parameter: nn.Parameter) -> int:
    return next((place for place, part in enumerate(parts) if id(parameter) in part.ids), len(parts))


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, (Optimizer, Groups)) else repr(value)
