"""The checkpoints of a run: saved while training goes on, found again, and cleaned up."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from treadle.checkpoint.digests import add_digest, cut_digests
from treadle.checkpoint.keep import Record, best_first, kept
from treadle.checkpoint.restore import read_checkpoint, read_info
from treadle.checkpoint.save import folder_name, write_checkpoint
from treadle.checkpoint.snapshot import Place, Snapshots
from treadle.checkpoint.tree import Encoded, encode
from treadle.config.schema import CheckpointConfig
from treadle.core.errors import CheckpointError, UsageError
from treadle.core.when import Duration, Progress
from treadle.system.background import Cancelled, Job
from treadle.system.files import discard, write_json


@dataclass
class _Writing:
    """A checkpoint on its way to the disk, and which steps stay once it is there."""

    record: Record
    labels: dict[str, int]
    stay: set[int]
    job: Job[list[str]]


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Args:
        run_folder: the run folder.
        config: what to keep.
        say: told what a person should know.
    """

    def __init__(self, run_folder: Path, config: CheckpointConfig, say: Callable[[str], None]) -> None:
        self._run_folder, self._folder, self._config, self._say = run_folder, run_folder / "checkpoints", config, say
        self._keep_every = None if config.keep_every is None else Duration.parse(config.keep_every)
        self._records: dict[int, Record] = {}
        self._labels: dict[str, int] = {}
        self.asked: set[str] = set()
        """Labels that the checkpoint of the current step shall have, see `Run.keep`."""
        self._resumed_from: tuple[int, ...] = ()
        self._every = Duration.parse(config.every)
        self._snapshots = Snapshots()
        self._prepared = False
        self._writing: _Writing | None = None
        self._spent = 0.0

    # --- finding ---

    def restore(self) -> dict[str, Any] | None:
        """The states of the newest checkpoint that is whole; None where the run has none yet. Nothing is changed.

        Raises:
            CheckpointError: there are some, and none of them is whole.
        """
        found = sorted((path for path in self._folder.glob("step-*") if path.is_dir()), key=_step, reverse=True)
        for path in found:
            try:
                states, info = read_checkpoint(path)
            except CheckpointError as error:
                wrong = str(error)
                self._say(f"warning: {wrong}; trying the one before")
                continue
            self._resumed_from, self._labels = (_step(path),), dict(info.get("kept", {}))
            self._records = {r.step: r for p in found if _step(p) <= _step(path) if (r := self._record(p)) is not None}
            return states
        if found:
            raise CheckpointError(f"no checkpoint in {self._folder} is whole ({wrong}); to start anew, give another run_dir")
        return None

    def tidy(self) -> None:
        """Bring the folder into order after a crash: nothing is left of a killed save, nor what need not stay, and `best.json` is right.

        A damaged checkpoint is left alone: what cannot be read today may be read tomorrow.
        """
        for left in self._folder.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            cut_digests(self._run_folder, max(self._records, default=0))
        stay = self._kept(list(self._records.values()), self._labels)
        for note in self._clean(stay, lambda: None):
            self._say(note)
        self._records = {step: record for step, record in self._records.items() if step in stay}

    def _record(self, path: Path) -> Record | None:
        try:
            info = read_info(path)
            return Record(int(info["step"]), info["value"] if info["best"] == self._config.best else None, self._milestone(info.get("progress", {})))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _milestone(self, counters: dict[str, int]) -> int:
        return 0 if self._keep_every is None else self._keep_every.count(Progress(self._keep_every, **counters))

    # --- saving ---

    def prepare(self, progress: Progress, tensors: Callable[[], Iterable[torch.Tensor]]) -> None:
        """Have memory made ready for the first copy, once, where one will fall due before the end: the last checkpoint needs none.

        Args:
            progress: where the run is, after a step at least: only then is there an optimizer's state.
            tensors: gives what will be copied, as far as known.
        """
        if self._prepared or not self._config.background or not progress.fraction:
            return
        due = self._every.amount(progress)
        if math.floor(due) + 1 < due / progress.fraction:
            self._prepared = True
            self._snapshots.reserve(tensors())

    def ask(self, label: str, step: int | None) -> None:
        """Have the checkpoint of a step saved and kept under a label, until another step has the label.

        Args:
            label: any text.
            step: the current one; None where there is none yet.

        Raises:
            UsageError: there is none, or its checkpoint was saved before.
        """
        if not isinstance(label, str) or not label:
            raise UsageError(f"keep: a label is a text, such as 'best', got {label!r}")
        if step is None or self.has(step):
            why = "the loop has not begun" if step is None else f"the checkpoint of step {step} is there already"
            raise UsageError(f"keep({label!r}): {why}; ask in the body of the loop, or in a handler of step_finished or evaluated")
        self.asked.add(label)

    def take_apart(self, states: Mapping[str, Any], weights: Set[Place], wait: bool) -> tuple[dict[str, Encoded], Set[Place]]:
        """The states of tracked objects as `begin` wants them.

        Args:
            states: the state of each, by name.
            weights: where floating tensors lie that shall be looked at on the way.
            wait: whether nothing of the states changes until it has settled; else a snapshot of them is taken.

        Returns:
            the states, and those of the weights that were found finite: none where nothing is copied.

        Raises:
            CheckpointError: a state cannot be stored.
        """
        if wait:
            return {name: encode(state, name) for name, state in states.items()}, frozenset()
        assert self._writing is None, "what is being written is the snapshot before"
        self._prepared = True
        return self._snapshots.take(states, weights)

    def begin(
        self,
        progress: Progress,
        encoded: Mapping[str, Encoded],
        value: float | None,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to save; `settle` says how that ended.

        Args:
            progress: where the run is.
            encoded: the state of each tracked object, from `take_apart`.
            value: the value that says which is best, where it was measured at this step.
            before: what has to be on the disk before the checkpoint is; called from the writing thread.
            after: called from there once the checkpoint is safe.
        """
        assert self._writing is None, "one at a time"
        counters = {name: getattr(progress, name) for name in ("steps", "samples", "epochs", "into_epoch", "epoch_size")}
        labels = self._labels | dict.fromkeys(self.asked, progress.steps)
        self.asked.clear()
        info = {"step": progress.steps, "value": value, "best": self._config.best, "progress": counters, "kept": labels}
        record = Record(progress.steps, value, self._milestone(counters))
        stay = self._kept([*self._records.values(), record], labels)

        def write(check: Callable[[], None]) -> list[str]:
            before()
            place = write_checkpoint(self._folder, record.step, encoded, info, check)
            with suppress(OSError):  # it is for comparisons only
                add_digest(self._run_folder, place, record.step)
            return self._clean(stay, after)

        self._writing = _Writing(record, labels, stay, Job(write))
        self._writing.job.start()

    @property
    def written(self) -> bool:
        """Whether a write has come to its end, good or bad, and `settle` has not looked yet."""
        return self._writing is not None and self._writing.job.done

    def settle(self, must: bool = False) -> bool:
        """Wait for what is being written, and say what went wrong with it; whether all is well.

        Args:
            must: whether the checkpoint must be there.

        Raises:
            CheckpointError: it could not be written, and must be there; older ones are untouched.
        """
        writing = self._writing
        if writing is None:
            return True
        writing.job.wait()  # this may be interrupted: it is still being written then
        try:
            notes = writing.job.result()
            stay = {*self._records, writing.record.step} if notes else writing.stay
            records = self._records | {writing.record.step: writing.record}
            self._records, self._labels = {step: record for step, record in records.items() if step in stay}, writing.labels
        except (CheckpointError, OSError) as error:
            return self.not_saved(writing.record.step, error, must)
        except Cancelled:
            return False
        finally:
            self._writing = None
        self._spent += writing.job.seconds
        for note in notes:
            self._say(note)
        return True

    def not_saved(self, step: int, error: Exception, must: bool) -> bool:
        """A checkpoint cannot be written: report it, and the run goes on, unless it must be there.

        Raises:
            CheckpointError: it must.
        """
        self.asked.clear()
        if must:
            raise CheckpointError(f"step {step} cannot be saved: {error}") from error
        self._say(f"warning: no checkpoint of step {step}: {error}; the run goes on")
        return False

    def spent(self) -> float:
        """Seconds for which checkpoints were being written since the last call."""
        spent, self._spent = self._spent, 0.0
        return spent

    def cancel(self) -> None:
        """Do not wait for a long write to end."""
        if self._writing is not None:
            self._writing.job.cancel()

    def close(self) -> None:
        """End what is being written, and let go of the memory for copies."""
        self.cancel()
        self.settle()
        self._snapshots.close()

    def _clean(self, stay: set[int], after: Callable[[], None]) -> list[str]:
        """What follows a save. In this order, so that nothing that is named anywhere is missing, whenever it is cut short."""
        notes = []
        for name, write in (("best.json", self._write_best), ("run.json", after)):
            try:
                write()
            except OSError as error:
                notes.append(f"warning: {name} cannot be written: {error.strerror or error}; the checkpoints themselves are there")
        if notes:  # they still name older ones, which stay until the next save
            return notes
        for step in set(self._records) - stay:
            with suppress(OSError):  # what cannot be removed does no harm
                discard(self._folder / folder_name(step))
        return notes

    def _kept(self, records: list[Record], labels: Mapping[str, int]) -> set[int]:
        protected = (*self._resumed_from, *labels.values())
        return kept(records, self._config.keep_last, self._config.keep_best, self._config.mode, protected)

    def _write_best(self) -> None:
        if self._config.best is not None:
            rows = [{"step": r.step, "value": r.value, "checkpoint": f"checkpoints/{folder_name(r.step)}"} for r in self._first(self._all())]
            write_json(self._run_folder / "best.json", {"name": self._config.best, "mode": self._config.mode, "best": rows})

    # --- what there is; a checkpoint that is being written counts until that fails ---

    def _all(self) -> list[Record]:
        return [*self._records.values(), *([self._writing.record] if self._writing is not None else [])]

    def has(self, step: int) -> bool:
        """Whether a whole checkpoint of this step is there."""
        return any(record.step == step for record in self._all())

    def improves(self, value: float | None) -> bool:
        """Whether a value would be among the best that stay."""
        if value is None:
            return False
        new = Record(sys.maxsize, value)  # the latest of all: an equal value is no improvement
        if new not in self._first([*self._all(), new]) and new in self._first([*self._records.values(), new]):
            self.settle()  # only one that is on its way is better: whether it comes to be there decides, and not how fast the disk is
        return new in self._first([*self._all(), new])

    def _first(self, records: list[Record]) -> list[Record]:
        """The best that stay of some, the best first."""
        return best_first(records, self._config.mode)[: self._config.keep_best]

    @property
    def best(self) -> Path | None:
        """Folder of the best checkpoint; None where no best value was measured."""
        ranked = self._first(self._all())
        return self._folder / folder_name(ranked[0].step) if ranked else None

    @property
    def kept(self) -> dict[str, Path]:
        """Folder of the checkpoint under each label; one whose checkpoint is gone is left out."""
        labels = self._labels if self._writing is None else self._writing.labels
        return {label: self._folder / folder_name(step) for label, step in labels.items() if self.has(step)}

    @property
    def places(self) -> dict[str, Any]:
        """Where the best, the newest and those under a label are, from the run folder."""
        best, last = ((place and str(place.relative_to(self._run_folder))) for place in (self.best, self.last))
        return {"best": best, "last": last, "kept": {label: str(place.relative_to(self._run_folder)) for label, place in self.kept.items()}}

    @property
    def last(self) -> Path | None:
        """Folder of the newest checkpoint."""
        found = self._all()
        return self._folder / folder_name(max(record.step for record in found)) if found else None


def _step(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1
