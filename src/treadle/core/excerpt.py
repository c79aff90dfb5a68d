"""The text of an exception, fit to be kept: without what opens the addresses in it."""

from __future__ import annotations

import re

_LEFT_OUT = "..."
_LONGEST = 2000
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"""((?:://|\burl:?\s*['"]?/)[^\s?#'"<>]*)[?#][^\s'"<>)]*""")
"""What follows an address, also one without its host, as some libraries tell it."""
_NAMED = re.compile(
    r"""((?:token|secret|passw(?:or)?d|signature|credential|authorization|bearer|cookie|api[-_]?key|access[-_]?key)[\w-]*["']?\s*[:=]\s*["']?"""
    r"""(?:Bearer\s+|Basic\s+)?)[^\s"'&,;)}\]]+""",
    re.IGNORECASE,
)
_LONG = re.compile(r"(?=[A-Za-z]*\d)(?=[a-z\d]*[A-Z]|[A-Z\d]*[a-z])[A-Za-z0-9+]{20,}={0,2}")
"""A long word of letters and digits: a key or an address in memory, nothing that a person reads."""


def excerpt(error: BaseException) -> str:
    """Type and text of an exception, without logins, queries of addresses, and what is named or looks like a key.

    Example:
        >>> excerpt(OSError("403 for https://me:password@host/part-1.tar?X-Signature=abc"))
        'OSError: 403 for https://...@host/part-1.tar?...'
        >>> excerpt(KeyError("label"))
        "KeyError: 'label'"
    """
    try:
        text = str(error)
    except Exception:  # it is somebody else's code
        text = "(its text cannot be had)"
    text = _QUERY.sub(rf"\1?{_LEFT_OUT}", _LOGIN.sub(f"{_LEFT_OUT}@", text))
    text = _LONG.sub(_LEFT_OUT, _NAMED.sub(rf"\1{_LEFT_OUT}", text))
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST else text[:_LONGEST] + _LEFT_OUT}"
