"""Digests of the weights at every checkpoint there ever was: `provenance/digests.jsonl` stays when the checkpoints go.

With them two runs can be compared step by step without keeping what they computed. A line is the checksums of a
checkpoint's tensors, as its manifest has them; so it costs nothing to know them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from treadle.system.files import append_line, make_folder, write_text

NAME = "provenance/digests.jsonl"
Digests = dict[int, dict[str, str]]
"""By step: the SHA-256 of each file of tensors, such as ``model.safetensors``."""


def add_digest(run_folder: Path, checkpoint: Path, step: int) -> None:
    """Note what is in a checkpoint that was just written.

    Args:
        run_folder: the run folder.
        checkpoint: the checkpoint's own.
        step: optimizer steps done.

    Raises:
        OSError: it cannot be written.
    """
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    sums = {name: file["sha256"] for name, file in manifest["files"].items() if name.endswith(".safetensors")}
    make_folder((run_folder / NAME).parent)
    append_line(run_folder / NAME, json.dumps({"step": step, "sha256": sums}), sync=False)


def read_digests(run_folder: Path) -> Digests:
    """The digests of a run, by step; a line that a crash tore, or that is none, is left out."""
    try:
        lines = (run_folder / NAME).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return {}
    return dict(found for line in lines if (found := _read(line)) is not None)


def cut_digests(run_folder: Path, last: int) -> None:
    """Forget those of later steps, which will be done again.

    Raises:
        OSError: the file cannot be replaced.
    """
    if not (run_folder / NAME).exists():
        return
    found = read_digests(run_folder)
    if any(step > last for step in found):
        write_text(run_folder / NAME, "".join(json.dumps({"step": step, "sha256": sums}) + "\n" for step, sums in found.items() if step <= last))


def _read(line: str) -> tuple[int, dict[str, str]] | None:
    try:
        row: Any = json.loads(line)
        return int(row["step"]), {str(name): str(value) for name, value in row["sha256"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
