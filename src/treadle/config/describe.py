"""What can be asked for: every key of a config with its type, its default and its meaning, as people read them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from treadle.config.build import Parsed, hints, sections_of

_WORDS = {bool: "true | false", int: "integer", float: "number", str: "text", NoneType: "null"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


@dataclass(frozen=True)
class Key:
    """One key.

    Args:
        path: its name with dots, such as ``"machine.device"``.
        allowed: what it may be, such as ``"integer > 0"``.
        default: as it is typed on a command line; None where the key must be given.
        text: what it means, from the text under the field.
    """

    path: str
    allowed: str
    default: str | None
    text: str


def describe(cls: type, defaults: Any = None, path: str = "") -> Iterator[Key]:
    """The keys of a config, section by section.

    Args:
        cls: a dataclass.
        defaults: an instance whose values count as the defaults, in place of the class's own.
        path: where it stands in a larger config, ending in a dot.

    Example:
        >>> from treadle import CheckpointConfig
        >>> next(describe(CheckpointConfig)).allowed
        'length'
    """
    meanings = _meanings(cls)
    by_name = {field.name: field for field in fields(cls)}
    deeper: list[tuple[type, Any, str]] = []
    for name, hint in hints(cls).items():
        default = getattr(defaults, name) if defaults is not None else _default(by_name[name])
        if len(sections := sections_of(hint)) == 1 and (is_dataclass(default) or default is MISSING):
            deeper.append((sections[0], None if default is MISSING else default, f"{path}{name}."))
            continue
        yield Key(f"{path}{name}", _allowed(cls, name), None if default is MISSING else shown(default), meanings.get(name, ""))
    for section in deeper:
        yield from describe(*section)


def allowed(hint: Any) -> str:
    """What an annotation allows, in a few words.

    Example:
        >>> from annotated_types import Gt
        >>> allowed(Annotated[int, Gt(0)] | None), allowed(Literal["min", "max"])
        ('integer > 0 | null', 'min | max')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if named := [part.name for part in parts[1:] if isinstance(part, Parsed) and part.name]:
            return named[0]
        limits = [f"{_SIGNS[name]} {_number(limit)}" for part in parts[1:] for name, limit in _limits(part).items() if name in _SIGNS]
        return " ".join([allowed(parts[0]), ", ".join(limits)]).strip()
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(allowed(part) for part in parts))
    if origin in (list, tuple) and parts:
        return f"[{', '.join('...' if part is ... else allowed(part) for part in parts)}{', ...' if origin is list else ''}]"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(str(member.value) for member in hint)
    if isinstance(hint, type) and origin is None:
        return _WORDS.get(hint, hint.__name__)
    return str(hint).replace("typing.", "")


def _allowed(cls: type, name: str) -> str:
    """What a field allows; where its own annotation says no more than the type, what the field it overrides does."""
    found = [allowed(hints(base)[name]) for base in cls.__mro__ if is_dataclass(base) and name in hints(base)]
    return next((words for words in found if words not in _WORDS.values()), found[0])


def _limits(constraint: Any) -> dict[str, Any]:
    """The fields of a constraint such as ``Gt(0)``."""
    found = {field.name: getattr(constraint, field.name) for field in fields(constraint)} if is_dataclass(constraint) else {}
    return {name: limit for name, limit in found.items() if limit is not None}


def _number(limit: Any) -> str:
    return "2**64" if limit == 2**64 else f"{limit:g}"


def shown(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Enum):
        return shown(value.value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(map(shown, value))}]"
    return f"{type(value).__name__}(...)" if is_dataclass(value) else str(value)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _meanings(cls: type) -> dict[str, str]:
    """The text under each field, of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            body = ast.parse(inspect.cleandoc(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # typed at a prompt, or in a cell
            continue
        assert isinstance(body, ast.ClassDef), "the source of a class is a class"
        for field, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(after.value.value)).replace("\n", " ")
    return found
