"""Restoring: a checkpoint is verified before it is believed, and reading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from treadle.checkpoint.save import FORMAT
from treadle.checkpoint.tracked import plain_key
from treadle.checkpoint.tree import decode
from treadle.core.errors import CheckpointError, did_you_mean
from treadle.system.background import Job
from treadle.system.seal import file_checksum


def read_info(path: Path) -> dict[str, Any]:
    """The facts a checkpoint was saved with: step, best value. Verifies nothing."""
    return dict(json.loads((path / "state.json").read_text(encoding="utf-8"))["info"])


def verify(path: Path) -> set[str]:
    """Compare every file of a checkpoint with its manifest.

    Returns:
        the names of the files.

    Raises:
        CheckpointError: a file is missing, has another size or another content; the message names it.
    """
    manifest, files = _manifest(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: its format is {manifest.get('format')!r}, this version reads {FORMAT}")
    # Side by side: one core sums about 1 GB a second, and most of a checkpoint is in two files.
    jobs = [Job(partial(_compare, path / name, *expected)) for name, expected in files.items()]
    for job in jobs:
        job.start()
    for job in jobs:
        job.wait()
    for job in jobs:
        job.result()
    return set(files)


def _compare(file: Path, length: int, checksum: str, check: Callable[[], None]) -> None:
    check()
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: {file.name} is missing")
    try:
        if (size := file.stat().st_size) != length:
            raise CheckpointError(f"{file.parent}: {file.name} has {size} bytes, {length} were written")
        if file_checksum(file) != checksum:
            raise CheckpointError(f"{file.parent}: {file.name} is damaged, its checksum does not match")
    except OSError as error:
        raise CheckpointError(f"{file.parent}: {file.name} cannot be read: {error.strerror}") from None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states and the facts of a verified checkpoint.

    Returns:
        the state of each tracked object by name, and what `write_checkpoint` was given as info.

    Raises:
        CheckpointError: it is damaged.
    """
    files = verify(path)
    try:
        content = json.loads((path / "state.json").read_text(encoding="utf-8"))
        states = {name: decode(tree, _tensors(path, f"{name}.safetensors", files)) for name, tree in content["states"].items()}
        return states, dict(content["info"])
    except _UNREADABLE as error:  # its sums are right, so nobody damaged it: somebody made it
        raise CheckpointError(f"{path}: its content cannot be read ({type(error).__name__}: {error})") from None


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)


def _manifest(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """A manifest, and the size and the sum of each file that it names; only files beside it are named."""
    file = path / "manifest.json"
    if not file.exists():
        raise CheckpointError(f"{path}: manifest.json is missing, so it was not written to its end")
    try:
        if not file.is_file():
            raise ValueError
        manifest = json.loads(file.read_text(encoding="utf-8"))
        files = {name: (expected["size"], expected["sha256"]) for name, expected in manifest["files"].items()}
        if "state.json" not in files or any(Path(name).name != name for name in files):
            raise ValueError
    except _UNREADABLE:
        raise CheckpointError(f"{path}: manifest.json cannot be read") from None
    return manifest, files


def _tensors(path: Path, name: str, files: set[str]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / name) if name in files else {}


def load_weights(path: str | Path | None, model: nn.Module, *, name: str = "model", strict: bool = True) -> nn.Module:
    """Load the weights of a checkpoint into a model.

    Args:
        path: a checkpoint folder, such as ``result.best``, or a ``.safetensors`` file.
        model: where they go, in place.
        name: which tracked object of the checkpoint.
        strict: whether every key must be there, and no other.

    Returns:
        the model.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or its keys or shapes are not the model's; each is listed.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file(nn.Linear(2, 1).state_dict(), f"{tmp}/linear.safetensors")
        >>> load_weights(f"{tmp}/linear.safetensors", nn.Linear(2, 1))
        Linear(in_features=2, out_features=1, bias=True)
    """
    if path is None:
        raise CheckpointError("there is no checkpoint to load: result.best is None where config.checkpoint.best names no value; take result.last")
    state = {plain_key(key): value for key, value in _model_state(Path(path), name).items()}
    own = {plain_key(key): (key, value) for key, value in model.state_dict().items()}
    if not state.keys() & own.keys():
        state = {key.removeprefix("module."): value for key, value in state.items()}
        own = {key.removeprefix("module."): value for key, value in own.items()}
    if not strict and not state.keys() & own.keys():
        raise CheckpointError(f"{path} has nothing that {type(model).__name__} has: it holds {', '.join(list(state)[:3])}...")
    if problems := _differences(state, {key: value for key, (_, value) in own.items()}, strict):
        raise CheckpointError(f"{path} does not fit {type(model).__name__}:\n" + "\n".join(f"  {line}" for line in problems))
    model.load_state_dict({own[key][0]: value for key, value in state.items() if key in own}, strict=strict)
    return model


def _model_state(path: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint at {str(path)!r}")
    if (path / "checkpoints").is_dir():
        found = ", ".join(sorted(item.name for item in (path / "checkpoints").glob("step-*"))) or "none yet"
        raise CheckpointError(f"{str(path)!r} is a run folder; give one of its checkpoints, such as result.best ({path / 'checkpoints'}: {found})")
    states, _ = read_checkpoint(path)
    if name not in states:
        raise CheckpointError(f"{path} has no state named {name!r}{did_you_mean(name, states)}")
    state = states[name]
    if not isinstance(state, dict) or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise CheckpointError(f"{path}: the state of {name!r} is no model's: it does not hold tensors by name")
    return state


def _differences(given: dict[str, torch.Tensor], own: dict[str, torch.Tensor], strict: bool) -> list[str]:
    both = [key for key in own if key in given]
    lines = [
        f"{key}: the checkpoint has the shape {list(given[key].shape)}, the model {list(own[key].shape)}"
        for key in both
        if given[key].shape != own[key].shape
    ]
    if strict:
        unexpected = [key for key in given if key not in own]
        missing = [key for key in own if key not in given]
        lines += [f"{key} {list(own[key].shape)}: missing in the checkpoint{_near(key, unexpected)}" for key in missing]
        lines += [f"{key} {list(given[key].shape)}: not in the model{_near(key, missing)}" for key in unexpected]
    return lines


def _near(key: str, others: list[str]) -> str:
    hint = did_you_mean(key, others)
    return hint if "did you mean" in hint else ""
