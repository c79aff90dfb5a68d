"""Surroundings: links to what stood beside a run's code and is in no record, so that the code finds it where it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from treadle.provenance import git
from treadle.provenance.source import Source

_NOT_LINKED = frozenset({".git", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"})
_NAMED = 5


def link_beside(source: Source, place: Path, apart: list[Path]) -> list[str]:
    """Link what is beside the code and in no record: data, and what git ignores. Python files are not: they would be code of today.

    Args:
        source: whose.
        place: where its code is now.
        apart: what is not linked, nor any folder that it is in as a whole: the run, and where code is.

    Returns:
        what a person should know about it.
    """
    try:
        names = _names(source)
    except OSError:  # it is another machine
        return []
    linked = [path for name in names for path in _link(source.root / name, place / name, apart)]
    shown = [str(path.relative_to(source.root)) for path in linked if not (path / "run.json").exists()]
    more = f" and {len(shown) - _NAMED:,} more" if len(shown) > _NAMED else ""
    return [f"in no record, and linked as it is now in {source.root}: {', '.join(shown[:_NAMED])}{more}"] if shown else []


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


def _link(path: Path, target: Path, apart: list[Path]) -> Iterator[Path]:
    """Link a path; of a folder that is there in part, or that holds a run or the target, what is in it."""
    real = path.resolve()
    if path.name in _NOT_LINKED or path.suffix == ".py" or real in apart:
        return
    is_around = any(one.is_relative_to(real) for one in apart)
    if not os.path.lexists(target) and not is_around:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
        yield path
    elif path.is_dir() and not path.is_symlink() and not target.is_symlink() and (is_around or target.is_dir()):
        for inside in sorted(path.iterdir()):
            yield from _link(inside, target / inside.name, apart)
