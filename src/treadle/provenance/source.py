"""A source: one repository, or folder without git, of a run's record, checked when it is read, since files can be edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from treadle.core.errors import UsageError


@dataclass(frozen=True)
class Source:
    """Where code was, and what of it git did not have.

    Args:
        number: its place in the record, which names its files in `provenance/code`.
        root: the folder, as it was called.
        commit: 40 hexadecimal digits; None where there is no git.
        remote: where the repository came from.
        patch: the file of uncommitted changes, relative to `provenance/`.
        patch_sha256: its checksum.
        changed: tracked files with uncommitted changes.
        untracked: files of which there are copies.
        copies: their checksums.
        left_out: files of which there are none, and why.
        is_other: whether it stands at another commit than the run's.
    """

    number: int
    root: Path
    commit: str | None = None
    remote: str | None = None
    patch: str | None = None
    patch_sha256: str | None = None
    changed: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_other: bool = False

    def at(self, commit: str) -> Source:
        """The same at another commit, without what was changed."""
        return replace(self, commit=commit, patch=None, changed=(), left_out={}, is_other=True)


def sources_of(record: Mapping[str, Any]) -> list[Source]:
    """The sources of a record, the outer before the inner ones.

    Raises:
        UsageError: the record is damaged.

    Example:
        >>> sources_of({"code": {"repositories": [{"root": "/home/me/project", "commit": None}]}})[0].root.name
        'project'
    """
    try:
        sources = [_source(number, entry) for number, entry in enumerate(record["code"]["repositories"])]
        sound = all(isinstance(digests["sha256"], str) for digests in record["code"].get("files", {}).values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"record.json is damaged, where it tells of the code: {type(error).__name__}: {error}") from None
    if not sound or not all(source.root.is_absolute() and ".." not in source.root.parts for source in sources):
        raise UsageError("record.json is damaged, where it tells of the code")
    return sorted(sources, key=lambda source: len(source.root.parts))


def own_source(sources: list[Source], cwd: str) -> Source | None:
    """The repository that a program was started in; else the first one; None where there is none."""
    repositories = [source for source in sources if source.commit]
    around = [source for source in repositories if cwd and Path(cwd).is_relative_to(source.root)]
    return max(around, key=lambda source: len(source.root.parts)) if around else next(iter(repositories), None)


def _source(number: int, entry: Mapping[str, Any]) -> Source:
    names = [*entry.get("untracked", ()), *([entry["patch"]] if entry.get("patch") else [])]
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise ValueError(f"{outside[0]!r} is outside of its folder")
    return Source(
        number,
        Path(entry["root"]),
        entry.get("commit"),
        entry.get("remote"),
        entry.get("patch"),
        entry.get("patch_sha256"),
        tuple(entry.get("changed", ())),
        tuple(entry.get("untracked", ())),
        dict(entry.get("copies", {})),
        {str(left["path"]): str(left["why"]) for left in entry.get("left_out", ())},
    )
