"""Parameters that became other ones while a run went on: what the optimizer moves is then not what the model computes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any

from torch import nn
from torch.optim import Optimizer

from treadle.core.errors import UsageError

_SHOWN = 5
_Homes = list[tuple[dict[str, Any], dict[str, Any]]]


class Parameters:
    """The parameters of models, and those that optimizers move, as they were when a run began.

    A look at them goes over dicts that are there anyway, since it is taken wherever a row is due; names are made only where
    something differs. What is frozen or unfrozen by ``requires_grad``, or given to an optimizer later, is no other parameter.

    Args:
        objects: what the run tracks, by name.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._optimizers = {name: item for name, item in objects.items() if isinstance(item, Optimizer)}
        self._moved = list(_moved(self._optimizers))
        moved = set(map(id, self._moved))
        models = {name: item for name, item in objects.items() if isinstance(item, nn.Module)}
        self._models = {name: model for name, model in models.items() if any(id(p) in moved for p in model.parameters())}
        self._named = {name: dict(model.named_parameters()) for name, model in self._models.items()}
        self._homes = self._all_homes()

    def check(self, step: int) -> None:
        """Look whether they are the same.

        Args:
            step: steps done, for the message.

        Raises:
            UsageError: they are not; which ones is in the message.
        """
        if self._seem_unchanged():
            return
        for name, model in self._models.items():
            if found := _differences(self._named[name], dict(model.named_parameters())):
                raise UsageError(
                    f"the model {name!r} has other parameters than at the beginning of the run, seen after step {step}: {'; '.join(found)}. "
                    "The optimizer does not know them, and no checkpoint would fit: change a model before the run begins; to freeze a part of it, "
                    "set requires_grad"
                )
        self._check_optimizers(step)
        self._moved, self._homes = list(_moved(self._optimizers)), self._all_homes()

    def _seem_unchanged(self) -> bool:
        for home, before in self._homes:
            if home.keys() != before.keys() or not all(map(is_, home.values(), before.values())):
                return False
        moved = list(_moved(self._optimizers))
        return len(moved) == len(self._moved) and all(map(is_, moved, self._moved))

    def _check_optimizers(self, step: int) -> None:
        names = {id(p): f"{name}.{key}" for name, named in self._named.items() for key, p in named.items()}
        moved = {id(p) for p in _moved(self._optimizers)}
        before = {id(p) for p in self._moved}
        lost = [names[id(p)] for p in self._moved if p.requires_grad and id(p) in names and id(p) not in moved]
        strange = [f"one of shape {tuple(p.shape)}" for p in _moved(self._optimizers) if id(p) not in names and id(p) not in before]
        for what, found in (("no longer moves", lost), ("moves what belongs to none of the run's models,", strange)):
            if found:
                raise UsageError(f"the optimizer {what} {_listed(found)}, seen after step {step}; the run began otherwise")

    def _all_homes(self) -> _Homes:
        """Where each module keeps its parameters and its parts, with what is in there now."""
        modules = [module for model in self._models.values() for module in model.modules()]
        return [(home, dict(home)) for module in modules for home in (module._parameters, module._modules)]


def _moved(optimizers: Mapping[str, Optimizer]) -> Iterator[Any]:
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            yield from group["params"]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    kinds = {
        "new": [key for key in now if key not in before],
        "gone": [key for key in before if key not in now],
        "replaced": [key for key in now if key in before and now[key] is not before[key]],
    }
    return [f"{kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
