"""The code of a run: where it stands in git, what was changed since, and copies of what git does not have.

provenance/code/0.patch    what differs from the commit of the first repository
provenance/code/0/...      files that are in no commit: untracked sources; where there is no git, every file that was imported
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from treadle.provenance import git
from treadle.provenance.secrets import holds_secret, without_login
from treadle.system.code import is_own, own_sources

LARGEST_FILE, LARGEST_COPY, MOST_FILES = 10 * 2**20, 50 * 2**20, 2000
"""Bytes of one file, bytes of a repository's files together, and their number: what is over is listed and not kept."""
_SOURCES = re.compile(
    r".*\.(py[ix]?|ipynb|cc?|cpp|cuh?|h|hpp|rs|jl|r|sh|slurm|sbatch|ya?ml|toml|jsonc?|cfg|ini|conf|gin|jinja|j2|txt|md|rst|csv|tsv|sql|proto|lock)"
    r"|Makefile|Dockerfile|Pipfile|justfile",
    re.IGNORECASE,
)
"""Names of files that are code, or values for it."""


@dataclass
class Kept:
    """The code of a run: facts about it, and the content of what has to be kept, by its path below `provenance/code`."""

    facts: dict[str, Any]
    contents: dict[str, bytes] = field(default_factory=dict)


def own_code(run_folder: Path) -> Kept:
    """The user's code, as it is now. Whatever cannot be found out is a note, and never an error.

    Args:
        run_folder: the run's own folder; it is no source.
    """
    files = own_sources()
    return _own_code(tuple(files), tuple(_stamp(file) for file in files), Path.cwd(), run_folder)


@cache
def _own_code(files: tuple[Path, ...], stamps: tuple[float, ...], here: Path, run_folder: Path) -> Kept:
    """As `own_code`, once for the same files: what is in memory is what they were, and not what they become."""
    kept = Kept({"repositories": [], "files": {}, "paths": _import_paths(), "notes": []})
    roots = _roots([*files, here / "?"])
    for root in roots:
        _keep_repository(kept, root, [file for file in files if _home(file, roots) == root], run_folder)
    loose = [file for file in files if _home(file, roots) is None]
    for root, inside in _by_import_root(loose).items():
        _keep_loose(kept, root, inside)
    for file in files:
        kept.facts["files"][_name(file, kept.facts["repositories"])] = _digests(file)
    return kept


def _stamp(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime_ns
    return 0


# --- in git ---


def _roots(places: Iterable[Path]) -> list[Path]:
    """The repositories that some files are in, with their submodules; the outer before the inner ones."""
    found = {root for folder in {place.parent for place in places} if (root := git.root_of(folder)) is not None}
    found |= {module for root in found for module in git.submodules(root)}
    return sorted(found)


def _home(file: Path, roots: list[Path]) -> Path | None:
    """The innermost repository that a file is in."""
    return max((root for root in roots if file.is_relative_to(root)), key=lambda root: len(root.parts), default=None)


def _keep_repository(kept: Kept, root: Path, own: list[Path], run_folder: Path) -> None:
    entry: dict[str, Any] = {"root": str(root), "commit": None, "branch": None, "remote": None, "patch": None}
    entry |= {"changed": [], "untracked": [], "left_out": []}
    number = len(kept.facts["repositories"])
    kept.facts["repositories"].append(entry)
    names = [str(file.relative_to(root)) for file in own]
    try:
        entry["commit"] = git.commit_of(root)
        entry["branch"] = git.branch_of(root)
        entry["remote"] = (address := git.remote_of(root)) and without_login(address)
        entry["changed"] = git.changed(root)
        _keep_patch(kept, root, number, entry)
        imported = set(names) - git.tracked(root, names)  # also where git ignores them
        unknown = [name for name in git.untracked(root) if _is_source(root, name, run_folder)]
        _keep_copies(kept, root, number, entry, sorted(imported), unknown)
    except git.GitError as error:
        kept.facts["notes"].append(f"{root}: {error}" + ("" if entry["commit"] else "; the files that were imported from it are kept"))
        if entry["commit"] is None:
            _keep_copies(kept, root, number, entry, names, [])


def _keep_patch(kept: Kept, root: Path, number: int, entry: dict[str, Any]) -> None:
    elsewhere = git.filtered(root, entry["changed"])
    inside = [name for name in entry["changed"] if name not in elsewhere]
    entry["left_out"] += [_left_out(root, name, "git keeps its content elsewhere (filter)") for name in entry["changed"] if name in elsewhere]
    large = [name for name in inside if _size(root / name) > LARGEST_FILE]
    entry["left_out"] += [_left_out(root, name, "too large") for name in large]
    inside = [name for name in inside if name not in large]
    content = git.patch(root, inside)
    if holds_secret(content):
        secret = [name for name in inside if holds_secret(git.patch(root, [name]))]
        entry["left_out"] += [_left_out(root, name, "holds a secret") for name in secret]
        content = git.patch(root, [name for name in inside if name not in secret])
    if content:
        entry["patch"] = f"code/{number}.patch"
        entry["patch_sha256"] = hashlib.sha256(content).hexdigest()
        kept.contents[f"{number}.patch"] = content


def _is_source(root: Path, name: str, run_folder: Path) -> bool:
    """Whether an untracked file is code, or a value for it; what runs left is not."""
    path = root / name
    if not _SOURCES.fullmatch(path.name):
        return False
    inside = [folder for folder in path.parents if folder.is_relative_to(root)]
    return run_folder not in inside and not any(_is_run(folder) for folder in inside)


@cache
def _is_run(folder: Path) -> bool:
    return (folder / "run.json").exists() or (folder / "metrics.jsonl").exists()


# --- copies ---


def _keep_loose(kept: Kept, root: Path, files: list[Path]) -> None:
    number = len(kept.facts["repositories"])
    entry: dict[str, Any] = {"root": str(root), "commit": None, "branch": None, "remote": None, "patch": None}
    entry |= {"changed": [], "untracked": [], "left_out": []}
    kept.facts["repositories"].append(entry)
    _keep_copies(kept, root, number, entry, [str(file.relative_to(root)) for file in files], [])


def _keep_copies(kept: Kept, root: Path, number: int, entry: dict[str, Any], imported: list[str], others: list[str]) -> None:
    """Keep files that are in no commit: first those that were imported, then as many others as there is room for."""
    room, places = LARGEST_COPY, MOST_FILES
    for name in [*imported, *(name for name in others if name not in imported)]:
        size = _size(root / name)
        if size > min(LARGEST_FILE, room) or not places:
            entry["left_out"].append(_left_out(root, name, "too large" if places else "too many files"))
            continue
        try:
            content = (root / name).read_bytes()
        except OSError as error:
            entry["left_out"].append(_left_out(root, name, str(error.strerror)))
            continue
        if holds_secret(content):
            entry["left_out"].append(_left_out(root, name, "holds a secret"))
            continue
        room, places = room - size, places - 1
        entry["untracked"].append(name)
        entry.setdefault("copies", {})[name] = hashlib.sha256(content).hexdigest()
        kept.contents[f"{number}/{name}"] = content
    if (over := len(entry["left_out"]) - MOST_FILES) > 0:
        entry["left_out"][MOST_FILES:] = [{"path": f"and {over:,} more", "bytes": 0, "why": "too many files"}]


def _by_import_root(files: list[Path]) -> dict[Path, list[Path]]:
    """Files by the folder from which they are imported: that of a package, not its own."""
    homes: dict[Path, list[Path]] = {}
    for file in files:
        folder = file.parent
        while (folder / "__init__.py").exists() and folder != folder.parent:
            folder = folder.parent
        homes.setdefault(folder, []).append(file)
    tops = [home for home in homes if not any(other != home and home.is_relative_to(other) for other in homes)]
    return {top: [file for home, inside in homes.items() if home.is_relative_to(top) for file in inside] for top in sorted(tops)}


def _import_paths() -> list[str]:
    """Where Python looks for modules that are the user's own."""
    places = dict.fromkeys(str(Path(place).absolute()) for place in sys.path)
    return [place for place in places if Path(place).is_dir() and is_own(_Probe(f"{place}{os.sep}x.py"))]


class _Probe(ModuleType):
    """A module that would be there."""

    def __init__(self, file: str) -> None:
        super().__init__("probe")
        self.__file__ = file


# --- files ---


def _name(file: Path, repositories: list[dict[str, Any]]) -> str:
    """A file's path in its repository: the same wherever that stands."""
    root = max((entry["root"] for entry in repositories if file.is_relative_to(entry["root"])), key=len, default="")
    return str(file.relative_to(root)) if root else str(file)


def _digests(file: Path) -> dict[str, str]:
    """What a file is, and what it means: `meaning` changes only where the code does."""
    try:
        content = file.read_bytes()
    except OSError as error:
        return {"sha256": "", "meaning": "", "why": str(error.strerror)}
    return {"sha256": hashlib.sha256(content).hexdigest(), "meaning": _meaning(content)}


def _meaning(content: bytes) -> str:
    """A digest of the code without comments, docstrings and layout."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, or none of this version
        return hashlib.sha256(content).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode(errors="surrogatepass")).hexdigest()


def _left_out(root: Path, name: str, why: str) -> dict[str, Any]:
    return {"path": name, "bytes": _size(root / name), "why": why}


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:
        return 0
