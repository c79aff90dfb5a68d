"""Home: where a run lives: its folder, which no other run writes to, the config that holds there, its log, and the record of what made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from treadle.config.schema import Config, run_config
from treadle.core.errors import RunLocked
from treadle.core.when import Progress
from treadle.data.fingerprint import differences, fingerprint
from treadle.data.loader import Loader
from treadle.log.log import Log, default_writers
from treadle.log.writer import Writer
from treadle.provenance.record import Record
from treadle.system.folder import RunFolder
from treadle.system.numbers import numbered


def facts(status: str, reason: str, progress: Progress, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says of a moment: how the run is, where it is, and the schedules' values."""
    counters = {"steps": progress.steps, "samples": progress.samples, "epochs": progress.epochs}
    return {"status": status, "reason": reason, **counters, "duration": str(progress.duration), "values": dict(values)}


class Home:
    """The place of one run.

    Args:
        asked: the user's config; its run_dir may leave a number open.
        writers: further views of the journal.
        origin: what made the run, ``file:function``.
        accept_changes: go on where a run with another config, code or data was, or one that is over.

    Attributes:
        given: the user's config, with the folder's name in it.
        config: the `Config` in it.
        folder: the run folder.
        log: where rows go.
        fingerprints: of each dataset that was looked at, by name.
        record: what makes this run, from where its loop begins; None before.
    """

    def __init__(self, asked: Any, writers: Sequence[Writer], origin: str, accept_changes: bool) -> None:
        self._asked, self._writers, self._origin, self._accept_changes = asked, writers, origin, accept_changes
        self.fingerprints: dict[str, dict[str, Any]] = {}
        self.record: Record | None = None
        self._choose()

    def _choose(self) -> None:
        self.given, notes = numbered(self._asked)
        self.config: Config = run_config(self.given)
        self.folder = RunFolder(self.config.run_dir, self._origin)
        self.folder.notes += notes
        self.log = Log(self.folder.path, [*default_writers(self.config.log, self.config.machine.workers), *self._writers])

    def open(self) -> None:
        """Take the folder; a number that another run took since it was chosen is chosen again.

        Raises:
            RunFolderError: the folder is in use, or that of another run; see `RunFolder.open`.
        """
        while True:
            self._choose()
            try:
                return self.folder.open(self.given, self._accept_changes)
            except RunLocked:
                if run_config(numbered(self._asked)[0]).run_dir == self.config.run_dir:
                    raise  # it is this very run, and goes on elsewhere

    def note(self, facts: dict[str, Any], is_over: bool) -> None:
        """Say in `run.json` how things are: it is for people; training and resume do not need it."""
        if is_over and (journal := self.log.sum()) is not None:
            self.folder.files["metrics.jsonl"] = journal
        try:
            self.folder.write_record(facts)
        except OSError as error:
            self.log.say(f"warning: run.json cannot be written: {error.strerror}")

    def recorded(self, loader: Loader | None, device: torch.device, say: Callable[[str], None]) -> None:
        """Find out what makes this run, and compare it with what made it so far. Of a run that is over, nothing.

        Raises:
            RunChanged: what may change the result is different, and nobody accepts it.
        """
        if self.folder.done:
            return
        if loader is not None and not self.fingerprints:
            self.fingerprints = {"train": fingerprint(loader, self.config.seed)}
        self.record = Record(self.folder.path, say)
        self.record.take(self.given, device, self.fingerprints)
        if not self.folder.fresh:
            self.record.compare(self.given, differences, self._accept_changes)
