"""How a config was asked for, remembered beside it: where each value came from, and whether changes were accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING
from typing import Any

from treadle.config.build import Leaf, flatten, hints, plain, to_dict

_ORIGINS, _ACCEPTS = "_origins", "_accepts_changes"
DEFAULT, PROGRAM = "default", "program"


def of_layer(tree: Mapping[str, Any]) -> dict[str, str]:
    """Where the values of one layer came from, by dotted path: a file and its line, the command line, or the program."""
    return {path: value.origin.removesuffix(": ") if isinstance(value, Leaf) else PROGRAM for path, value in flatten(tree)}


def remember(config: Any, origins: Mapping[str, str]) -> None:
    """Keep origins with a config; one that takes no attributes goes without."""
    _keep(config, _ORIGINS, dict(origins))


def accept_changes(config: Any) -> None:
    """Say with a config that a run may go on with it though it was started with another."""
    _keep(config, _ACCEPTS, True)


def accepts_changes(config: Any) -> bool:
    """Whether somebody did."""
    return bool(getattr(config, _ACCEPTS, False))


def pass_on(before: Any, after: Any) -> None:
    """Let a changed copy of a config have what was remembered of the first."""
    for name in (_ORIGINS, _ACCEPTS):
        if (known := getattr(before, name, None)) is not None:
            _keep(after, name, known)


def with_origins(config: Any) -> dict[str, dict[str, Any]]:
    """Every value of a config with where it came from, by dotted path.

    Example:
        >>> from treadle import Config, load_config
        >>> config = load_config(Config, {"run_dir": "runs/a", "duration": "1 epoch"}, overrides=["seed=7"])
        >>> found = with_origins(config)
        >>> found["seed"], found["duration"]["from"], found["batch_size"]["from"]
        ({'value': 7, 'from': 'command line'}, 'program', 'default')
    """
    known = getattr(config, _ORIGINS, {})
    usual = dict(flatten(_defaults(type(config))))
    return {path: {"value": value, "from": _origin(path, value, known, usual)} for path, value in flatten(to_dict(config))}


def _keep(config: Any, name: str, value: Any) -> None:
    with suppress(AttributeError, TypeError):  # a class with slots takes no more
        object.__setattr__(config, name, value)


def _origin(path: str, value: Any, known: Mapping[str, str], usual: Mapping[str, Any]) -> str:
    above = [".".join(path.split(".")[:end]) for end in range(path.count(".") + 1, 0, -1)]
    told = next((known[name] for name in above if name in known), None)
    if told is not None:
        return told
    return DEFAULT if known or (path in usual and usual[path] == value) else PROGRAM


def _defaults(cls: Any) -> dict[str, Any]:
    """The values that a config has where nobody says anything; without those that must be said."""
    values: dict[str, Any] = {}
    for field in (field for field in dataclasses.fields(cls) if field.name in hints(cls)):
        value = field.default if field.default_factory is MISSING else _made(field.default_factory)
        if value is not MISSING:
            values[field.name] = to_dict(value) if dataclasses.is_dataclass(value) else plain(value)
    return values


def _made(factory: Any) -> Any:
    try:
        return factory()
    except Exception:  # a section that must be given
        return MISSING
