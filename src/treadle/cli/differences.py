"""What differs between two runs, part by part, out of the records in their folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from treadle.cli.making import command_text, length_text
from treadle.cli.summary import Summary, items, repositories, section
from treadle.config.describe import shown
from treadle.core.structure import same
from treadle.log.journal import read_journal
from treadle.log.writer import COUNTERS, Row, is_clock
from treadle.provenance.git import GitError, git

_ABSENT = object()
_FACTS = ("python", "platform", "host", "cpu", "cores", "threads", "device", "gpus", "driver", "torch_build")
_GIT_S = 20


@dataclass
class Part:
    """What differs in one part of two runs.

    Args:
        name: the part's, such as "config".
        rows: for each thing that differs its name, what it is in the one, and what in the other.
        note: why it cannot be told, where that is so; nothing counts as different then.
        more: further lines.
    """

    name: str
    rows: list[tuple[str, Any, Any]] = field(default_factory=list)
    note: str = ""
    more: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        return bool(self.rows)


def config_part(one: Summary, other: Summary) -> Part:
    """Every key with another value; the run folder's own name is left out."""
    if missing := [str(run.folder) for run in (one, other) if not run.config]:
        return Part("config", note=f"not compared: {_and(missing)} has no config.yaml that can be read")
    left, right = ({key: value for key, value in run.config.items() if key.rpartition(".")[2] != "run_dir"} for run in (one, other))
    return Part("config", list(_changes(left, right)))


def code_part(one: Summary, other: Summary) -> Part:
    """Commits, uncommitted changes, and the files whose content differs."""
    left, right = section(one.provenance, "code"), section(other.provenance, "code")
    if not left or not right:
        return _by_digest(one, other, [str(run.folder) for run, code in ((one, left), (other, right)) if not code])
    part = Part("code")
    ours, theirs = ({str(repo.get("root")): repo for repo in repositories(run.provenance)} for run in (one, other))
    if len(ours) == len(theirs) == 1:  # a clone in another place is the same repository
        theirs = dict(zip(ours, theirs.values(), strict=True))
    for root in dict.fromkeys([*ours, *theirs]):
        mine, his = ours.get(root, {}), theirs.get(root, {})
        where = f" of {root}" if len({*ours, *theirs}) > 1 else ""
        if mine.get("commit") != his.get("commit"):
            part.rows.append((f"commit{where}", _commit(mine), _commit(his)))
        if mine.get("patch_sha256") != his.get("patch_sha256"):
            part.rows.append((f"uncommitted changes{where}", _loose(mine), _loose(his)))
        if mine.get("commit") and his.get("commit") and mine["commit"] != his["commit"]:
            part.more += git_stat(root, str(mine["commit"]), str(his["commit"]))
    part.rows += _files(section(left, "files"), section(right, "files"))
    return part


def environment_part(one: Summary, other: Summary) -> Part:
    """Python, machine and packages; of the packages those that one of the runs imported come first."""
    left, right = section(one.provenance, "environment"), section(other.provenance, "environment")
    if note := _unrecorded({str(one.folder): left, str(other.folder): right}):
        return Part("environment", note=note)
    part = Part("environment", list(_changes(_chosen(left), _chosen(right))))
    part.rows += [(f"${name}", mine, his) for name, mine, his in _changes(section(left, "variables"), section(right, "variables"))]
    used = {str(name) for place in (left, right) for name in items(place.get("imported"))}
    packages = _changes(section(left, "packages"), section(right, "packages"))
    part.rows += sorted(packages, key=lambda row: (row[0] not in used, row[0]))
    return part


def _chosen(place: dict[str, Any]) -> dict[str, Any]:
    return {name: place[name] for name in _FACTS if name in place}


def data_part(one: Summary, other: Summary) -> Part:
    """Of each split its kind, length and content, as far as items of both were read."""
    left, right = section(one.provenance, "data"), section(other.provenance, "data")
    if note := _unrecorded({str(one.folder): left, str(other.folder): right}):
        return Part("data", note=note)
    part = Part("data")
    for split in dict.fromkeys([*left, *right]):
        mine, his = section(left, split), section(right, split)
        if not mine or not his:
            part.rows.append((split, "recorded" if mine else None, "recorded" if his else None))
            continue
        for name in ("kind", "type", "length", "item", "error"):
            if mine.get(name) != his.get(name):
                tell = length_text if name == "length" else word
                part.rows.append((f"{split} {name}", tell(mine.get(name)), tell(his.get(name))))
        part.rows += _content(split, mine, his)
    return part


def command_part(one: Summary, other: Summary) -> Part:
    """The command line. It is told, and counts for nothing: what it changed is in the config."""
    left, right = (command_text(run.provenance.get("command")) for run in (one, other))
    if note := _unrecorded({str(one.folder): left, str(other.folder): right}):
        return Part("command", note=note)
    return Part("command", [("command", left, right)] if left != right else [])


def first_difference(one: Path, other: Path) -> tuple[int, list[tuple[str, Any, Any]]] | None:
    """The first step at which two journals differ, clocks left out, and what differs there.

    Args:
        one: a run folder.
        other: another.

    Returns:
        the step, and for each value its name, and what it is in the one and in the other; None where they are equal to the bit.

    Raises:
        RunFolderError: a journal is damaged.
    """
    for left, right in zip_longest(read_journal(one), read_journal(other)):
        mine, his = _without_clocks(left), _without_clocks(right)
        if left is None or right is None or mine.get("step") != his.get("step"):
            steps = [row["step"] for row in (left, right) if row is not None]
            mine_too, his_too = (None if row is None or row["step"] != min(steps) else "logged" for row in (left, right))
            return min(steps), [("a row", mine_too, his_too)]
        if json.dumps(mine, sort_keys=True) != json.dumps(his, sort_keys=True):  # text of a float is exact, and NaN is NaN
            return left["step"], list(_changes(mine, his, lambda a, b: json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)))
    return None


def git_stat(root: str, one: str, other: str) -> list[str]:
    """The lines of ``git diff --stat`` between two commits; none where the repository, or one of them, is gone."""
    if not Path(root).is_dir() or one.startswith("-") or other.startswith("-"):
        return []
    try:
        found = git(Path(root), "diff", "--stat=100", "--no-ext-diff", "--no-textconv", "--no-color", one, other, "--", seconds=_GIT_S)
    except GitError:
        return []
    return found.decode(errors="replace").rstrip().splitlines()


def word(value: Any) -> str:
    """A value of a record on one line; "-" where there is none.

    Example:
        >>> word(None), word([1, 2]), word({"a": 1}), word(" two  words ")
        ('-', '[1, 2]', '{"a": 1}', 'two words')
    """
    if value is None:
        return "-"
    return " ".join((json.dumps(value) if isinstance(value, dict) else shown(value)).split())


def _changes(left: Mapping[str, Any], right: Mapping[str, Any], equal: Callable[[Any, Any], bool] = same) -> Iterator[tuple[str, Any, Any]]:
    """What is not the same in two mappings; a key that one of them lacks is None there, and one that is null is "null"."""
    for key in dict.fromkeys([*left, *right]):
        mine, his = left.get(key, _ABSENT), right.get(key, _ABSENT)
        if mine is _ABSENT or his is _ABSENT or not equal(mine, his):
            yield key, _null(mine), _null(his)


def _null(value: Any) -> Any:
    return None if value is _ABSENT else "null" if value is None else value


def _by_digest(one: Summary, other: Summary, missing: list[str]) -> Part:
    """Where the files are not recorded: by the digest that every run has."""
    left, right = one.record.get("code"), other.record.get("code")
    if not left or not right:
        return Part("code", note=f"not compared: not recorded by {_and(missing)}")
    if left == right:
        return Part("code")
    return Part("code", [("digest of all files", str(left)[:12], str(right)[:12])], more=[f"which files differ is not recorded by {_and(missing)}"])


def _files(left: dict[str, Any], right: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for path in sorted({*left, *right}):
        mine, his = section(left, path), section(right, path)
        comments = " (comments only)" if mine.get("meaning") is not None and mine.get("meaning") == his.get("meaning") else ""
        if mine.get("sha256") != his.get("sha256"):
            yield path, _digest(mine, comments), _digest(his, comments)


def _digest(facts: dict[str, Any], comments: str) -> str | None:
    return f"{str(facts.get('sha256'))[:7]}{comments}" if facts else None


def _commit(repo: dict[str, Any]) -> str | None:
    branch = f" on {repo['branch']}" if repo.get("branch") else ""
    return f"{str(repo['commit'])[:12]}{branch}" if repo.get("commit") else None


def _loose(repo: dict[str, Any]) -> str:
    changed = [str(path) for name in ("changed", "untracked") for path in items(repo.get(name))]
    return ", ".join(changed) if changed else "patch" if repo.get("patch") else "none"


def _content(split: str, mine: dict[str, Any], his: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    left, right = section(mine, "hashes"), section(his, "hashes")
    common = [index for index in left if index in right]
    # Random items are the same only where they were drawn under the same seed, and follow from it: see `treadle.data.fingerprint`.
    if (mine.get("random") or his.get("random")) and (mine.get("seed") != his.get("seed") or False in (mine.get("seeded"), his.get("seeded"))):
        common = []
    if other := [index for index in common if left[index] != right[index]]:
        place, told = other[0], f"item {other[0]}; {len(other)} of {len(common)} differ"
        yield f"{split} items", f"{str(left[place])[:7]} ({told})", f"{str(right[place])[:7]} ({told})"
    elif mine.get("length") == his.get("length") and None not in (mine.get("all"), his.get("all")) and mine["all"] != his["all"]:
        yield f"{split} content", str(mine["all"])[:7], str(his["all"])[:7]


def _without_clocks(row: Row | None) -> dict[str, Any]:
    return {name: value for name, value in (row or {}).items() if name != COUNTERS[3] and not is_clock(name)}


def _unrecorded(found: dict[str, Any]) -> str:
    missing = [name for name, value in found.items() if not value]
    return f"not compared: not recorded by {_and(missing)}" if missing else ""


def _and(names: list[str]) -> str:
    return " and ".join(dict.fromkeys(names))
