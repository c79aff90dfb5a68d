"""A run in one file: a zip archive with a manifest, to be sent, kept, and run again elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.config.build import flatten, plain
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ConfigError, UsageError
from treadle.core.structure import same
from treadle.provenance import git
from treadle.provenance.read import read_provenance
from treadle.provenance.secrets import holds_secret, public
from treadle.provenance.source import sources_of

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST_TREE = 50 * 2**20
"""Bytes of a commit's files, above which the archive names the commit and leaves them out."""
_LEFT_OUT = ("lock", "tensorboard")
_TEXTS = (".json", ".jsonl", ".yaml", ".patch")
_CODE = Path("provenance/code")
_PIECE = 2**20


def pack(run_folder: Path, target: Path, checkpoints: Iterable[str], capsules: bool = False) -> list[str]:
    """Put a run into an archive.

    Args:
        run_folder: the run.
        target: the file; it appears whole or not at all.
        checkpoints: names of the checkpoints that go with it.
        capsules: whether steps that failed go with it, each with the whole state and a batch of the data.

    Returns:
        what a person should know about it.

    Raises:
        UsageError: a file looks as if it held a secret; each is named.
        OSError: something cannot be read or written.
    """
    files = list(_files(run_folder, set(checkpoints), capsules))
    if secret := list(_secrets(run_folder, files)):
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


def _secrets(run_folder: Path, files: list[Path]) -> Iterator[str]:
    """The files that look as if they held a secret; of the config the keys, by whose names and values the record withholds, too."""
    for file in files:
        keys = _secret_keys(run_folder / file) if file == Path("config.yaml") else []
        if keys:
            yield f"{file} ({', '.join(keys)})"
        elif (file.suffix in _TEXTS or file.is_relative_to(_CODE)) and holds_secret((run_folder / file).read_bytes()):
            yield str(file)


def _secret_keys(config: Path) -> list[str]:
    try:
        values = dict(flatten(plain(read_yaml(config))))
    except ConfigError:  # it is searched as any text is
        return []
    shown = public(values)
    return [name for name, value in values.items() if not same(shown[name], value)]


def _files(run_folder: Path, checkpoints: set[str], capsules: bool) -> Iterator[Path]:
    """What goes into the archive, relative to the run folder."""
    left_out = _LEFT_OUT if capsules else (*_LEFT_OUT, "capsules")
    for path in sorted(run_folder.rglob("*")):
        inside = path.relative_to(run_folder)
        hidden = any(part.startswith(".") and part.endswith(".tmp") for part in inside.parts)
        other = len(inside.parts) > 1 and inside.parts[0] == "checkpoints" and inside.parts[1] not in checkpoints
        if path.is_file() and not path.is_symlink() and not hidden and not other and inside.parts[0] not in left_out:
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
    record, notes = read_provenance(run_folder), []
    for source in sources_of(record) if isinstance(record.get("code"), dict) else ():
        if not source.commit:
            continue
        named = f"commit {source.commit[:12]} of {source.root}"
        try:
            with tempfile.TemporaryDirectory(prefix="treadle-pack-") as scratch:
                tree = _tree(source.root, source.commit, Path(scratch))
                missing = [f"{name} of {named} is kept by git-lfs, and not in the archive" for name in tree.pointers]
                name = f"provenance/code/{source.number}.tar"
                sums[name] = _add(archive, tree.file, name)
        except (git.GitError, OSError) as error:
            notes.append(f"{named} is not in the archive, which only names it: {error}")
            continue
        notes += missing
        notes += [f"warning: {name} of {named} holds something that looks like a secret, and is in the archive" for name in tree.secret]
    return notes


@dataclass
class _Tree:
    """The files of a commit as one file; which of them are pointers of git-lfs, and which hold a secret."""

    file: Path
    pointers: list[str]
    secret: list[str] = field(default_factory=list)


def _tree(root: Path, commit: str, scratch: Path) -> _Tree:
    """The files of a commit as they are checked out: ``git archive`` would leave out and rewrite what attributes tell it to."""
    if (size := git.size_of(root, commit)) > LARGEST_TREE:
        raise git.GitError(f"its files have {size:,} bytes, more than {LARGEST_TREE:,}")
    place = scratch / "tree"
    try:
        git.check_out(root, commit, place)
        tree = _Tree(scratch / "tree.tar", [*git.pointers(place)])
        with tarfile.open(tree.file, "w") as tar:
            for name in git.all_tracked(place):
                file = place / name
                if file.is_symlink() or file.is_file():
                    tar.add(file, name)
                    if not file.is_symlink() and holds_secret(file.read_bytes()):
                        tree.secret.append(name)
        return tree
    finally:
        git.give_up(root, place)
