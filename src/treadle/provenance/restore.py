"""The code of a run, brought back into a place of its own: a git worktree of its commit, the patch, the files that git did not have.

    <into>/home/me/project      what stood in /home/me/project: the same paths, below another root
    <into>/home/me/data         a link to what stands beside it

Nothing of the user's is changed. What no record holds, such as data sets beside the code, is linked from where it is; see `surroundings`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.provenance import git
from treadle.provenance.read import asked_run_dir
from treadle.provenance.source import Source, own_source, sources_of
from treadle.provenance.surroundings import link_beside, link_surroundings
from treadle.system.seal import file_checksum

_NAMED = 5


@dataclass
class Restored:
    """Code in a place of its own.

    Args:
        into: the folder that stands for the root of the file system.
        cwd: where the program was started.
        roots: the folders that were brought back, as they were called.
        commit: the commit that `--at` named, in full.
        problems: what is not as it was; each is a reason not to trust a comparison.
        notes: what a person should know.
    """

    into: Path
    cwd: str = ""
    roots: list[str] = field(default_factory=list)
    commit: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def place(self, path: str | Path) -> Path:
        """Where a path is now, if it was brought back."""
        return self.into / Path(path).relative_to(Path(path).anchor)

    def holds(self, path: str | Path) -> bool:
        """Whether a path is in what was brought back."""
        return any(Path(path).is_relative_to(root) for root in self.roots)

    def moved(self, text: str) -> str:
        """A path, or a word that ends with one, such as ``data=/home/me/project/x``, as it is now."""
        before, equals, path = text.rpartition("=")
        if not Path(path).is_absolute() or not self.holds(os.path.normpath(path)):
            return text  # what is relative is relative to a folder that was brought back
        return f"{before}{equals}{self.place(os.path.normpath(path))}"


@contextmanager
def restored(record: Mapping[str, Any], folder: Path, into: Path, *, repository: Path | None = None, at: str | None = None) -> Iterator[Restored]:
    """Bring back the code of a record; it is forgotten again at the end.

    Args:
        record: what `provenance/record.json` says.
        folder: the folder `provenance/` with it.
        into: an empty folder.
        repository: where commits are to be found, besides where they were.
        at: another commit of the program's repository, without what was not committed.

    Raises:
        UsageError: the record is damaged, or there is no such commit.
    """
    sources, cwd = sources_of(record), str(record.get("cwd", ""))
    if Path(cwd).is_absolute() and not any(Path(cwd).is_relative_to(source.root) for source in sources):
        sources.append(Source(len(sources), Path(os.path.normpath(cwd))))  # where no code was, but what the program reads
    found, trees = Restored(into, cwd, [str(source.root) for source in sources]), list[tuple[Path, Path]]()
    if at is not None:
        sources, found.commit = _at(sources, own_source(sources, found.cwd), at, repository)
    try:
        for source in sorted(sources, key=lambda source: len(source.root.parts)):
            place = found.place(source.root)
            place.mkdir(parents=True, exist_ok=True)
            if source.commit:
                _check_out(source, folder, place, found, trees, repository)
            _copy(source, folder, place, found, at is not None)
            found.problems += _lost(source, folder)
        apart = [path.resolve() for path in (folder.parent, _run_folder(record, cwd), into, *(source.root for source in sources))]
        for source in sources:
            found.notes += link_beside(source, found.place(source.root), apart)
        link_surroundings([source.root for source in sources], into)
        if at is None:
            found.problems += [f"what made the run could not be recorded in full: {note}" for note in record["code"].get("notes", ())]
            _compare(record["code"].get("files", {}), found)
        yield found
    finally:
        for root, place in reversed(trees):
            git.give_up(root, place)


def _run_folder(record: Mapping[str, Any], cwd: str) -> Path:
    """Where the run was, which may be another place than that where it is now."""
    return Path(cwd, asked_run_dir(record))


def _at(sources: list[Source], own: Source | None, at: str, repository: Path | None) -> tuple[list[Source], str]:
    """The sources as another commit has them: its submodules at their commits, and nothing that was not committed."""
    if own is None:
        raise UsageError("--at names a commit, and this run was not made from a repository")
    home = next((path for path in (repository, own.root) if path is not None and git.has(path, at)), None)
    if home is None:
        raise UsageError(f"--at: there is no commit {at!r} in {repository or own.root}; --repo DIR says where it is")
    commit = git.resolved(home, at)
    changed = []
    for source in sources:
        if source is own:
            source = source.at(commit)
        elif source.commit and source.root.is_relative_to(own.root):
            link = git.submodule_at(home, commit, str(source.root.relative_to(own.root)))
            source = source.at(link) if link else source
        changed.append(source)
    return changed, commit


def _check_out(source: Source, folder: Path, place: Path, found: Restored, trees: list[tuple[Path, Path]], repository: Path | None) -> None:
    commit, archive = str(source.commit), folder / "code" / f"{source.number}.tar"
    root = next((path for path in (repository, source.root) if path is not None and git.has(path, commit)), None)
    try:
        if root is not None:
            trees.append((root.absolute(), place))
            git.check_out(root, commit, place)
        elif archive.exists() and not source.is_other:
            _extract(archive, place, found)
        else:
            raise git.GitError("it is in no repository here")
        for name in git.fill_pointers(place, source.root):
            found.problems.append(f"{name} of {source.root} is kept by git-lfs, and its content is not here; in the repository: git lfs fetch")
    except (git.GitError, tarfile.TarError, OSError) as error:
        _as_it_is(source, place, str(error), found)
        return
    if source.patch:
        _patch(source, folder, place, found)


def _extract(archive: Path, place: Path, found: Restored) -> None:
    with tarfile.open(archive) as tree:
        for member in tree:
            try:
                tree.extract(member, place, filter="data")
            except tarfile.FilterError:
                found.notes.append(f"{member.name} is a link to a place outside of the repository, and was not made")


def _as_it_is(source: Source, place: Path, why: str, found: Restored) -> None:
    """The commit cannot be had: what stands there now has to do, and is no proof."""
    remote = f"; it came from {source.remote}" if source.remote else ""
    found.problems.append(
        f"commit {str(source.commit)[:12]} of {source.root} cannot be had: {why}{remote}; --repo DIR says where another copy of it is"
    )
    for name in git.all_tracked(source.root):
        with suppress(OSError):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source.root / name, place / name, follow_symlinks=False)


def _patch(source: Source, folder: Path, place: Path, found: Restored) -> None:
    patch = folder / str(source.patch)
    try:
        if file_checksum(patch) != source.patch_sha256:
            found.problems.append(f"provenance/{source.patch} is not as the run left it: somebody edited it, or it is damaged")
        git.apply(place, patch.absolute())
    except OSError as error:
        found.problems.append(f"the uncommitted changes of {source.root} cannot be brought back: provenance/{source.patch}: {error.strerror}")
    except git.GitError as error:
        found.problems.append(f"the uncommitted changes of {source.root} cannot be brought back: {error}")


def _lost(source: Source, folder: Path) -> list[str]:
    """Changes that the record names and does not hold, as where git fell silent midway."""
    held = {*source.untracked, *source.left_out}
    if source.patch:
        with suppress(git.GitError):
            held.update(git.patched((folder / source.patch).absolute()))
    lost = [name for name in source.changed if name not in held]
    more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
    return [f"{', '.join(lost[:_NAMED])}{more} of {source.root} had changes that are not in the record"] if lost else []


def _copy(source: Source, folder: Path, place: Path, found: Restored, only_missing: bool) -> None:
    """Copy the files that are in no commit. Those that another commit has are its own."""
    for name in source.untracked:
        kept, target = folder / "code" / str(source.number) / name, place / name
        if not target.parent.resolve().is_relative_to(place.resolve()):
            raise UsageError(f"the record names a file outside of its folder: {name!r}")
        if only_missing and os.path.lexists(target):
            continue
        try:
            if (expected := source.copies.get(name)) and file_checksum(kept) != expected:
                found.problems.append(f"the copy of {name} in the run folder is not as the run left it: somebody edited it, or it is damaged")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(kept, target)
        except OSError as error:
            found.problems.append(f"{name} of {source.root} cannot be brought back: {error.strerror}")
    for name, why in source.left_out.items():
        if name in source.changed:
            found.problems.append(f"{name} of {source.root} had changes that are not in the record: {why}")
        else:
            found.notes.append(f"{name} of {source.root} is not in the record: {why}")


def _compare(files: Mapping[str, Any], found: Restored) -> None:
    """Whether every file that the run imported is there with the content that it had."""
    for name, digests in files.items():
        there = [path for path in (found.place(root) / name for root in found.roots) if path.is_file()]
        if not any(file_checksum(path) == digests["sha256"] for path in there):
            found.problems.append(f"{name}, which the run imported, is {'not as it was' if there else 'missing'}")
