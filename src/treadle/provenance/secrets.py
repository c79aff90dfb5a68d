"""Secrets: known by their names and by their shapes, so that none gets into a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

WITHHELD = "(withheld)"

_NAME = re.compile(
    r"(?:^|[^a-z])(?:secret|passw(?:or)?d|passphrase|credential|authorization|bearer|cookie|dsn|apikey|webhook[^a-z]?url|"
    r"(?:api|access|private|signing|encryption|ssh|account|storage|license|webhook)[^a-z]?key)(?:$|[^a-z])"
    r"|(?:^|[^a-z])(?:auth|pwd)$|(?-i:(?:_|^)(?:KEY|PAT)$)",
    re.IGNORECASE,
)
_OF_A_TEXT = re.compile(
    "max|min|num|n|per|image|special|cls|class|sep|pad|padding|mask|bos|eos|unk|sos|start|end|stop|begin|first|last|next|prev|new|extra|added|"
    "additional|prefix|suffix|vocab|sub|word|char|text|visual|vision|audio|video|patch|query|register|sink|time|timestep|latent|summary|memory|"
    "think|thinking|target|source|input|output|context|prompt|completion|generated|total|avg|mean|drop|keep|each|every|blank|space|dist"
)
"""Words before `token` that make it a piece of a text: ``pad_token``."""
_OF_A_LOGIN = frozenset(["api", "access", "auth", "refresh", "bearer", "secret", "session", "login", "hf", "github", "gitlab"])
"""Words before `tokens` that make them secrets: other ones are counted."""
_OF_A_CONTENT = frozenset(["revision", "rev", "commit", "sha", "sha1", "sha256", "md5", "digest", "hash", "checksum", "ref", "fingerprint"])
"""Last words of names whose values only look like secrets."""
_PLAIN = re.compile(r"[-+]?[\d.,_]+(?:e[-+]?\d+)?|true|false|null|none|yes|no|auto|default|<[^>]*>|\[[A-Z]+\]|", re.IGNORECASE)
"""What no secret is: ``max_token=512``."""
_KNOWN = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
      gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,} | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{30,} | pypi-AgE[\w-]{30,}
      | sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,} | [rs]k_(?:live|test)_[A-Za-z0-9]{16,} | xox[abeoprs]-[\w-]{10,} | (?:AKIA|ASIA)[0-9A-Z]{16}
      | AIza[\w-]{35} | ya29\.[\w-]{20,} | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]* | SG\.[\w-]{16,}\.[\w-]{16,} | hvs\.[\w-]{20,} | r8_[A-Za-z0-9]{30,}
      | nvapi-[\w-]{20,} | gsk_[A-Za-z0-9]{20,} | dckr_pat_[\w-]{20,} | dop_v1_[0-9a-f]{64} | wandb_v1_\w{20,}
    )
    | (?<=\d{8}):AA[\w-]{33}
    | hooks\.slack\.com/services/\w+/\w+/\w+ | discord(?:app)?\.com/api/webhooks/\d+/[\w-]+ | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----
    """,
    re.VERBOSE,
)
"""Forms that those who hand out secrets gave them, to be recognised by."""
_BEGINNINGS = re.findall(
    r"\S+",
    "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- hf_ npm_ pypi-AgE sk- sk_ rk_ xox AKIA ASIA AIza ya29. eyJ SG. hvs. r8_ nvapi- gsk_ dckr_pat_ "
    "dop_v1_ wandb_v1_ :AA hooks.slack.com/ discord.com/ discordapp.com/ -----BEGIN",
)
"""How these forms begin: a large file is searched for a few words much faster than for a pattern."""
_HEX = re.compile(r"(?<![0-9a-zA-Z])(?=\d*[a-f])[0-9a-f]{32,}(?![0-9a-zA-Z])")
_HEX_OF_NO_PATH = re.compile(r"(?<![0-9a-zA-Z/@:])(?=\d*[a-f])[0-9a-f]{32,}(?![0-9a-zA-Z])")
_LONG = re.compile(r"[A-Za-z0-9]{20,}|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/])")
_SYLLABLE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_RANDOM = 0.36
"""Syllables a character, above which a long word is taken for random: names have longer ones."""
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
_INNER = re.compile(r"""([\w.-]+)(["']?\]?\s*[:=]\s*["']?)(?!//)(?:(?:Bearer|Basic)\s+)?([^\s"'&,;}\])]+)""", re.IGNORECASE)
"""An assignment inside of a text: that of an address's query, of JSON, of a header."""
_QUOTED = re.compile(r"""([A-Za-z_][\w-]*)["']?\]?\s*[:=]\s*(["'])([^"'\s<>{}$\[\]()]{12,200})\2""")
_BARE = re.compile(
    r"""[-+ ]?\s*["']?\s*(?:-\s+)?(?:export\s+)?([A-Za-z_][\w.-]*)["']?\s*[:=]\s*([A-Za-z0-9+/=-]{12,200})\s*["']?,?(?:$|\n)"""
    r"""|[-+ ]?\s*["']?\s*(?:-\s+)?([A-Za-z_][\w.-]*)["']?:\s+([^\s"'<>{}$\[\](),;]{12,200})\s*["']?,?(?:$|\n)"""
    r"""|[-+ ]?(?:\s*["'])?(?:export\s+)?([A-Za-z_][\w.-]*)=([^\s"'<>{}$\[\](),;]{12,200})\s*["']?,?(?:$|\n)"""
)
"""Without quotation marks: on a line of its own, other marks than a word's only as YAML and shells write them, not as Python does."""
_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
"""What programs have in the place of a secret: ``args.hub_token2``."""
_MARKS = ("secret", "passw", "passphrase", "credential", "bearer", "cookie", "dsn", "key", "token", "auth", "pwd", "_pat", "webhook")
"""One of these is in every name of a secret: a large file is searched for a few words much faster than for a pattern."""
_ASSIGNED = re.compile(r"""[\w.-]{0,40}+\\*["']?\]?\s{0,8}+[:=]\s{0,8}+\\*["']?[^\s"',]{12}""")
"""What follows such a word, where it may be the name of a secret; nearly everything that is none ends here."""
_NAME_BEGUN = re.compile(r"[A-Za-z_][\w-]*$")
_ESCAPED = re.compile(r"""\\+([nrt"'])""")
_BEFORE, _AFTER = 100, 400
"""Characters around such a word that are looked at."""
_WITH_PASSWORD = re.compile(r"""://[^\s:/@"'<>{}$()%\[\]]*:([^\s/@"'<>{}$()\[\]]+)@[\w\[]""")
_EXAMPLE = re.compile(r"pass|passw(?:or)?d|pwd|secret|token|%s|x+|\*+|\.+|(?:my|your)[-_]?pass(?:word)?", re.IGNORECASE)
"""What stands for a password in documentation."""
_FILE = re.compile(r"(?:.*[._-])?(?:secrets?|credentials?|passwords?|passwd|netrc)(?:[._-].*)?|kaggle\.json", re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """Whether a value is one that nobody else should read, by what it is called or by what it looks like.

    Example:
        >>> is_secret("WANDB_API_KEY", "local"), is_secret("max_token", "512"), is_secret("note", "first try")
        (True, False, False)
    """
    return _is_named_secret(name, value) or (bool(_KNOWN.search(value)) if _words(name)[-1] in _OF_A_CONTENT else looks_secret(value))


def looks_secret(text: str) -> bool:
    """Whether a text holds something of a secret's shape: a known form, or a long word without any order."""
    hexadecimal = _HEX if "://" in text else _HEX_OF_NO_PATH
    return bool(_KNOWN.search(text) or hexadecimal.search(text)) or any(_is_random(word) for word in _LONG.findall(text))


def holds_secret(content: bytes) -> bool:
    """Whether a file holds a secret: of a known form, or written down under a secret's name. Files are full of long words that are none."""
    text = content.decode("latin-1")
    if any(_KNOWN.match(text, place) for beginning in _BEGINNINGS for place in _places(text, beginning)):
        return True
    logins = (_WITH_PASSWORD.match(text, place) for place in _places(text, "://"))
    if any(login and not _EXAMPLE.fullmatch(login[1]) for login in logins):
        return True
    return any(_is_named_secret(name, value) or (name == "key" and _HEX.fullmatch(value)) for name, value in _written(text) if _is_mixed(value))


def is_secret_file(name: str) -> bool:
    """Whether a file is called as those are that hold secrets.

    Example:
        >>> is_secret_file("my.secrets.yaml"), is_secret_file("tokenizer.json")
        (True, False)
    """
    return bool(_FILE.fullmatch(name))


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line whose secrets are withheld: ``key=value``, ``--key value``, and whatever looks like one.

    Example:
        >>> without_secrets(["train.py", "--token", "abc", "api_key=xyz", "lr=0.1"])
        ['train.py', '--token', '(withheld)', 'api_key=(withheld)', 'lr=0.1']
    """
    found, option = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        is_pair = bool(equals) and re.fullmatch(r"\s*[\w.+~-]+\s*", name) is not None
        if is_pair:
            found.append(f"{name}={_public(name, value)}")
        else:
            found.append(_public("" if word.startswith("-") else option, word))
        option = word if word.startswith("-") and not is_pair else ""
    return found


def without_login(address: str) -> str:
    """An address without the user, the password and the named secrets in it.

    Example:
        >>> without_login("https://me:secret@host/project.git?private_token=abc")
        'https://(withheld)@host/project.git?private_token=(withheld)'
    """
    return _INNER.sub(_without_inner, _LOGIN.sub(f"{WITHHELD}@", address))


def public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Named values, with those withheld that are secrets."""
    return {name: _public_value(name, value) for name, value in values.items()}


def any_withheld(words: Iterable[str]) -> bool:
    """Whether something is missing in a recorded command line."""
    return any(WITHHELD in word for word in words)


def _public_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return _public(name, value)
    if isinstance(value, Mapping):
        return {inner: _public_value(f"{name}.{inner}", one) for inner, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public_value(name, one) for one in value]
    return value


def _public(name: str, value: str) -> str:
    """A value without what is secret in it; nothing of it, where the rest would say too much."""
    if _is_named_secret(name, value):
        return WITHHELD
    rest = without_login(value)
    return WITHHELD if is_secret(name, rest) else rest


def _without_inner(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    return f"{name}{between}{WITHHELD}" if value != WITHHELD and _is_named_secret(name, value) else match[0]


def _is_named_secret(name: str, value: str) -> bool:
    if _PLAIN.fullmatch(value.strip()):
        return False
    words = _words(name)
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "token":
        return not _OF_A_TEXT.fullmatch(before)
    if words[-1] == "tokens":
        return before in _OF_A_LOGIN
    singular = re.sub(r"(?i)(secret|key|password|cookie|credential)s(?![a-z])", r"\1", _spaced(name))
    return bool(_NAME.search(singular))


def _places(text: str, word: str) -> Iterator[int]:
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + 1)


def _written(text: str) -> Iterator[tuple[str, str]]:
    """Names that may be those of secrets, with what is assigned to them; also in a text inside of JSON, as notebooks have their lines."""
    lowered = text.lower()
    for mark in _MARKS:
        for place in _places(lowered, mark):
            if not _ASSIGNED.match(lowered, place):
                continue
            before, after = (_ESCAPED.sub(_unescaped, part) for part in (text[max(0, place - _BEFORE) : place], text[place : place + _AFTER]))
            line = before.rpartition("\n")[2]
            begun = _NAME_BEGUN.search(line)
            if quoted := _QUOTED.match((begun[0] if begun else "") + after):
                yield quoted[1], quoted[3]
            if bare := _BARE.match(line + after):
                name, value = (next(filter(None, pair)) for pair in (bare.group(1, 3, 5), bare.group(2, 4, 6)))
                if not _REFERENCE.fullmatch(value):
                    yield name, value


def _unescaped(match: re.Match[str]) -> str:
    return match[1] if match[1] in "\"'" else "\n"


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+\d*", _spaced(name).lower()) or [""]


def _is_mixed(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _is_random(word: str) -> bool:
    """Whether a long word has letters of both cases and digits, in no order that a name or a path would have."""
    kinds = [any(map(test, word)) for test in (str.islower, str.isupper, str.isdigit)]
    return all(kinds) and len(_SYLLABLE.findall(word)) / len(word) > _RANDOM
