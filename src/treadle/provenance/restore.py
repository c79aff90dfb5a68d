"""The code of a run, brought back into a place of its own: a git worktree of its commit, the patch, the files that git did not have.

Nothing of the user's is changed. What git does not keep, such as data sets beside the code, is linked from where it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.provenance import git

_NOT_LINKED = frozenset({".git", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"})


@dataclass
class Restored:
    """Code in a place of its own.

    Args:
        places: where each root of the record is now.
        problems: what is not as it was; each is a reason not to trust a comparison.
        notes: what a person should know.
    """

    places: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def moved(self, text: str) -> str:
        """A path, or a word that ends with one, such as ``data=/home/me/project/x``, as it is now."""
        before, equals, path = text.rpartition("=")
        for root in sorted(self.places, key=len, reverse=True):
            if path == root or path.startswith(f"{root}{os.sep}"):
                return f"{before}{equals}{self.places[root]}{path[len(root) :]}"
        return text


@contextmanager
def restored(record: Mapping[str, Any], folder: Path, into: Path, *, repository: Path | None = None, at: str | None = None) -> Iterator[Restored]:
    """Bring back the code of a record; it is forgotten again at the end.

    Args:
        record: what `provenance/record.json` says.
        folder: the folder `provenance/` with it.
        into: an empty folder.
        repository: where the commit of the first repository is to be found, where that is another place than it was.
        at: another commit of the first repository, without the patch.

    Raises:
        UsageError: there is no code to go on with at all.
    """
    found, trees = Restored(), list[tuple[Path, Path]]()
    entries = record["code"]["repositories"]
    first = next((entry for entry in entries if entry["commit"]), None)
    if at is not None and first is None:
        raise UsageError("--at names a commit, and this run was not made from a repository")
    try:
        for number, entry in enumerate(entries):
            place = _place(entry, number, into, found)
            if entry["commit"]:
                own = (repository, at) if entry is first else (None, None)
                _check_out(entry, number, folder, place, found, trees, *own)
            _copy(entry, number, folder, place, found)
            found.places[entry["root"]] = place
        for entry in entries:
            _link(Path(entry["root"]), found.places[entry["root"]], bool(entry["commit"]))
        if at is None:
            _compare(record["code"], found)
        yield found
    finally:
        for root, place in reversed(trees):
            git.give_up(root, place)


def _place(entry: Mapping[str, Any], number: int, into: Path, found: Restored) -> Path:
    """A place for a root: of its own, or within that of the root that it is in."""
    moved = found.moved(entry["root"])
    return into / f"{number}" / Path(entry["root"]).name if moved == entry["root"] else Path(moved)


def _check_out(
    entry: Mapping[str, Any],
    number: int,
    folder: Path,
    place: Path,
    found: Restored,
    trees: list[tuple[Path, Path]],
    repository: Path | None,
    at: str | None,
) -> None:
    commit, archive = at or entry["commit"], folder / "code" / f"{number}.tar"
    root = next((path for path in (repository, Path(entry["root"])) if path is not None and git.has(path, commit)), None)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        if root is not None:
            git.check_out(root, commit, place)
            trees.append((root, place))
        elif archive.exists() and at is None:
            with tarfile.open(archive) as tree:
                tree.extractall(place, filter="data")
        else:
            raise git.GitError("it is in no repository here")
    except (git.GitError, tarfile.TarError, OSError) as error:
        _as_it_is(entry, commit, place, str(error), found)
        return
    if entry["patch"] and at is None:
        _patch(entry, folder, place, found)


def _as_it_is(entry: Mapping[str, Any], commit: str, place: Path, why: str, found: Restored) -> None:
    """The commit cannot be had: what stands there now has to do, and is no proof."""
    remote = f"; it came from {entry['remote']}" if entry.get("remote") else ""
    found.problems.append(f"commit {commit[:12]} of {entry['root']} cannot be had: {why}{remote}; --repo PATH says where another copy is")
    if Path(entry["root"]).is_dir():
        shutil.copytree(entry["root"], place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NOT_LINKED))


def _patch(entry: Mapping[str, Any], folder: Path, place: Path, found: Restored) -> None:
    patch = folder / entry["patch"]
    try:
        if hashlib.sha256(patch.read_bytes()).hexdigest() != entry["patch_sha256"]:
            found.problems.append(f"{patch} was edited")
        git.apply(place, patch.absolute())
    except (OSError, git.GitError) as error:
        found.problems.append(f"the uncommitted changes of {entry['root']} cannot be brought back: {error}")


def _copy(entry: Mapping[str, Any], number: int, folder: Path, place: Path, found: Restored) -> None:
    for name in entry["untracked"]:
        source, target = folder / "code" / str(number) / name, place / name
        if not target.resolve().is_relative_to(place.resolve()):
            raise UsageError(f"the record names a file outside of its folder: {name!r}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        except OSError as error:
            found.problems.append(f"{name} of {entry['root']} cannot be brought back: {error.strerror}")
    for left in entry["left_out"]:
        found.notes.append(f"{left['path']} of {entry['root']} is not in the record: {left['why']}")


def _link(root: Path, place: Path, in_git: bool) -> None:
    """Link what is beside the code and in no record: data, and what git ignores."""
    if not root.is_dir() or not place.is_dir():
        return
    try:
        names = git.beside(root) if in_git else [str(path.relative_to(root)) for path in _beside(root, place)]
    except (git.GitError, OSError):
        return
    for name in names:
        target = place / name
        if Path(name).suffix != ".py" and not _NOT_LINKED & set(Path(name).parts) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(root / name)


def _beside(root: Path, place: Path) -> Iterator[Path]:
    """What a folder without git has and its copy has not, from the top down."""
    for path in sorted(root.iterdir()):
        inside = place / path.name
        if not os.path.lexists(inside):
            yield path
        elif path.is_dir() and inside.is_dir() and not inside.is_symlink():
            yield from (root / path.name / below.relative_to(path) for below in _beside(path, inside))


def _compare(code: Mapping[str, Any], found: Restored) -> None:
    """Whether every file that the run imported is there with the content that it had."""
    for name, digests in code["files"].items():
        places = [place / name for place in found.places.values()]
        file = next((path for path in places if path.is_file()), None)
        if file is None or hashlib.sha256(file.read_bytes()).hexdigest() != digests["sha256"]:
            found.problems.append(f"{name} is {'missing' if file is None else 'not as it was'}")
