"""Weight sets: further weights of a run's models under a name, kept by a handler, such as an average of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from treadle.core.errors import UsageError, did_you_mean


@runtime_checkable
class WeightSet(Protocol):
    """What a handler has to have for a `Trainer` to evaluate its weights beside the raw ones.

    Attributes:
        name: what the set is called in names of values, such as "ema" in ``valid/ema/accuracy``.
        models: modules that have the weights, by the name under which the run tracks the raw one: "model", "model-G".
        ready: whether there are weights already.
    """

    name: str

    @property
    def models(self) -> Mapping[str, Any]:
        """Modules with these weights, by the name of the raw model."""

    @property
    def ready(self) -> bool:
        """Whether there are weights already."""


def weight_sets(handlers: Iterable[object]) -> dict[str, WeightSet]:
    """Those of some handlers that keep weights, by name, in their order."""
    return {handler.name: handler for handler in handlers if isinstance(handler, WeightSet)}


def with_weights(model: Any, chosen: WeightSet) -> Any:
    """A model, or several by name, with the weights of a set; of those that the set does not have, the raw ones."""
    if isinstance(model, Mapping):
        return {name: chosen.models.get(f"model-{name}", one) for name, one in model.items()}
    return chosen.models.get("model", model)


def weights_named(model: Any, handlers: Iterable[object], name: str | None) -> Any:
    """A model, or several by name, with the weights of the set that has this name; None for the raw ones.

    Raises:
        UsageError: no handler keeps such a set, or there are no weights in it yet.
    """
    if name is None:
        return model
    known = weight_sets(handlers)
    if name not in known:
        raise UsageError(f"there are no weights named {name!r}: no handler of this trainer keeps them{did_you_mean(name, known)}")
    if not known[name].ready:
        raise UsageError(f"the weights {name!r} are not there yet: they come with fit(), from their start on; weights=None takes the raw ones")
    return with_weights(model, known[name])
