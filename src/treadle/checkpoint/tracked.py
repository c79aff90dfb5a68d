"""What a run keeps: objects with state, under their names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from treadle.checkpoint.generators import OwnGenerator, with_state
from treadle.checkpoint.optimizers import load_optimizer
from treadle.checkpoint.settings import Settings, built_with, remember, set_since_built
from treadle.checkpoint.snapshot import Place, place_of
from treadle.core.errors import ACCEPT, NonFiniteLoss, RunChanged, UsageError
from treadle.core.structure import same
from treadle.system.averaged import weights_to_use
from treadle.system.transfer import to_host

RUN = "run"
"""The run's own state goes under this name."""
SCALER = "scaler"
BATCH = "batch"
"""What a capsule holds beside the state of a run."""
IN_TRAINING = "-in-training"
"""Marks the weights that a run goes on from, where those to use are others, see `treadle.system.averaged`."""
_LONGEST_NAME = 200


def plain_key(key: str) -> str:
    """A key without the mark that torch.compile leaves in it."""
    return key.replace("_orig_mod.", "")


def _as_keyed(item: Any, state: Any) -> Any:
    """A module's state under the keys that it has now."""
    if not isinstance(item, nn.Module):
        return state
    own = {plain_key(key): key for key in item.state_dict()}
    return {own.get(key, key): value for key, value in state.items()}


class Tracked:
    """Objects whose state is part of every checkpoint."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}

    def add(self, name: str, item: Any) -> None:
        """Track an object.

        Raises:
            UsageError: the name is taken or cannot be a file's, or the object has no ``state_dict`` and ``load_state_dict``.
        """
        item = with_state(item)
        lacking = [method for method in ("state_dict", "load_state_dict") if not callable(getattr(item, method, None))]
        why = ""
        if lacking:
            why = f"it has no {lacking[0]}()"
        elif name in self._objects or name in (RUN, BATCH) or name.endswith(IN_TRAINING):
            why = "the name is taken"
        elif "/" in name or name.startswith(".") or not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME:
            why = "its state becomes a file of this name"
        if why:
            raise UsageError(f"cannot track {name!r} ({type(item).__name__}): {why}")
        if isinstance(item, Optimizer):
            remember(item)
        self._objects[name] = item

    def add_handlers(self, handlers: Iterable[object]) -> None:
        """Track those handlers that have state, each under its class's name."""
        for handler in handlers:
            if callable(getattr(handler, "state_dict", None)):
                name, number = type(handler).__name__, 2
                while name in self._objects:
                    name, number = f"{type(handler).__name__}-{number}", number + 1
                self.add(name, handler)

    def objects(self) -> list[Any]:
        """The objects, in the order in which they were added."""
        return list(self._objects.values())

    def named(self) -> dict[str, Any]:
        """The objects by name."""
        return dict(self._objects)

    def models(self) -> dict[str, nn.Module]:
        """Those that are modules, by name."""
        return {name: item for name, item in self._objects.items() if isinstance(item, nn.Module)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Those that are optimizers, by name."""
        return {name: item for name, item in self._objects.items() if isinstance(item, Optimizer)}

    def generators(self) -> dict[str, OwnGenerator]:
        """Those that are random generators, by name."""
        return {name: item for name, item in self._objects.items() if isinstance(item, OwnGenerator)}

    def tensors(self) -> Iterator[torch.Tensor]:
        """The weights of models and what optimizers hold for them: nearly all that is copied for a checkpoint."""
        for item in self._objects.values():
            if isinstance(item, nn.Module):
                yield from item.parameters()
            elif isinstance(item, Optimizer):
                yield from (value for values in item.state.values() for value in values.values() if isinstance(value, torch.Tensor))

    def weights(self) -> set[Place]:
        """Where in the host's memory the weights lie that `check_finite` will look at."""
        return {found for model in self.models().values() for p in _weights(model).values() if (found := place_of(p))}

    def check_finite(self, step: int, last: Path | None, finite: Set[Place] = frozenset()) -> None:
        """Raise where weights are not finite: a checkpoint of them would only take the place of a good one.

        Args:
            step: optimizer steps done.
            last: the newest checkpoint, for the message.
            finite: where weights lie that are known to be.

        Raises:
            NonFiniteLoss: the first few such weights are named.
        """
        for name, model in self.models().items():
            tensors = {key: p for key, p in _weights(model).items() if place_of(p) not in finite}
            if wrong := _not_finite(tensors):
                raise NonFiniteLoss(
                    f"weights of {name!r} are not finite after step {step}: {', '.join(wrong[:5])}; "
                    f"they were not saved. The newest checkpoint is {last}"
                )

    def states(self) -> dict[str, Any]:
        """The state of every object, by name; keys as the plain module has them, also where a part of it is compiled."""
        states = {name: _state_of(name, item) for name, item in self._objects.items()}
        for name, model in self.models().items():
            states[name] = {plain_key(key): value for key, value in states[name].items()}
            with weights_to_use([model]) as differ:
                if differ:  # the file of the model's own name is for whoever uses it, and a run goes on from the other
                    states[name + IN_TRAINING] = states[name]
                    states[name] = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in states[name].items()}
        return states

    def settings(self) -> dict[str, Settings]:
        """What each optimizer was built with, such as its lr, by name and group."""
        return {name: built_with(item) for name, item in self.optimizers().items()}

    def compare(self, before: dict[str, Settings], accept_changes: bool) -> list[str]:
        """Compare what optimizers were built with then and now.

        Args:
            before: what `settings` gave.
            accept_changes: let the new values take the place of the old ones.

        Returns:
            what was accepted, a line each.

        Raises:
            RunChanged: a value differs; both are in the message.
        """
        now = self.settings()
        changed = [
            (name, where, key)
            for name in now
            for where in now[name]
            for key, value in now[name][where].items()
            if not same(before.get(name, {}).get(where, {}).get(key, value), value)
        ]
        lines = [
            f"{name}{f', {where}' if len(now[name]) > 1 else ''}: {key}: {before[name][where][key]!r} -> {now[name][where][key]!r}"
            for name, where, key in changed
        ]
        if changed and not accept_changes:
            listed = "".join(f"\n  {line}" for line in lines)
            raise RunChanged(f"the run was started with another optimizer{listed}\ngive another run_dir for a new run, or {ACCEPT} to go on")
        for name, where, key in changed:
            set_since_built(self._objects[name], where, key, now[name][where][key])
        return lines

    def load(self, states: dict[str, Any], accept_changes: bool) -> None:
        """Put back what `states` gave.

        Args:
            states: the state of each object; of objects that are not tracked now it is left alone.
            accept_changes: allow that other objects are tracked than were.

        Raises:
            RunChanged: other objects are tracked than were.
        """
        states = states | {name.removesuffix(IN_TRAINING): states[name] for name in states if name.endswith(IN_TRAINING)}
        states = {name: state for name, state in states.items() if not name.endswith(IN_TRAINING)}
        # The loss scaler belongs to the machine: it comes and goes with fp16.
        if set(states) - {SCALER} != set(self._objects) - {SCALER} and not accept_changes:
            raise RunChanged(
                f"the checkpoint holds the state of {', '.join(sorted(states))}; this run tracks {', '.join(sorted(self._objects))}. "
                "Make them the same, or say accept_changes to go on with those that are in both"
            )
        # Optimizers last: a handler that is restored before may give them the groups that they had.
        for name, item in sorted(self._objects.items(), key=lambda pair: isinstance(pair[1], Optimizer)):
            if name in states:
                try:
                    _load(item, _as_keyed(item, states[name]))
                except _MISFITS[isinstance(item, (nn.Module, Optimizer))] as error:
                    raise RunChanged(
                        f"the state of {name!r} in the checkpoint does not fit this {type(item).__name__}: {error}\n"
                        "make it as it was to go on, or give another run_dir for a new run"
                    ) from None


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that can be other than finite, by name; complex ones as pairs of numbers."""
    found = {key: torch.view_as_real(p.detach()) if p.is_complex() else p.detach() for key, p in model.named_parameters()}
    return {key: p for key, p in found.items() if p.is_floating_point() and p.numel()}


def _not_finite(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Names of those with an element that is not finite.

    One pass, and nothing as large as the weights is made for it. A sum is finite only where every element is, and takes half as
    long as a look at each; a large one may overflow, so only the extremes (finite where all are) prove that something is wrong.
    """
    sums = to_host([value.sum(dtype=torch.promote_types(value.dtype, torch.float32)) for value in tensors.values()])
    doubtful = [name for name, total in zip(tensors, sums, strict=True) if not math.isfinite(total)]
    extremes = to_host([value for name in doubtful for value in torch.aminmax(tensors[name])])
    found = zip(doubtful, extremes[::2], extremes[1::2], strict=True)
    return [name for name, low, high in found if not (math.isfinite(low) and math.isfinite(high))]


def _state_of(name: str, item: Any) -> Any:
    try:
        return item.state_dict()
    except Exception as error:
        error.add_note(f"raised by the state_dict() of {name!r} ({type(item).__name__}), for a checkpoint")
        raise


_MISFITS = {True: (RuntimeError, ValueError, KeyError, TypeError), False: (RuntimeError,)}
"""What torch's own objects raise when another one's state is loaded; what a user's object raises is the user's."""


def _load(item: Any, state: Any) -> None:
    if isinstance(item, Optimizer):
        load_optimizer(item, state)
    else:
        item.load_state_dict(state)
