"""A run in one file: a zip archive with a manifest, to be sent, kept, and run again elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from treadle.core.errors import RunFolderError, UsageError
from treadle.provenance import git
from treadle.provenance.read import read_provenance
from treadle.provenance.secrets import holds_secret

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST_TREE = 50 * 2**20
"""Bytes of a commit's files, above which the archive names the commit and leaves them out."""
_LEFT_OUT = ("lock", "tensorboard")
_TEXTS = (".json", ".jsonl", ".yaml", ".patch")
_PIECE = 2**20


def pack(run_folder: Path, target: Path, checkpoints: Iterable[str]) -> list[str]:
    """Put a run into an archive.

    Args:
        run_folder: the run.
        target: the file; it appears whole or not at all.
        checkpoints: names of the checkpoints that go with it.

    Returns:
        what a person should know about it.

    Raises:
        UsageError: a file looks as if it held a secret; each is named.
        OSError: something cannot be read or written.
    """
    files = list(_files(run_folder, set(checkpoints)))
    if secret := [str(file) for file in files if file.suffix in _TEXTS and holds_secret((run_folder / file).read_bytes())]:
        raise UsageError(f"these hold something that looks like a secret, so nothing was packed: {', '.join(secret)}; take it out first")
    beside = target.with_name(f".{target.name}.tmp")
    sums: dict[str, dict[str, Any]] = {}
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in files:
                sums[file.as_posix()] = _add(archive, run_folder / file, file.as_posix())
            notes = _add_trees(archive, run_folder, sums)
            manifest = {"format": FORMAT, "run": run_folder.absolute().name, "files": sums}
            archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return notes


def unpack(archive: Path, into: Path) -> Path:
    """Take a run out of an archive, and verify every file; nothing in it is run.

    Args:
        archive: what `pack` made.
        into: an empty folder.

    Returns:
        the run folder.

    Raises:
        RunFolderError: it is no such archive, or a file in it is missing, damaged, more than was packed, or outside of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            manifest = json.loads(opened.read(MANIFEST))
            files = {str(name): (int(one["size"]), str(one["sha256"])) for name, one in manifest["files"].items()}
            folder = into / PurePosixPath(str(manifest["run"])).name
            for name, (size, checksum) in files.items():
                _take(opened, name, size, checksum, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise RunFolderError(f"{str(archive)!r} is no archive of a run that can be read: {error}") from None
    if not (folder / "run.json").is_file():
        raise RunFolderError(f"{str(archive)!r} holds no run")
    return folder


def _files(run_folder: Path, checkpoints: set[str]) -> Iterator[Path]:
    """What goes into the archive, relative to the run folder."""
    for path in sorted(run_folder.rglob("*")):
        inside = path.relative_to(run_folder)
        hidden = any(part.startswith(".") and part.endswith(".tmp") for part in inside.parts)
        other = len(inside.parts) > 1 and inside.parts[0] == "checkpoints" and inside.parts[1] not in checkpoints
        if path.is_file() and not path.is_symlink() and not hidden and not other and inside.parts[0] not in _LEFT_OUT:
            yield inside


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as source, archive.open(name, "w", force_zip64=True) as target:
        while piece := source.read(_PIECE):
            target.write(piece)
            digest.update(piece)
            size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def _add_trees(archive: zipfile.ZipFile, run_folder: Path, sums: dict[str, dict[str, Any]]) -> list[str]:
    """Add the files of each commit, so that whoever gets the archive needs no repository."""
    notes = []
    for number, entry in enumerate(read_provenance(run_folder).get("code", {}).get("repositories", ())):
        if not entry["commit"]:
            continue
        try:
            tree = git.archived(Path(entry["root"]), entry["commit"], LARGEST_TREE)
        except git.GitError as error:
            notes.append(f"commit {entry['commit'][:12]} of {entry['root']} is named and not in the archive: {error}")
            continue
        name = f"provenance/code/{number}.tar"
        archive.writestr(name, tree)
        sums[name] = {"size": len(tree), "sha256": hashlib.sha256(tree).hexdigest()}
        if holds_secret(tree):
            notes.append(f"warning: commit {entry['commit'][:12]} holds something that looks like a secret, and is in the archive")
    return notes


def _take(opened: zipfile.ZipFile, name: str, size: int, checksum: str, folder: Path) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or not place.parts or "\\" in name:
        raise ValueError(f"{name!r} is outside of the folder")
    target = folder.joinpath(*place.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), size
    with opened.open(name) as source, open(target, "wb") as written:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{name} is larger than it was")
            written.write(piece)
            digest.update(piece)
    if left or digest.hexdigest() != checksum:
        raise ValueError(f"{name} is damaged, its checksum does not match")
