"""What made a run, in rows for people: its command, code, place, data and leaks, out of the records in its folder."""

from __future__ import annotations

import shlex
from typing import Any

from treadle.cli.summary import Summary, count, items, repositories, section
from treadle.provenance.read import FOLDER


def making(one: Summary) -> list[list[str]]:
    """What made a run, as far as it is recorded.

    Args:
        one: the run.

    Returns:
        rows of a name and a text.
    """
    made, place = one.provenance, section(one.provenance, "environment")
    origin = one.record.get("origin") or "a script or a notebook"
    torch = section(place, "packages").get("torch")
    versions = [str(place.get("python") or ""), f"torch {torch}" if torch else "", f"treadle {made['treadle']}" if made.get("treadle") else ""]
    gpus = ", ".join(str(gpu.get("name", gpu) if isinstance(gpu, dict) else gpu) for gpu in items(place.get("gpus")))
    rows: list[list[Any]] = [
        ["made by", str(origin)],
        ["command", command_text(made.get("command"))],
        ["in", made.get("cwd")],
        ["code", code_text(made)],
        *(["", str(note)] for note in items(section(made, "code").get("notes"))),
        ["python", ", ".join(filter(None, versions))],
        ["device", f"{place.get('device') or ''}{f' ({gpus})' if gpus else ''}"],
        ["host", ", ".join(str(place[name]) for name in ("host", "cpu") if place.get(name))],
        ["seed", made.get("seed")],
    ]
    return [[name, str(text)] for name, text in rows if text not in (None, "")]


def command_text(command: object) -> str:
    """A command line as it is typed.

    Example:
        >>> command_text(["python", "src/main.py", "name=two words"])
        "python src/main.py 'name=two words'"
    """
    return command if isinstance(command, str) else shlex.join(map(str, items(command)))


def code_text(made: dict[str, Any]) -> str:
    """The commit, the branch, and what was not committed."""
    found = repositories(made)
    if not found:
        files = len(section(section(made, "code"), "files"))
        return f"in no git repository: {count(files, 'files')} recorded" if files else ""
    several = len(found) > 1
    return "; ".join(_repository(one) + (f" in {one.get('root')}" if several else "") for one in found)


def _repository(one: dict[str, Any]) -> str:
    words = (("changed", "changed files"), ("untracked", "untracked files"))
    loose = [count(len(items(one.get(name))), text) for name, text in words if one.get(name)]
    commit, branch = str(one.get("commit") or "no commit")[:12], f" on {one['branch']}" if one.get("branch") else ""
    return f"{commit}{branch}, {' and '.join(loose) or 'no uncommitted changes'}"


def accepted(history: list[dict[str, Any]]) -> list[str]:
    """What was accepted when the run went on with something else than before."""
    return [str(change) for event in history for change in items(event.get("accepted"))]


def origin_of(made: dict[str, Any], key: str) -> str | None:
    """Where a value of the config came from; None where that is not recorded."""
    origin = section(section(made, "config"), key).get("from")
    return origin if isinstance(origin, str) else None


def data_rows(made: dict[str, Any]) -> list[list[str]]:
    """Of each split its name, its length and its type."""
    splits = {name: facts for name, facts in section(made, "data").items() if isinstance(facts, dict)}
    return [[name, length_text(facts.get("length")), str(facts.get("type") or facts.get("kind") or "")] for name, facts in splits.items()]


def length_text(length: object) -> str:
    """A number of items.

    Example:
        >>> length_text(55000), length_text(None)
        ('55,000', 'unknown')
    """
    return f"{length:,}" if isinstance(length, int) else "unknown"


def leak_rows(found: dict[str, Any]) -> list[list[str]]:
    """What splits of the data have in common, out of `provenance/leaks.json`, and how much of them was compared."""
    if not found:
        return []
    if "damaged" in found:
        return [[f"{FOLDER}/{found['damaged']}", ""]]
    leaks = section(found, "leaks") or found
    pairs = [pair for pair in items(leaks.get("pairs")) if isinstance(pair, dict)]
    rows = [[f"{pair.get('one')} and {pair.get('other')}", _matches(pair)] for pair in pairs] or [["none found", ""]]
    coverage = {name: one for name, one in section(leaks, "coverage").items() if isinstance(one, dict)}
    read = [f"{length_text(one.get('read'))} of {length_text(one.get('total'))} {name} items" for name, one in coverage.items()]
    notes = [["", str(note)] for note in items(leaks.get("notes"))]
    return [*rows, *([["compared", ", ".join(read)]] if read else []), *notes]


def _matches(pair: dict[str, Any]) -> str:
    ids = [match for match in items(pair.get("matches")) if isinstance(match, list) and len(match) == 2]
    named = [f"{pair.get('one')} {mine} = {pair.get('other')} {theirs}" for mine, theirs in ids[:3]]
    given = pair.get("count")
    number = given if isinstance(given, int) else len(ids)
    listed = ", ".join([*named, *(["..."] if number > len(named) else [])])
    return f"{count(number, 'items')}, {pair.get('kind', 'in both')}: {listed}"
