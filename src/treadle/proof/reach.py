"""Reach: every object that a training program can be influenced by, under the name that its author would use.

From the dataset, the models, the objective, the modules of the user's own and the variables of the functions that are running,
it follows attributes, items and closures. It is bounded in depth, number and time, and it changes nothing.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from treadle.core.places import is_users
from treadle.proof.digest import GENERATORS, digest_of
from treadle.system.code import is_own

Entry = dict[str, Any]
"""``kind`` ("generator", "object", "data" or "value"), ``root`` ("data", "model", "objective", "handler", "global" or "local"), ``type``,
``digest``, ``value`` in short."""
_DEEPEST, _MOST, _LONGEST_S, _WIDEST = 7, 20_000, 20.0, 300
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_RUNS_OWN = (torch.default_generator, getattr(np.random.mtrand, "_rand", None), getattr(random, "_inst", None))
"""Python's, NumPy's and torch's own generators: the run keeps them."""


_LEFT_ALONE = ("treadle.", "threading", "_thread", "_io", "logging", "importlib")


class Reach:
    """A walk over objects.

    Args:
        tracked: what is in the checkpoints, and so no suspect.
    """

    def __init__(self, tracked: list[Any]) -> None:
        self.entries: dict[str, Entry] = {}
        self._tracked = {id(item) for item in tracked}
        self._seen = {id(item) for item in (*_RUNS_OWN, self) if item is not None}
        self._kept: list[Any] = []  # an object that is gone gives its id to another one
        self._deadline = time.monotonic() + _LONGEST_S

    def walk(self, value: Any, path: str, root: str, depth: int = 0) -> None:
        """Follow a value, and write down what it leads to."""
        if depth > _DEEPEST or len(self.entries) >= _MOST or time.monotonic() > self._deadline:
            return
        if isinstance(value, _PLAIN):
            return self._note(value, path, root, "value")
        if id(value) in self._seen or isinstance(value, (ModuleType, BuiltinFunctionType)):
            return None
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, GENERATORS):
            return None if id(value) in self._tracked else self._note(value, path, root, "generator")
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._note(value, path, root, "data")
        if not isinstance(value, nn.Module) and _has_state(value):
            return self._stateful(value, path, root, depth)
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            self._note(value, path, root, "object")
            if _is_flat(value):
                return None
        for name, item in list(self._inside(value, path)):
            self.walk(item, name, root, depth + 1)
        return None

    def _note(self, value: Any, path: str, root: str, kind: str) -> None:
        text = repr(value) if isinstance(value, _PLAIN) else _size(value)
        self.entries[path] = {
            "kind": kind,
            "root": root,
            "type": type(value).__name__,
            "digest": digest_of(value),
            "value": text if len(text) <= 60 else f"{text[:57]}...",
        }

    def _stateful(self, value: Any, path: str, root: str, depth: int) -> None:
        """An optimizer, a scheduler or an object of the user's own that can say where it is."""
        if isinstance(value, torch.optim.Optimizer) and id(value) in self._tracked:
            return
        if id(value) in self._tracked or type(value).__module__.startswith("treadle."):
            for name, item in list(self._inside(value, path)):  # an attribute may be missing in its state
                self.walk(item, name, root, depth + 1)
            return
        try:
            state = value.state_dict()
        except Exception:  # it is the user's, and it was only asked out of curiosity
            state = dict(getattr(value, "__dict__", {}))
        self.entries[path] = {"kind": "object", "root": root, "type": type(value).__name__, "digest": digest_of(state), "value": "its state_dict()"}
        if is_users(_file_of(type(value))):
            for name, item in list(self._inside(value, path)):
                self.walk(item, name, root, depth + 1)

    def _inside(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            yield from ((f"{path}[{key!r}]", item) for key, item in list(value.items())[:_WIDEST])
        elif isinstance(value, (list, tuple, set, frozenset)) or type(value).__name__ == "deque":
            yield from ((f"{path}[{place}]", item) for place, item in enumerate(list(value)[:_WIDEST]))
        elif isinstance(value, nn.Module):
            yield from self._in_module(value, path)
        elif isinstance(value, partial):
            yield from ((path, value.func), (f"{path}.args", value.args), (f"{path}.keywords", value.keywords))
        elif isinstance(value, MethodType):
            yield path.rpartition(".")[0] or path, value.__self__
        elif isinstance(value, FunctionType):
            yield from _in_function(value, path)
        elif isinstance(value, GeneratorType):
            frame = value.gi_frame
            yield from ((f"{path}.{name}", item) for name, item in (frame.f_locals if frame else {}).items())
        elif isinstance(value, type):
            own = is_users(_file_of(value))
            yield from ((f"{path}.{name}", item) for name, item in vars(value).items() if own and not name.startswith("__") and not callable(item))
        elif not type(value).__module__.startswith(_LEFT_ALONE) or type(value).__module__.startswith("treadle.data."):
            yield from ((f"{path}.{name}", item) for name, item in _attributes(value))

    def _in_module(self, module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
        own = {name: item for name, item in vars(module).items() if not name.startswith("_") and name != "training"}
        kept = set(module.state_dict(keep_vars=True)) if id(module) in self._tracked else set()
        if kept:  # its weights are in every checkpoint: they are no news here
            self._seen |= {id(item) for name, item in (*module.named_parameters(), *module.named_buffers()) if name in kept}
        yield from ((f"{path}.{name}", item) for name, item in own.items())
        for name, item in (*module._parameters.items(), *module._buffers.items(), *module._modules.items()):
            yield f"{path}.{name}", item


def snapshot(run: Any, tracked: list[Any], loaders: list[Any], frames: list[FrameType]) -> dict[str, Entry]:
    """Everything that can be reached from a run and from what is running now.

    Args:
        run: the `Run`.
        tracked: what it tracks, as the user gave it.
        loaders: its loaders.
        frames: the frames that led here, the nearest first.

    Returns:
        what is there, under its name.
    """
    reach = Reach(tracked)
    for loader in loaders:
        reach.walk(loader.source.data, _name(loader.source.data), "data")
        reach.walk(loader.source.collate, "collate", "data")
        reach.walk(getattr(loader.source.order, "order", loader.source.order), "sampler", "data")
    for item in tracked:
        if isinstance(item, nn.Module):
            reach.walk(item, type(item).__name__, "model")
    for frame in frames:
        trainer: Any = frame.f_locals.get("self")
        if type(trainer).__module__ == "treadle.trainer":
            objective = getattr(trainer.objective, "loss", trainer.objective)
            reach.walk(objective, _name(objective), "objective")
            reach.walk(trainer._step, _name(trainer._step), "objective")
            for name in ("valid", "metrics"):
                reach.walk(getattr(trainer, name), name, "data")
    for registered in run.events.registrations():
        if not getattr(registered.handler, "__module__", "").startswith("treadle."):
            reach.walk(registered.handler, _name(registered.handler, registered.event), "handler")
    _own_modules(reach)
    for frame in frames:
        if is_users(frame.f_code.co_filename) and frame.f_code.co_name != "<module>":
            for name, item in list(frame.f_locals.items()):
                reach.walk(item, f"{frame.f_code.co_name}.{name}", "local")
    return reach.entries


def _own_modules(reach: Reach) -> None:
    for module in list(sys.modules.values()):
        if is_own(module) and not module.__name__.startswith("treadle"):
            title = Path(str(module.__file__)).stem
            for name, item in list(vars(module).items()):
                if not name.startswith("__"):
                    reach.walk(item, f"{title}.{name}", "global")


def _in_function(function: FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{path}.{name}", cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
    defaults = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    yield from ((f"{path}.{name}", item) for name, item in zip(names[len(names) - len(defaults) :], defaults, strict=True))
    yield from ((f"{path}.{name}", item) for name, item in (function.__kwdefaults__ or {}).items())
    yield from ((f"{path}.{name}", item) for name, item in vars(function).items())


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and not name.startswith("__"):
                yield name, getattr(value, name)


def _has_state(value: Any) -> bool:
    kind = type(value)
    return callable(getattr(kind, "state_dict", None)) and callable(getattr(kind, "load_state_dict", None))


def _is_flat(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, dict) else list(value)
    return all(isinstance(item, (*_PLAIN, torch.Tensor, np.ndarray)) for item in items)


def _file_of(kind: type) -> str:
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or "<frozen "


def _name(value: Any, otherwise: str = "data") -> str:
    if isinstance(value, (list, tuple, dict, torch.Tensor, np.ndarray)):
        return otherwise
    return getattr(value, "__name__", None) or type(value).__name__


def _size(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{type(value).__name__} {list(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
