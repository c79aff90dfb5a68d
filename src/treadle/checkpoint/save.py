"""Saving: a checkpoint is a folder that is whole, or not there.

    step-000500/
      model.safetensors     the tensors of each tracked object that has any
      state.json            everything else
      manifest.json         size and SHA-256 of each file; written last

Written to a temporary folder beside its place, every file fsynced, renamed, the parent fsynced.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError
from treadle.system.files import fsync

FORMAT = 1


def folder_name(step: int) -> str:
    """Name of the folder of a step's checkpoint; names sort like numbers."""
    return f"step-{step:06d}"


def write_checkpoint(parent: Path, step: int, states: Mapping[str, Any], info: Mapping[str, Any]) -> Path:
    """Write one checkpoint.

    Args:
        parent: the folder `checkpoints/`.
        step: optimizer steps done.
        states: the state of each tracked object, by name.
        info: JSON facts to find it by: step, best value.

    Returns:
        its folder.

    Raises:
        CheckpointError: a state cannot be stored, or the files cannot be written. Older checkpoints are untouched.
    """
    from safetensors import SafetensorError

    place, beside = parent / folder_name(step), parent / f".{folder_name(step)}.tmp"
    encoded = {name: encode(state, name) for name, state in states.items()}
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _write_files(beside, encoded, info)
        if place.exists():  # a damaged one of the same step, which a resume passed over
            shutil.rmtree(place)
        os.rename(beside, place)
        fsync(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {place}: {getattr(error, 'strerror', None) or error}; older checkpoints are untouched"
        ) from error
    return place


def _write_files(folder: Path, encoded: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    for name, (_, tensors) in encoded.items():
        if tensors:
            save_file(tensors, folder / f"{name}.safetensors")
    trees = {name: tree for name, (tree, _) in encoded.items()}
    _write_text(folder / "state.json", {"info": dict(info), "states": trees})
    manifest = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    _write_text(folder / "manifest.json", {"format": FORMAT, "files": manifest})
    for path in folder.iterdir():
        fsync(path)
    fsync(folder)


def _write_text(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
