"""The code of a run: where it stands in git, what was changed since, and copies of what git does not have.

provenance/code/0.patch    what differs from the commit of the first repository
provenance/code/0/...      files that are in no commit: untracked sources; where there is no git, every file that was imported
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from treadle.provenance import git
from treadle.provenance.secrets import holds_secret, is_secret_file, without_login
from treadle.system.code import is_own, own_modules

LARGEST_FILE, LARGEST_COPY, MOST_FILES = 10 * 2**20, 50 * 2**20, 500
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


def own_code() -> Kept:
    """The user's code, as it is now. Whatever cannot be found out is a note, and never an error."""
    found = {file.parent.resolve() / file.name: module for file, module in own_modules().items()}  # one address for what links lead to
    loads = [getattr(module, "__spec__", None) or module for module in found.values()]  # another one after a reload
    for file, load in zip(found, loads, strict=True):
        if file not in _SEEN or _SEEN[file][0] is not load:
            _SEEN[file] = (load, _read(file))
    return _own_code(tuple(found), tuple(map(id, loads)), _here(), int(time.monotonic() / _FRESH_S))


_SEEN: dict[Path, tuple[object, bytes]] = {}
"""What was in a file when this process first made a record of it: what it runs, also where the file is edited after that."""
_FRESH_S = 5.0
"""For so long what git said holds: a program may make thousands of short runs."""


@lru_cache(maxsize=1)
def _own_code(files: tuple[Path, ...], loads: tuple[object, ...], here: Path | None, asked: int = 0) -> Kept:
    """As `own_code`, for these files."""
    kept = Kept({"repositories": [], "files": {}, "paths": _import_paths(), "notes": []})
    roots = _roots([*files, *([here / "?"] if here else [])])
    for root in roots:
        _keep_repository(kept, root, [file for file in files if _home(file, roots) == root])
    loose = [file for file in files if _home(file, roots) is None]
    for root, inside in _by_import_root(loose).items():
        names = [str(file.relative_to(root)) for file in inside]
        _keep_copies(kept, root, _add_entry(kept, root), names, [])
    for file in sorted(files, key=lambda file: here is None or not file.is_relative_to(here)):
        name = _name(file, kept.facts["repositories"])
        kept.facts["files"][str(file) if name in kept.facts["files"] else name] = _digests(file)  # the same path in two repositories
    return kept


def _content(file: Path) -> bytes:
    """What was imported from a file; what is in it, where nothing was."""
    return _SEEN[file][1] if file in _SEEN else _read(file)


def _read(file: Path) -> bytes:
    with suppress(OSError):
        return file.read_bytes()
    return b""


def _here() -> Path | None:
    with suppress(OSError):  # it was removed
        return Path.cwd()
    return None


def _add_entry(kept: Kept, root: Path) -> int:
    """A new repository, or a folder that is none, in the facts; its number."""
    entry: dict[str, Any] = {"root": str(root), "commit": None, "branch": None, "remote": None, "patch": None}
    kept.facts["repositories"].append(entry | {"changed": [], "untracked": [], "left_out": []})
    return len(kept.facts["repositories"]) - 1


# --- in git ---


def _roots(places: Iterable[Path]) -> list[Path]:
    """The repositories that some files are in, with their submodules; the outer before the inner ones."""
    found = {root for folder in {place.parent for place in places} if (root := git.root_of(folder)) is not None}
    for root in list(found):
        with suppress(git.GitError):  # it does not answer, and that is said when it is asked more
            found.update(git.submodules(root))
    return sorted(found)


def _home(file: Path, roots: list[Path]) -> Path | None:
    """The innermost repository that a file is in."""
    return max((root for root in roots if file.is_relative_to(root)), key=lambda root: len(root.parts), default=None)


def _keep_repository(kept: Kept, root: Path, own: list[Path]) -> None:
    number = _add_entry(kept, root)
    entry = kept.facts["repositories"][number]
    names = [str(file.relative_to(root)) for file in own]
    try:
        entry["commit"] = git.commit_of(root)
        entry["branch"] = git.branch_of(root)
        entry["remote"] = (address := git.remote_of(root)) and without_login(address)
        others = _sources(root, git.untracked(root, staged=entry["commit"] is None))
        if entry["commit"] is not None:
            changed = git.changed(root)
            filtered = git.filtered(root, list(changed))
            entry["changed"] = list(changed)
            _keep_patch(kept, root, number, changed, filtered, names)
            names = _not_given_back(root, names, entry["changed"], filtered)
        _keep_copies(kept, root, number, names, others)
    except git.GitError as error:
        kept.facts["notes"].append(f"{root}: {error}; the files that were imported from it are kept")
        _keep_copies(kept, root, number, names, [])


def _keep_patch(kept: Kept, root: Path, number: int, changed: dict[str, int], filtered: set[str], own: list[str]) -> None:
    entry, inside, room = kept.facts["repositories"][number], list[str](), LARGEST_COPY
    for name, before in sorted(changed.items(), key=lambda item: item[0] not in own):  # what was imported comes first
        if name in filtered and name in own:
            continue  # it is copied
        size = max(before, _size(root / name))
        why = "git keeps its content elsewhere (filter)" if name in filtered else _too_much(size, room, MOST_FILES - len(inside))
        if why or _is_secret_file(root, name):
            _leave_out(entry, root, name, why or "holds a secret")
        else:
            inside.append(name)
            room -= size
    content, secret = _public_patch(root, inside)
    for name in secret:
        _leave_out(entry, root, name, "holds a secret")
    if content:
        entry["patch"] = f"code/{number}.patch"
        entry["patch_sha256"] = hashlib.sha256(content).hexdigest()
        kept.contents[f"{number}.patch"] = content


def _public_patch(root: Path, names: list[str]) -> tuple[bytes, list[str]]:
    """The patch of some files, without those in which it shows a secret: one that was removed, say; and the names of these."""
    content = git.patch(root, names)
    if not holds_secret(content):
        return content, []
    if len(names) == 1:
        return b"", names
    parts = [_public_patch(root, some) for some in (names[: len(names) // 2], names[len(names) // 2 :])]
    return b"".join(patch for patch, _ in parts), [name for _, secret in parts for name in secret]


def _not_given_back(root: Path, names: list[str], changed: list[str], filtered: set[str]) -> list[str]:
    """Imported files whose very bytes are not in commit and patch: not tracked, kept from git's sight, or converted by it."""
    known, different = git.tracked(root, names), set(changed)
    return sorted(name for name in names if name not in known or not _is_given_back(root / name, known[name], name in different, name in filtered))


def _is_given_back(file: Path, blob: str, is_changed: bool, is_filtered: bool) -> bool:
    try:
        content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
        is_edited = file.read_bytes() != _content(file)  # since it was imported
    except OSError:
        return True  # there is nothing to keep
    if is_changed or is_edited:
        return not is_edited and not is_filtered and b"\r\n" not in content
    return git.blob(content, blob) == blob


def _sources(root: Path, names: list[str]) -> list[str]:
    """Those of some untracked files that are code, or values for it, code first; what runs left is not."""
    runs: dict[str, bool] = {"": _is_run(root)}

    def in_run(folder: str) -> bool:
        if folder not in runs:
            runs[folder] = in_run(folder.rpartition("/")[0]) or _is_run(root / folder)
        return runs[folder]

    found = (name for name in names if _SOURCES.fullmatch(name.rpartition("/")[2]) and not in_run(name.rpartition("/")[0]))
    return sorted(found, key=lambda name: (not name.endswith((".py", ".ipynb")), name))


def _is_run(folder: Path) -> bool:
    """Whether it is the folder of a run, also of one that is about to begin."""
    there = [os.access(folder / name, os.F_OK) for name in ("run.json", "metrics.jsonl", "lock", "provenance")]
    return there[0] or there[1] or all(there[2:])


# --- copies ---


def _keep_copies(kept: Kept, root: Path, number: int, imported: list[str], others: list[str]) -> None:
    """Keep files that are in no commit: first those that were imported, then as many others as there is room for."""
    entry, room, places = kept.facts["repositories"][number], LARGEST_COPY, MOST_FILES
    names = list(dict.fromkeys([*imported, *others]))
    for place, name in enumerate(names):
        if not places and len(entry["left_out"]) >= MOST_FILES:
            more = {"path": f"and {len(names) - place:,} more", "bytes": 0, "why": "too many files"}
            entry["left_out"].append(more)
            return
        if why := _too_much(_size(root / name), room, places) or ("holds a secret" if _is_secret_file(root, name) else ""):
            _leave_out(entry, root, name, why)
            continue
        try:
            content = _content(root / name) if name in imported else (root / name).read_bytes()
        except OSError as error:
            _leave_out(entry, root, name, str(error.strerror))
            continue
        room, places = room - len(content), places - 1
        entry["untracked"].append(name)
        entry.setdefault("copies", {})[name] = hashlib.sha256(content).hexdigest()
        kept.contents[f"{number}/{name}"] = content


def _too_much(size: int, room: int, places: int) -> str:
    """Why there is no room for a file; empty where there is."""
    if size < 0:
        return "no file"
    return "too large" if size > min(LARGEST_FILE, room) else "" if places > 0 else "too many files"


def _is_secret_file(root: Path, name: str) -> bool:
    """Whether a file is called, or reads, like one that holds a secret; a Python file may be called as it likes."""
    path = root / name
    if path.suffix != ".py" and is_secret_file(path.name):
        return True
    try:
        return path.is_file() and holds_secret(path.read_bytes())
    except OSError:
        return False


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
    content = _content(file)
    return {"sha256": hashlib.sha256(content).hexdigest(), "meaning": _meaning(content)}


@lru_cache(maxsize=4096)  # parsing takes ten thousand times as long as looking it up, and each run asks for every file
def _meaning(content: bytes) -> str:
    """A digest of the code without comments, docstrings and layout."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Python gave them when it read the file
            tree = ast.parse(content)
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                and ast.get_docstring(node, clean=False) is not None
            ):
                node.body = node.body[1:]
        text = ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, none of this version, or one long expression
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _leave_out(entry: dict[str, Any], root: Path, name: str, why: str) -> None:
    if len(entry["left_out"]) < MOST_FILES:
        entry["left_out"].append({"path": name, "bytes": max(0, _size(root / name)), "why": why})


def _size(file: Path) -> int:
    """Bytes of a file, or of what a link leads to; -1 for a pipe or another thing that has none."""
    try:
        facts = file.stat()
    except OSError:
        return 0
    return facts.st_size if stat.S_ISREG(facts.st_mode) else -1
