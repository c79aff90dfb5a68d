"""The log of a run: values wait on their device until a row is due, then go to the journal and every writer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from treadle.config.schema import LogConfig
from treadle.core.errors import RunFolderError, UsageError
from treadle.core.structure import describe
from treadle.core.when import Progress
from treadle.log.console import Console
from treadle.log.journal import Journal, read_journal
from treadle.log.notebook import Notebook, in_notebook
from treadle.log.tensorboard import TensorBoard
from treadle.log.writer import COUNTERS, Row, Writer, is_clock
from treadle.system.cores import are_free
from treadle.system.transfer import to_host


class Log:
    """Rows of a run.

    Args:
        folder: the run folder.
        writers: views of the journal.
    """

    def __init__(self, folder: Path, writers: Sequence[Writer]) -> None:
        self._folder = folder
        self._writers = list(writers)
        self._journal: Journal | None = None  # none before the run begins, nor where it is over
        self._is_open = False
        self._rows: dict[int, Row] = {}  # by step, values still on their devices
        self.latest: dict[str, tuple[Any, int]] = {}
        """The newest fetched value of every name, with its step."""

    def open(self, length: int | None) -> None:
        """Cut the journal back to a length in bytes, and make every view anew from it.

        Args:
            length: None for a run that is over: the journal is left as it is, and only the views that a person watches are made.
        """
        path = self._folder / "metrics.jsonl"
        self._is_open = True
        self._journal = None if length is None else Journal(path, length)
        rows = self._readable(path)
        if self._journal is not None and length is not None and self._journal.length < length:
            self.say(f"warning: metrics.jsonl has {self._journal.length} bytes, the checkpoint was taken at {length}: rows are missing")
        for row in rows:
            self._remember(row)
        if length is None:
            self._writers = [writer for writer in self._writers if getattr(writer, "live", False)]
        for writer in list(self._writers):
            self._guarded(writer, "open", self._folder, iter(rows))

    def _readable(self, path: Path) -> list[Row]:
        """The rows that can be read; a damaged journal is no reason not to go on."""
        rows: list[Row] = []
        try:
            for row in read_journal(path):
                rows.append(row)
        except RunFolderError as error:
            self.say(f"warning: {error}; the views show the rows before it")
        return rows

    def add(self, progress: Progress, values: Mapping[str, Any]) -> None:
        """Add values to the row of a step, as it is when it is done. Nothing is fetched.

        Raises:
            UsageError: a name is no text, or one that every row has.
        """
        step = progress.steps
        row = self._rows.get(step)
        if row is None:
            row = self._rows[step] = {"step": step, "epoch": progress.epoch, "samples": progress.samples, "wall": time.time()}
        for name, value in values.items():
            if not isinstance(name, str) or name in COUNTERS:
                raise UsageError(f"a value cannot be logged as {name!r}: every row has {', '.join(COUNTERS)} by itself")
            row[name] = _kept(name, value)

    def waiting(self) -> list[Any]:
        """What waits on the device, for a copy that others share."""
        return [row[name] for row, name in self._on_device()]

    def fetched(self, numbers: list[Any]) -> None:
        """Take what `waiting` gave, brought to the host."""
        for (row, name), value in zip(self._on_device(), numbers, strict=True):
            row[name] = value

    def _on_device(self) -> list[tuple[Row, str]]:
        return [(row, name) for row in self._rows.values() for name, value in row.items() if isinstance(value, torch.Tensor)]

    def flush(self) -> None:
        """Fetch all waiting values in one copy, and write their rows."""
        self.fetched(to_host(self.waiting()))
        rows, self._rows = list(self._rows.values()), {}
        for row in sorted(rows, key=lambda row: row["step"]):
            self._remember(row)
            self._write(row)

    def fetch(self, name: str, step: int | None = None) -> Any:
        """The newest value of a name, fetched if it still waits.

        Args:
            name: what was logged.
            step: only a value of this step counts; any does unless told.

        Returns:
            the value; None where there is none.
        """
        waiting = [step] if step is not None else sorted(self._rows, reverse=True)
        for at in waiting:
            if name in self._rows.get(at, ()):
                return to_host([self._rows[at][name]])[0]
        value, at = self.latest.get(name, (None, -1))
        return value if step is None or at == step else None

    def numbers(self) -> dict[str, float]:
        """The newest value of every name that is one number, without those that only a clock gives."""
        return {name: float(value) for name, (value, _) in self.latest.items() if isinstance(value, (int, float)) and not is_clock(name)}

    def names(self) -> set[str]:
        """Every name that was logged so far."""
        return {name for row in self._rows.values() for name in row} - set(COUNTERS) | set(self.latest)

    def tick(self, progress: Progress, loss: float, left: float | None, doing: str) -> None:
        """Tell the writers that show progress where the run is, how many seconds are left, and what else is being done."""
        rate = self.latest.get("throughput/samples_per_s", (None, 0))[0]
        for writer in list(self._writers):
            if hasattr(writer, "tick"):
                self._guarded(writer, "tick", progress, loss, rate, left, doing)

    def say(self, text: str) -> None:
        """Tell the writers that show text, such as the console."""
        for writer in list(self._writers):
            if hasattr(writer, "say"):
                self._guarded(writer, "say", text)

    def settled(self) -> int:
        """Write what waits, and say how long the journal is then, in bytes.

        Raises:
            OSError: some of it still waits.
        """
        self.flush()
        return self._journal.settled() if self._journal else 0

    def sum(self) -> str | None:
        """Length and checksum of the journal with every row so far; None where there is none, or it cannot be written.

        See `Journal.sum`.
        """
        with suppress(OSError):
            self.settled()
            return self._journal.sum if self._journal is not None else None
        return None

    def sync(self) -> None:
        """Make the journal survive a power cut; may be called from another thread."""
        if self._journal is not None:
            self._journal.sync()

    def close(self) -> None:
        """Write what waits, and end every writer."""
        if not self._is_open:
            return
        self.flush()
        if self._journal is not None:
            try:
                self._journal.close()
            except OSError as error:
                self.say(f"warning: metrics.jsonl cannot be written ({error.strerror})")
        for writer in list(self._writers):
            self._guarded(writer, "close")

    def _write(self, row: Row) -> None:
        try:
            if self._journal is not None:
                self._journal.write(row)
        except OSError as error:
            self.say(f"warning: metrics.jsonl cannot be written ({error.strerror}); the rows wait in memory")
        for writer in list(self._writers):
            self._guarded(writer, "write", row)

    def _remember(self, row: Row) -> None:
        for name, value in row.items():
            if name not in COUNTERS:
                self.latest[name] = (value, row["step"])

    def _guarded(self, writer: Any, method: str, *args: Any) -> None:
        """Call a writer; one that raises is reported and dropped, and the run goes on."""
        try:
            getattr(writer, method)(*args)
        except Exception as error:
            self._writers.remove(writer)
            text = f"warning: the writer {type(writer).__name__} raised {type(error).__name__}: {error}; the run goes on without it"
            self.say(text)
            if not any(hasattr(other, "say") for other in self._writers):
                with suppress(OSError):
                    print(text, file=sys.stderr)


def _kept(name: str, value: Any) -> Any:
    """A copy of a value, which may change before it is written.

    Raises:
        UsageError: it can never be written as JSON.
    """
    if isinstance(value, torch.Tensor) and not value.is_complex():
        return value.detach().clone()
    if value is None or type(value) in (bool, int, float, str):
        return value
    try:
        return json.loads(json.dumps(value.tolist() if hasattr(value, "tolist") else value))
    except (TypeError, ValueError):
        raise UsageError(
            f"{name!r} cannot be logged: a row holds numbers, texts, tensors, arrays, and lists of them, not {describe(value)}"
        ) from None


def default_writers(config: LogConfig, workers: int | str = 0) -> list[Writer]:
    """The writers that a config asks for.

    Args:
        config: that of the log.
        workers: value of `machine.workers`: more of them are advised only where cores are free.

    Raises:
        ConfigError: TensorBoard is asked for and not installed.
    """
    wants_tensorboard = TensorBoard.installed() if config.tensorboard == "auto" else config.tensorboard
    free = are_free(workers)
    console = Notebook(free) if config.console in ("auto", "rich") and in_notebook() else Console(config.console, free)
    return [console, *([TensorBoard()] if wants_tensorboard else [])]
