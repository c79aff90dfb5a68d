"""The result: how a run ended, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        status: "finished", "stopped: <reason>" or "interrupted: <signal or time limit>".
        steps: optimizer steps done.
        epochs: epochs finished.
        metrics: the newest value of every logged number, such as ``"valid/accuracy"``.
        best: folder of the best checkpoint, None where config.checkpoint.best is not set.
        last: folder of the newest checkpoint.
        run_dir: the run folder.
        kept: folder of each checkpoint that a handler asked to be kept, by its label: of `EarlyStop` the name that it monitors.
    """

    status: str
    steps: int
    epochs: int
    metrics: dict[str, float]
    best: Path | None
    last: Path | None
    run_dir: Path
    kept: dict[str, Path] = field(default_factory=dict)
