"""Saving: a checkpoint is a folder that is whole, or not there.

    step-000500/
      model.safetensors     the tensors of each tracked object that has any
      state.json            everything else
      manifest.json         size and SHA-256 of each file; written last

Written to a temporary folder beside its place, every file fsynced, renamed, the parent fsynced.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from treadle.checkpoint.tensors import pieces
from treadle.checkpoint.tree import Encoded
from treadle.core.errors import CheckpointError
from treadle.system.checksum import Piece
from treadle.system.files import discard, fsync, replace, write_file

FORMAT = 1


def folder_name(step: int) -> str:
    """Name of the folder of a step's checkpoint; names sort like numbers."""
    return f"step-{step:06d}"


def write_checkpoint(
    parent: Path, step: int, encoded: Mapping[str, Encoded], info: Mapping[str, Any], check: Callable[[], None] = lambda: None
) -> Path:
    """Write one checkpoint.

    Args:
        parent: the folder `checkpoints/`.
        step: optimizer steps done.
        encoded: the state of each tracked object by name, taken apart.
        info: JSON facts to find it by: step, best value.
        check: called now and then; what it raises ends the writing.

    Returns:
        its folder.

    Raises:
        CheckpointError: the files cannot be written. Older checkpoints are untouched.
    """
    place, beside = parent / folder_name(step), parent / f".{folder_name(step)}.tmp"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        parent.mkdir(exist_ok=True)  # and not what is above it: a run folder that is gone is to be noticed
        beside.mkdir()
        _write_files(beside, encoded, info, check)
        if place.exists():  # a damaged one of the same step, which a resume passed over
            discard(place)
        replace(beside, place)
    except OSError as error:
        older = "older checkpoints are untouched" if parent.is_dir() else "and the folder of older ones is gone"
        raise CheckpointError(f"cannot write the checkpoint {place}: {error.strerror or error}; {older}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # it is there still where something went wrong
    return place


def _write_files(folder: Path, encoded: Mapping[str, Encoded], info: Mapping[str, Any], check: Callable[[], None]) -> None:
    def write(name: str, content: Iterable[Piece]) -> dict[str, Any]:
        size, checksum = write_file(folder / name, _checked(content, check))
        return {"size": size, "sha256": checksum}

    files = {f"{name}.safetensors": write(f"{name}.safetensors", pieces(tensors)) for name, (_, tensors) in encoded.items() if tensors}
    trees = {name: tree for name, (tree, _) in encoded.items()}
    files["state.json"] = write("state.json", _json({"info": dict(info), "states": trees}))
    write("manifest.json", _json({"format": FORMAT, "files": files}))
    fsync(folder)


def _checked(content: Iterable[Piece], check: Callable[[], None]) -> Iterator[Piece]:
    for piece in content:
        check()
        yield piece


def _json(value: Any) -> list[bytes]:
    return [json.dumps(value).encode()]
