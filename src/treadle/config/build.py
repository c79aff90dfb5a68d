"""From nested values to one config object: conversion and checks by pydantic, paths and nearest names in our words.

A tree is nested dicts; its leaves may be plain values, or `Leaf`s that remember where they came from, so that an error can
say ``bad.yaml:4``. pydantic is imported when the first value is checked, so that the command line's help does not pay.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from enum import Enum
from functools import cache
from os import PathLike, fspath
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from treadle.core.errors import ConfigError, did_you_mean

T = TypeVar("T")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Leaf:
    """A value, where it came from, and its `text` where it was typed on a command line."""

    value: Any
    origin: str = ""
    text: str | None = None


class TypedSection(dict[str, Any]):
    """A section that was typed on a command line, and may have been meant as a text: ``note=a: b``."""

    text = ""


@dataclass(frozen=True)
class Parsed:
    """Mark a text field that has a grammar of its own: ``Annotated[str, Parsed(Duration.parse, "length")]``."""

    parse: Callable[[Any], object]
    name: str = ""
    """What help calls such a text."""


def check_fields(config: Any) -> None:
    """Convert and check every field of a dataclass instance, in place.

    Raises:
        ConfigError: naming the field, the value and what is allowed.
    """
    for name in hints(type(config)):
        value = _field(type(config), name, getattr(config, name), f"{type(config).__name__}.{name}")
        object.__setattr__(config, name, value)


def build(cls: type[T], tree: Mapping[str, Any], path: str = "", everywhere: Sequence[str] = ()) -> T:
    """A dataclass from a tree; what the tree does not say has its default.

    Args:
        cls: the dataclass.
        tree: nested values.
        path: where it stands in a larger config, ending in a dot.
        everywhere: every key of that config, for near misses.

    Raises:
        ConfigError: an unknown key, a missing one, a wrong type or range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    everywhere = everywhere or key_paths(cls)
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(f"{where(value)}unknown key '{path}{key}'{_nearest(path, str(key), list(fields), everywhere)}")
    values: Tree = {}
    for name in hints(cls):
        default = _default(fields[name])
        if name in tree:
            values[name] = _field(cls, name, tree[name], f"{path}{name}", default, everywhere)
        elif default is MISSING:
            raise ConfigError(f"'{path}{name}' is missing; give it in the file or as {path}{name}=...")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path.rstrip('.') or cls.__name__}: {error}") from error


def convert(hint: Any, given: Any, path: str, default: Any = MISSING, everywhere: Sequence[str] = ()) -> Any:
    """A value as its annotated type.

    Args:
        hint: a type annotation, with constraints from `annotated_types`.
        given: a value, a `Leaf`, or the tree of a section.
        path: how messages call the field, such as ``"machine.precision"``.
        default: what a section goes on from.
        everywhere: every key of the config, for near misses.

    Raises:
        ConfigError: the value has the wrong type or range.
    """
    if isinstance(given, Mapping) and (sections := sections_of(hint)):
        section = _chosen(sections, given, default, path)
        # A section goes on from the values that its field has by default, which need not be its class's own.
        tree = merged(to_dict(default) if type(default) is section else {}, {k: v for k, v in given.items() if k != "type" or len(sections) == 1})
        return build(section, tree, f"{path}.", everywhere)
    if (items := _items(hint, given)) is not None:
        kind, item = items
        if isinstance(given, Mapping):
            return {key: convert(item, value, f"{path}.{key}") for key, value in given.items()}
        origin = given.origin if isinstance(given, Leaf) else ""
        return kind(convert(item, _located(value, origin), f"{path}.{place}") for place, value in enumerate(plain(given)))
    value = plain(given)
    if (sections := sections_of(hint)) and not isinstance(value, (Mapping, *sections)) and not _allows_plain(hint, value):
        keys = ", ".join(f"{path}.{name}" for section in sections for name in hints(section))
        raise ConfigError(f"{where(given)}{path}: got {value!r}, but it is a section; its keys are {keys}")
    text = get_args(hint)[0] is str if get_origin(hint) is Annotated else hint is str
    if text and isinstance(value, PathLike):
        value = fspath(value)
    if text and isinstance(given, (Leaf, TypedSection)) and given.text is not None:
        value = given.text.strip()  # as it was typed, not as YAML reads it
    try:
        return _converted(hint, value, path)
    except ConfigError as error:
        # On a command line, 'run_dir=123' means the text where the field is a text.
        if isinstance(given, Leaf) and given.text is not None and given.text != value:
            try:
                return _converted(hint, given.text, path)
            except ConfigError:
                pass
        raise ConfigError(f"{where(given)}{error}") from None


def _allows_plain(hint: Any, value: Any) -> bool:
    """Whether a plain value may stand where a section may."""
    others = [part for part in get_args(hint) if not sections_of(part)] if get_origin(hint) in (Union, UnionType) else []
    return any(part is Any or (isinstance(part, type) and isinstance(value, part)) or get_origin(part) is not None for part in others)


def _field(cls: type, name: str, given: Any, path: str, default: Any = MISSING, everywhere: Sequence[str] = ()) -> Any:
    """A field's value, as its class wants it, and as every class that it inherits the field from does."""
    inherited = [hints(base).get(name, Any) for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)]
    inherited = [hint for hint in inherited if not sections_of(hint)]
    try:
        value = convert(hints(cls)[name], given, path, default, everywhere)
    except ConfigError:
        for hint in inherited:  # its message may say more: the length that a plain text stands for
            convert(hint, given, path)
        raise
    for hint in inherited:
        convert(hint, Leaf(value, where(given)), path)
    return value


def to_dict(config: Any) -> Tree:
    """A config as nested dicts, lists and plain values; where a field allows several classes, with the name of its own as ``type``."""
    fields = {f.name for f in dataclasses.fields(config) if f.init}
    return {name: _unbuilt(hint, getattr(config, name)) for name, hint in hints(type(config)).items() if name in fields}


def merged(tree: Mapping[str, Any], layer: Mapping[str, Any]) -> Tree:
    """A tree with a layer above it. A section that names another class starts anew, without the old one's values."""
    found = dict(tree)
    for key, value in layer.items():
        here = found.get(key)
        if isinstance(here, Mapping) and isinstance(value, Mapping) and _same_class(here, value):
            found[key] = merged(here, value)
        else:
            found[key] = value
    return found


def _same_class(here: Mapping[str, Any], layer: Mapping[str, Any]) -> bool:
    return "type" not in layer or "type" not in here or bool(plain(layer["type"]) == plain(here["type"]))


def hints(cls: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved, in order; without those that its constructor does not take."""
    resolved = _annotations(cls)
    return {f.name: resolved[f.name] for f in dataclasses.fields(cls) if f.init}


@cache
def _annotations(cls: Any) -> dict[str, Any]:
    """As `get_type_hints`, which compiles the text of every annotation, each time."""
    return get_type_hints(cls, include_extras=True)


def sections_of(hint: Any) -> list[type]:
    """The dataclasses that an annotation allows: itself, or in a union."""
    if get_origin(hint) is Annotated:
        return sections_of(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [section for part in get_args(hint) for section in sections_of(part)]
    return [hint] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else []


def key_paths(cls: Any, path: str = "") -> list[str]:
    """Every key of a config, the shallow ones first."""
    found = [f"{path}{name}" for name in hints(cls)]
    for name, hint in hints(cls).items():
        for section in sections_of(hint):
            found += key_paths(section, f"{path}{name}.")
    return found


def plain(value: Any) -> Any:
    """A tree without the memory of its leaves."""
    if isinstance(value, Leaf):
        return value.value
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts as (dotted path, value)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def where(value: Any) -> str:
    """Where a value, or the first of a section, came from; for the beginning of a message."""
    if isinstance(value, Mapping):
        return next((found for item in value.values() if (found := where(item))), "")
    return value.origin if isinstance(value, Leaf) else ""


# --- sections ---


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _chosen(sections: list[type], given: Mapping[str, Any], default: Any, path: str) -> type:
    if len(sections) == 1:
        return sections[0]
    names = {section.__name__: section for section in sections}
    if "type" not in given and type(default) in sections and set(given) <= set(hints(type(default))):
        return type(default)
    asked = plain(given.get("type"))
    if not isinstance(asked, str) or asked not in names:
        got = "no type" if asked is None else repr(asked)
        raise ConfigError(f"{where(given.get('type')) or where(given)}{path}: got {got}; say '{path}.type', one of {', '.join(names)}")
    return names[asked]


def _items(hint: Any, given: Any) -> tuple[type, Any] | None:
    """The container and the items' annotation, where sections stand in a list, a tuple or a dict."""
    origin, inner = get_origin(hint), [part for part in get_args(hint) if part is not ...]
    if origin in (list, tuple) and inner and sections_of(inner[0]) and isinstance(plain(given), (list, tuple)):
        return origin, inner[0]
    if origin is dict and sections_of(inner[1]) and isinstance(given, Mapping):
        return dict, inner[1]
    return None


def _located(value: Any, origin: str) -> Any:
    """An item of a list with the origin of the whole."""
    return {key: _located(item, origin) for key, item in value.items()} if isinstance(value, Mapping) else Leaf(value, origin)


def _nearest(path: str, key: str, here: list[str], everywhere: Sequence[str]) -> str:
    """The nearest name in this section, else the nearest in the whole config with its path."""
    if near := difflib.get_close_matches(key, here, n=1, cutoff=0.6):
        return f"; did you mean '{path}{near[0]}'?"
    by_name = {other.rpartition(".")[2]: other for other in reversed(everywhere) if other != f"{path}{key}"}
    near = difflib.get_close_matches(key, by_name, n=1)
    if not near:
        return did_you_mean(key, here)
    found = by_name[near[0]]
    return f"; did you mean '{found}'{' at the top' if path and '.' not in found else ''}?"


def _unbuilt(hint: Any, value: Any) -> Any:
    """A plain value of what stands in a field."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = {"type": type(value).__name__} if len(sections_of(hint)) > 1 else {}
        return {**name, **to_dict(value)}
    inner = [part for part in get_args(hint) if part is not ...] or [Any]
    if isinstance(value, (list, tuple)):
        return [_unbuilt(inner[0], item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_unbuilt(Any, item) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {key: _unbuilt(inner[-1], item) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    return value.value if isinstance(value, Enum) else str(value)


# --- one value, by pydantic ---


def _converted(hint: Any, value: Any, path: str) -> Any:
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
        null = " or null" if type(None) in get_args(hint) else ""
        raise ConfigError(f"{path}: got {value!r}, {_words(error.errors())}{null}") from None


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    if dataclasses.is_dataclass(hint):  # it brings its own configuration, and checks its own fields
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _allowed(hint: Any) -> str:
    """What an annotation allows, in pydantic's words."""
    from pydantic import ValidationError

    try:
        _adapter(hint).validate_python(object())
    except ValidationError as error:
        return _words(error.errors())
    return "which is not allowed"


def _words(errors: Sequence[Any]) -> str:
    reasons = dict.fromkeys(
        error["msg"].replace("Input should be", "must be").replace("a valid tuple", "a list such as [1, 2]").partition(", unable to parse")[0]
        for error in errors
    )
    return " or ".join(reason[:1].lower() + reason[1:] for reason in reasons)


def _allows_bool(hint: Any) -> bool:
    return hint in (bool, Any, object) or isinstance(hint, bool) or any(_allows_bool(part) for part in get_args(hint) if not isinstance(part, Parsed))


def _markers(hint: Any) -> list[Parsed]:
    if isinstance(hint, Parsed):
        return [hint]
    return [marker for part in get_args(hint) for marker in _markers(part)]
