"""Several metrics under their names, fed from one outcome."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from treadle.core.errors import ObjectiveError, RunChanged


class Metric(Protocol):
    """What a metric has to have; torchmetrics' objects do."""

    def update(self, output: Any, target: Any, /) -> Any:
        """Take one batch."""

    def compute(self) -> Any:
        """The result so far."""

    def reset(self) -> Any:
        """Forget everything."""


class Group:
    """Metrics by name.

    Args:
        metrics: the metrics.
        device: where their state lives, for those that say so with a ``to`` method.

    Raises:
        ObjectiveError: something in it is no metric.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device) -> None:
        if not isinstance(metrics, Mapping):
            raise ObjectiveError(f"metrics must be a dict of metrics by name, such as {{'accuracy': Accuracy()}}; got {metrics!r}")
        for name, metric in metrics.items():
            if name == "loss":
                raise ObjectiveError("a metric cannot be named 'loss': the loss itself is reported under this name")
            lacking = [method for method in ("update", "compute", "reset") if not callable(getattr(metric, method, None))]
            if lacking or isinstance(metric, type):
                what = f"a class; call it: {metric.__name__}()" if isinstance(metric, type) else f"without {', '.join(lacking)}()"
                raise ObjectiveError(f"the metric {name!r} is {what}")
            if hasattr(metric, "to"):
                metric.to(device)
        self._metrics = dict(metrics)
        self.reset()

    def fresh_copy(self, device: torch.device) -> Group:
        """The same metrics, counting for themselves and able to be saved."""
        copied = copy.deepcopy(self._metrics)
        for metric in copied.values():
            if hasattr(metric, "persistent"):
                metric.persistent(True)  # torchmetrics leaves its counts out of state_dict unless told
        return Group(copied, device)

    @property
    def names(self) -> list[str]:
        """The metrics' names, in order."""
        return list(self._metrics)

    def __bool__(self) -> bool:
        return bool(self._metrics)

    def reset(self) -> None:
        """Forget everything counted."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output: Any, target: Any) -> None:
        """Feed one batch to every metric; an exception of one is given its name."""
        for name, metric in self._metrics.items():
            _named(name, metric, metric.update, output, target)

    def compute(self) -> dict[str, Any]:
        """Every result by name; a metric that gives a dict becomes ``name/key``. An exception of one is given its name."""
        results: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            value = _named(name, metric, metric.compute)
            if isinstance(value, Mapping):
                results.update({f"{name}/{key}": item for key, item in value.items()})
            else:
                results[name] = value
        return results

    def state_dict(self) -> dict[str, Any]:
        """What every metric counted, for a checkpoint."""
        return {name: _state(metric) for name, metric in self._metrics.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        if state.keys() != self._metrics.keys():
            raise RunChanged(f"the checkpoint holds the metrics {', '.join(state)}; this run has {', '.join(self._metrics)}; make them the same")
        for name, metric in self._metrics.items():
            if hasattr(metric, "load_state_dict"):
                metric.load_state_dict(state[name]["state"])
            for key, value in state[name]["attributes"].items():
                own = getattr(metric, key, None)
                if isinstance(own, dict) and type(own) is not dict:  # a Counter, a defaultdict
                    own.clear()
                    own.update(value)
                else:
                    setattr(metric, key, value)


def _named(name: str, metric: Any, call: Callable[..., Any], *args: Any) -> Any:
    """Call a metric; an exception of it arrives unchanged, with the metric's name."""
    try:
        return call(*args)
    except Exception as error:
        error.add_note(f"raised by the metric {name!r} ({type(metric).__name__})")
        raise


def _state(metric: Any) -> dict[str, Any]:
    """A metric's state: its state_dict, else its attributes; torchmetrics keeps its number of updates beside."""
    if not hasattr(metric, "state_dict"):
        return {"attributes": dict(vars(metric))}
    attributes = {"_update_count": metric._update_count} if hasattr(metric, "_update_count") else {}
    return {"state": metric.state_dict(), "attributes": attributes}
