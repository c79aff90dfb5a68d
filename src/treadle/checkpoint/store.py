"""The checkpoints of a run: saved, found again, and cleaned up."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from treadle.checkpoint.keep import Record, best_first, kept
from treadle.checkpoint.restore import read_checkpoint, read_info
from treadle.checkpoint.save import folder_name, write_checkpoint
from treadle.config.schema import CheckpointConfig
from treadle.core.errors import CheckpointError
from treadle.system.files import write_json


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Args:
        run_folder: the run folder.
        config: what to keep.
    """

    def __init__(self, run_folder: Path, config: CheckpointConfig) -> None:
        self._run_folder, self._folder, self._config = run_folder, run_folder / "checkpoints", config
        self._records: dict[int, Record] = {}
        self._resumed_from: tuple[int, ...] = ()

    def restore(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The states of the newest checkpoint that is whole; None where the run has none yet.

        Args:
            say: told about each damaged one that is passed over.

        Raises:
            CheckpointError: there are some, and none of them is whole.
        """
        found = sorted((path for path in self._folder.glob("step-*") if path.is_dir()), key=_step, reverse=True)
        for path in found:
            try:
                states, _ = read_checkpoint(path)
            except CheckpointError as error:
                wrong = str(error)
                say(f"warning: {wrong}; trying the one before")
                continue
            self._resumed_from = (_step(path),)
            self._records = {r.step: r for p in found if _step(p) <= _step(path) if (r := _record(p, self._config.best)) is not None}
            return states
        if found:
            raise CheckpointError(f"no checkpoint in {self._folder} is whole ({wrong}); to start anew, give another run_dir")
        return None

    def save(self, step: int, states: Mapping[str, Any], value: float | None) -> Path:
        """Write a checkpoint, then remove those that need not stay.

        Args:
            step: optimizer steps done.
            states: the state of each tracked object.
            value: the value that says which is best, where it was measured at this step.

        Raises:
            CheckpointError: it cannot be written; older ones are untouched.
        """
        path = write_checkpoint(self._folder, step, states, {"step": step, "value": value, "best": self._config.best})
        self._records[step] = Record(step, value)
        self._clean()
        return path

    def has(self, step: int) -> bool:
        """Whether a whole checkpoint of this step is there."""
        return step in self._records

    def improves(self, value: float | None) -> bool:
        """Whether a value would be among the best that stay."""
        if value is None:
            return False
        new = Record(sys.maxsize, value)  # the latest of all: an equal value is no improvement
        return new in self._ranked(new)

    def _ranked(self, *more: Record) -> list[Record]:
        """The best that stay, the best first."""
        return best_first([*self._records.values(), *more], self._config.mode)[: self._config.keep_best]

    @property
    def best(self) -> Path | None:
        """Folder of the best checkpoint; None where no best value was measured."""
        ranked = self._ranked()
        return self._folder / folder_name(ranked[0].step) if ranked else None

    @property
    def last(self) -> Path | None:
        """Folder of the newest checkpoint."""
        return self._folder / folder_name(max(self._records)) if self._records else None

    def _clean(self) -> None:
        stay = kept(self._records.values(), self._config.keep_last, self._config.keep_best, self._config.mode, self._resumed_from)
        for step in set(self._records) - stay:
            del self._records[step]
            shutil.rmtree(self._folder / folder_name(step), ignore_errors=True)
        if self._config.best is not None:
            rows = [{"step": r.step, "value": r.value, "checkpoint": f"checkpoints/{folder_name(r.step)}"} for r in self._ranked()]
            try:
                write_json(self._run_folder / "best.json", {"name": self._config.best, "mode": self._config.mode, "best": rows})
            except OSError as error:
                raise CheckpointError(f"cannot write best.json: {error.strerror}; the checkpoints themselves are there") from error


def _step(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _record(path: Path, best: str | None) -> Record | None:
    try:
        info = read_info(path)
        return Record(int(info["step"]), info["value"] if info["best"] == best else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
