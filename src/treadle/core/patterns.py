"""Patterns: parameters chosen by their names, by a glob, a regular expression or a function."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from treadle.core.errors import ConfigError

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]
"""``"*.bias"``, ``"features"`` (all that is in it), ``re.compile(...)``, or ``f(name, parameter) -> bool``."""
_LISTED = 8


def as_patterns(given: Any, who: str) -> list[Pattern]:
    """One pattern, or several, as a list.

    Args:
        given: what a user gave.
        who: begins the message of an error.

    Raises:
        ConfigError: there is none, or something that is no pattern.
    """
    found = [given] if isinstance(given, (str, re.Pattern)) or callable(given) or not isinstance(given, Iterable) else list(given)
    for pattern in found:
        if not (isinstance(pattern, (str, re.Pattern)) or callable(pattern)):
            raise ConfigError(
                f"{who}: a pattern is a name such as 'features.*', re.compile(...), or a function of name and parameter that gives a bool; "
                f"got {pattern!r}"
            )
    if not found:
        raise ConfigError(f"{who}: no pattern is given; name parameters or modules, such as 'features.*'")
    return found


def chosen(patterns: Iterable[Pattern], named: Mapping[str, Any], who: str) -> list[str]:
    """The names that some pattern matches, in their own order. A name of a module stands for all that is in it.

    Args:
        patterns: each of them has to match something.
        named: parameters by name.
        who: begins the message of an error.

    Raises:
        ConfigError: a pattern matches nothing; the nearest names are given.

    Example:
        >>> chosen(["body", "*.bias"], {"body.0.weight": 0, "head.weight": 0, "head.bias": 0}, "a group")
        ['body.0.weight', 'head.bias']
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name, parameter in named.items() if _matches(pattern, name, parameter)}
        if not matched:
            raise ConfigError(f"{who}: {shown(pattern)} matches no parameter{_nearest(pattern, named)}")
        found |= matched
    return [name for name in named if name in found]


def shown(pattern: Pattern) -> str:
    """A pattern, as a message shows it."""
    if isinstance(pattern, re.Pattern):
        return f"re.compile({pattern.pattern!r})"
    return repr(pattern) if isinstance(pattern, str) else getattr(pattern, "__qualname__", repr(pattern))


def plain_name(name: str) -> str:
    """A name without the mark that torch.compile leaves in it."""
    return name.replace("_orig_mod.", "")


def _matches(pattern: Pattern, name: str, parameter: Any) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return bool(pattern(name, parameter))


def _nearest(pattern: Pattern, names: Iterable[str]) -> str:
    """The end of a message about a pattern: what is near, else the first few names."""
    names = list(names)
    if isinstance(pattern, str):
        parts = [name.split(".") for name in names]
        ends = {"*." + ".".join(part[-n:]) for part in parts for n in (1, 2) if len(part) > n}
        begins = {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}
        known = sorted(ends) if pattern.startswith("*") else sorted(begins)
        if near := difflib.get_close_matches(pattern.removesuffix(".*"), known, n=3):
            return f"; did you mean {' or '.join(map(repr, near))}?"
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return f"; its parameters: {', '.join(names[:_LISTED])}{more}"
