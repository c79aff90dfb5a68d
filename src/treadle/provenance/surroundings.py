"""Surroundings: what stood beside a run's code and is in no record, so that the code finds it where it was.

Files are copied, so that a program which writes its results there does not write into the user's. Folders are linked, and so are files that
are too large to be copied: they are data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from treadle.provenance import git
from treadle.provenance.source import Source

_NOT_LINKED = frozenset({".git", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"})
_NAMED = 5
LARGEST_COPY = 64 * 2**20
"""Bytes of a file, above which it is linked."""
_LARGEST_COPIES = 512 * 2**20
"""Bytes of all that is copied beside one repository."""


def link_beside(source: Source, place: Path, apart: list[Path]) -> list[str]:
    """Copy or link what is beside the code and in no record: data, and what git ignores. Python files are not: they would be code of today.

    Args:
        source: whose.
        place: where its code is now.
        apart: what is left out, as is any folder that it is in as a whole: the run, and where code is.

    Returns:
        what a person should know about it.
    """
    try:
        names = _names(source)
    except OSError:  # it is another machine
        return []
    found = _Found(apart)
    for name in names:
        found.take(source.root / name, place / name)
    kinds = {"copied": found.copied, "linked": [path for path in found.linked if not (path / "run.json").exists()]}
    return [f"in no record, and {how} as it is now in {source.root}: {_shown(paths, source.root)}" for how, paths in kinds.items() if paths]


def _shown(paths: list[Path], root: Path) -> str:
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return f"{', '.join(str(path.relative_to(root)) for path in paths[:_NAMED])}{more}"


def _names(source: Source) -> list[str]:
    """What may be linked: what is in no commit; everything where nobody knows of a commit any more."""
    if source.commit and (source.root / ".git").exists():
        with suppress(git.GitError):
            return git.beside(source.root)
    return sorted(path.name for path in source.root.iterdir())


def link_surroundings(roots: Iterable[Path], into: Path) -> None:
    """Link what stood around the roots, up to the root of the file system, so that ``../data`` is what it was.

    Args:
        roots: folders that were brought back.
        into: the folder that stands for the root of the file system.
    """
    inner = set(roots)
    ways = {above for root in inner for above in root.parents if not any(above.is_relative_to(other) for other in inner)}
    for folder in sorted(ways):
        inside = into / folder.relative_to(folder.anchor)
        with suppress(OSError):
            for path in folder.iterdir():
                if not into.is_relative_to(path) and not os.path.lexists(inside / path.name):
                    (inside / path.name).symlink_to(path)


class _Found:
    """What was found beside the code, and brought to it.

    Args:
        apart: what is left out.
    """

    def __init__(self, apart: list[Path]) -> None:
        self._apart, self._room = apart, _LARGEST_COPIES
        self.copied: list[Path] = []
        self.linked: list[Path] = []

    def take(self, path: Path, target: Path) -> None:
        """Copy or link a path; of a folder that is there in part, or that holds a run or the target, what is in it."""
        real = path.resolve()
        if path.name in _NOT_LINKED or path.suffix == ".py" or real in self._apart:
            return
        is_around = any(one.is_relative_to(real) for one in self._apart)
        if not os.path.lexists(target) and not is_around:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._copy(path, target):
                target.symlink_to(path)
                self.linked.append(path)
        elif path.is_dir() and not path.is_symlink() and not target.is_symlink() and (is_around or target.is_dir()):
            for inside in sorted(path.iterdir()):
                self.take(inside, target / inside.name)

    def _copy(self, path: Path, target: Path) -> bool:
        """Whether it is a file that could be copied."""
        try:
            size = path.stat().st_size
            if not path.is_file() or size > min(LARGEST_COPY, self._room):
                return False
            shutil.copy2(path, target)
        except OSError:  # nobody may read it, or the disk is full
            target.unlink(missing_ok=True)
            return False
        self._room -= size
        self.copied.append(path)
        return True
