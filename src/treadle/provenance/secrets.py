"""Secrets: known by their names and by their shapes, so that none gets into a record."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WITHHELD = "(withheld)"

_NAME = re.compile(
    r"(?:^|[^a-z])(?:token|secret|passw(?:or)?d|passphrase|pwd|pat|dsn|credentials?|auth|authorization|bearer|cookie|"
    r"(?:api|access|private|signing|encryption|ssh|account|storage|license|webhook)[^a-z]?(?:key|url)|apikey)(?:$|[^a-z])|(?-i:_KEY$)",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?|true|false|null|none|yes|no|", re.IGNORECASE)
"""What no secret is: ``max_token=512``."""
_KNOWN = re.compile(
    r"""
    gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,} | hf_[A-Za-z0-9]{20,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{30,}
    | sk-[\w-]{20,} | xox[abeoprs]-[\w-]{10,} | (?:AKIA|ASIA)[0-9A-Z]{16} | AIza[\w-]{35} | ya29\.[\w-]{20,}
    | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]* | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----
    """,
    re.VERBOSE,
)
"""Forms that those who hand out secrets gave them, to be recognised by."""
_LONG = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_HEX = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{32,}(?![0-9a-zA-Z])")
_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_RANDOM = 3.9
"""Bits a character, above which a long word is taken for random: texts and paths have less."""


def is_secret(name: str, value: str) -> bool:
    """Whether a value is one that nobody else should read, by what it is called or by what it looks like.

    Example:
        >>> is_secret("WANDB_API_KEY", "local"), is_secret("max_token", "512"), is_secret("note", "first try")
        (True, False, False)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    singular = re.sub(r"(?i)(token|secret|key|password|cookie)s(?![a-z])", r"\1", spaced)
    return (bool(_NAME.search(singular)) and not _PLAIN.fullmatch(value.strip())) or looks_secret(value)


def looks_secret(text: str) -> bool:
    """Whether a text holds something of a secret's shape: a known form, or a long word without any order."""
    return bool(_KNOWN.search(text) or _HEX.search(text)) or any(_is_random(word) for word in _LONG.findall(text))


def holds_secret(content: bytes) -> bool:
    """Whether a file holds a secret of a known form; files are full of long words that are none."""
    return bool(_KNOWN.search(content.decode("utf-8", errors="replace")))


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line whose secrets are withheld: ``key=value``, ``--key value``, and whatever looks like one.

    Example:
        >>> without_secrets(["train.py", "--token", "abc", "api_key=xyz", "lr=0.1"])
        ['train.py', '--token', '(withheld)', 'api_key=(withheld)', 'lr=0.1']
    """
    found, option = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and is_secret(name, value):
            found.append(f"{name}={without_login(value) if '://' in value and not _NAME.search(name) else WITHHELD}")
        elif option and not word.startswith("-") and is_secret(option, word):
            found.append(WITHHELD)
        else:
            found.append(WITHHELD if looks_secret(word) else without_login(word))
        option = word if word.startswith("-") and not equals else ""
    return found


def without_login(address: str) -> str:
    """An address without the user and the password in it.

    Example:
        >>> without_login("https://me:secret@host/project.git")
        'https://(withheld)@host/project.git'
    """
    return _ADDRESS.sub(f"{WITHHELD}@", address)


def public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Named values, with those withheld that are secrets."""
    return {name: WITHHELD if isinstance(value, str) and is_secret(name, value) else _login_free(value) for name, value in values.items()}


def any_withheld(words: Iterable[str]) -> bool:
    """Whether something is missing in a recorded command line."""
    return any(WITHHELD in word for word in words)


def _login_free(value: Any) -> Any:
    return without_login(value) if isinstance(value, str) else value


def _is_random(word: str) -> bool:
    """Whether a long word has letters of both cases and digits, in no order that a name or a path would have."""
    kinds = [any(test(letter) for letter in word) for test in (str.islower, str.isupper, str.isdigit)]
    counts = Counter(word).values()
    return all(kinds) and -sum(n / len(word) * math.log2(n / len(word)) for n in counts) > _RANDOM
