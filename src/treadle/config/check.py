"""One field, one value: conversion and checks by pydantic, errors in our words.

pydantic is imported when the first config is built, so that the command line's help does not pay for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from treadle.core.errors import ConfigError


@dataclass(frozen=True)
class Parsed:
    """Mark a text field that has a grammar of its own: ``Annotated[str, Parsed(Duration.parse)]``."""

    parse: Callable[[Any], object]


def check_fields(config: Any) -> None:
    """Convert and check every field of a dataclass instance, in place.

    Raises:
        ConfigError: naming the field, the value and what is allowed.
    """
    for name, hint in hints(type(config)).items():
        value = convert(hint, getattr(config, name), f"{type(config).__name__}.{name}")
        object.__setattr__(config, name, value)


def convert(hint: Any, value: Any, path: str) -> Any:
    """A value as its annotated type.

    Args:
        hint: a type annotation, with constraints from `annotated_types`.
        value: what was given.
        path: how messages call the field, such as ``"machine.precision"``.

    Raises:
        ConfigError: the value has the wrong type or range.
    """
    from pydantic import ValidationError

    if isinstance(value, bool) and not _allows_bool(hint):
        raise ConfigError(f"{path}: got {value!r}, {_allowed(hint)}")
    for parsed in _markers(hint) if value is not None else ():
        try:
            parsed.parse(value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise ConfigError(_message(hint, value, path, error.errors())) from None


def hints(cls: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved, in order."""
    resolved = get_type_hints(cls, include_extras=True)
    return {f.name: resolved[f.name] for f in dataclasses.fields(cls)}


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    if dataclasses.is_dataclass(hint):  # it brings its own configuration, and checks its own fields
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _message(hint: Any, value: Any, path: str, errors: list[Any]) -> str:
    first = errors[0]
    if dataclasses.is_dataclass(hint) and first["loc"]:
        path, value, errors = ".".join([path, *map(str, first["loc"])]), first["input"], errors[:1]
    reasons = dict.fromkeys(e["msg"].lower().replace("input should be", "must be") for e in errors)
    return f"{path}: got {value!r}, {' or '.join(reasons)}"


def _allows_bool(hint: Any) -> bool:
    return hint in (bool, Any, object) or any(_allows_bool(part) for part in get_args(hint) if get_origin(hint) is not Parsed)


def _allowed(hint: Any) -> str:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return f"must be {getattr(plain, '__name__', None) or plain}"


def _markers(hint: Any) -> list[Parsed]:
    if isinstance(hint, Parsed):
        return [hint]
    return [marker for part in get_args(hint) for marker in _markers(part)]
