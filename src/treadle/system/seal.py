"""The seal of a run folder: checksums in `run.json` by which an edit by hand is seen. It keeps nobody from editing; it tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "seal"


def checksum(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_checksum(path: Path) -> str:
    """The same of what is in a file, read piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """A record with a seal on it.

    Args:
        record: what `run.json` says.
        files: checksums of other files of the folder, by name.
    """
    whole = {**record, "files": dict(files)}
    return {**whole, SEAL: _of(whole)}


def broken(folder: Path) -> list[str]:
    """Files of a run folder that are not as the run left them, such as ``["config.yaml"]``; none where nothing is sealed yet."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        seal = record.pop(SEAL, None)
        files = dict(record.get("files", {}))
    except (OSError, ValueError, TypeError, AttributeError):
        return ["run.json"]
    found = ["run.json"] if seal is not None and seal != _of(record) else []
    return [*found, *(name for name, expected in files.items() if _now(folder / name, expected) != expected)]


def _of(record: Mapping[str, Any]) -> str:
    return checksum(json.dumps(record, sort_keys=True).encode())


def _now(file: Path, expected: str) -> str:
    """What the checksum of a file is now; ``bytes:checksum`` speaks of its beginning only."""
    length, colon, _ = expected.partition(":")
    try:
        with open(file, "rb") as opened:
            content = opened.read(int(length)) if colon else opened.read()
    except (OSError, ValueError):
        return "missing"
    return f"{len(content)}:{checksum(content)}" if colon else checksum(content)
