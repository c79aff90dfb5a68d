"""The run folder: one run, one writer, never overwritten.

run.json        status, progress, reason
config.yaml     the complete resolved config
metrics.jsonl   the journal
checkpoints/    step-000500/ ...
best.json       the best checkpoints, where config.checkpoint.best is set
tensorboard/    a view of the journal
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from treadle.config.build import flatten, plain, to_dict
from treadle.config.loading import config_text, load_config
from treadle.config.schema import is_place
from treadle.config.yaml_file import read_yaml
from treadle.core.errors import ACCEPT, ConfigError, RunChanged, RunFinished, RunFolderError, RunLocked
from treadle.core.structure import same
from treadle.system.code import code_digest
from treadle.system.files import make_folder, write_json, write_text
from treadle.system.lock import Held, Lock
from treadle.system.seal import checksum, sealed

DONE = ("finished", "stopped")
"""Statuses after which a run does not go on by itself."""


class RunFolder:
    """The folder of one run, held by a lock from `open` to `close`.

    Args:
        path: the folder; made where it is missing.
        origin: what made the run, ``file:function``; empty where a script did.
    """

    def __init__(self, path: str | Path, origin: str = "") -> None:
        self._name, self.path, self._origin = str(path), Path(path).absolute(), origin
        self.fresh = True
        """Whether nothing in it has to be kept: it is new, or its run failed before its first step was done."""
        self.done = False
        """Whether the run in it has reached its end, with the very config that is asked for: there is nothing left to train."""
        self.notes: list[str] = []
        """What is odd in it."""
        self.choices: dict[str, Any] = {}
        """What was tried and chosen when the run was first started, by name."""
        self.files: dict[str, str] = {}
        """Checksums of files that stay as they are, for the seal."""
        self._lock = Lock(self.path / "lock")

    @cached_property
    def _code(self) -> str:
        """The code that the run is started with: what is edited while it goes on is not what it runs."""
        return code_digest()

    def open(self, config: Any, accept_changes: bool) -> None:
        """Take the folder for a run: lock it, and compare what is in it with what was asked for.

        Raises:
            RunFolderError: the folder cannot be written.
            RunLocked: another process holds it.
            RunFinished: the run in it is over, and had another config.
            RunChanged: the run in it was started with another config.
        """
        try:
            make_folder(self.path)
            self._lock.take()
        except Held as holder:
            raise RunLocked(f"the run folder {self._name!r} is in use by {holder}; wait for it, or give another run_dir") from None
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._compare(config, accept_changes)
        except BaseException:
            self.close()
            raise

    def is_unfinished(self, config: Any) -> bool:
        """Whether it holds a run of this very config that can go on."""
        record = self.record()
        if self._is_fresh(record) or record.get("status") in DONE:
            return False
        try:
            return not self._changes(config)
        except ConfigError:  # what it was cannot be read
            return False

    def has_same_code(self) -> bool:
        """Whether the run in it was started by the code that is imported now."""
        return self.record().get("code") == self._code

    def is_free(self) -> bool:
        """Whether nothing in it has to be kept, and nobody is about to begin there."""
        return self._is_fresh(self.record()) and not self.is_locked()

    def save_config(self, config: Any) -> None:
        """Write the resolved config, once it is certain that the run goes on with it.

        Raises:
            RunFolderError: the file cannot be written.
        """
        text = config_text(config)
        try:
            write_text(self.path / "config.yaml", text)
            self.files["config.yaml"] = checksum(text.encode())
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    def _unwritable(self, error: OSError) -> RunFolderError:
        return RunFolderError(f"cannot write to the run folder {self._name!r}: {error.strerror}; give another run_dir")

    def record(self) -> dict[str, Any]:
        """What `run.json` says; empty for a new run."""
        return read_record(self.path)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace `run.json`."""
        chosen = {"choices": self.choices} if self.choices else {}
        write_json(self.path / "run.json", sealed({**record, **chosen, "origin": self._origin, "code": self._code}, self.files))

    def is_locked(self) -> bool:
        """Whether a process writes to it at this moment; nothing is changed by looking."""
        return self._lock.is_held()

    def _compare(self, config: Any, accept_changes: bool) -> None:
        record = self.record()
        self.fresh = self._is_fresh(record)
        if record.get("status") == "unknown":
            self.notes.append("warning: run.json cannot be read; the run goes on from its checkpoints")
        if self.fresh:
            return
        self.choices = dict(record.get("choices") or {})
        try:
            changes = self._changes(config)
        except ConfigError as error:
            self.notes.append(f"warning: the config of the run so far cannot be read, so it was not compared: {error}")
            changes = []
        self.done = record.get("status") in DONE and not accept_changes
        if self.done and changes:
            raise RunFinished(
                f"the run in {self._name!r} is over: {record['status']} at step {record['steps']}"
                + (f" ({record['reason']})" if record.get("reason") else "")
                + f", with another config{_listed(changes)}\ngive another run_dir for a new run, or {ACCEPT} to go on with the new values"
            )
        if changes and not accept_changes:
            raise RunChanged(
                f"{self._name!r} holds a run with another config{_listed(changes)}\n"
                f"give another run_dir for a new run, or {ACCEPT} to go on with the new values"
            )

    def _is_fresh(self, record: dict[str, Any]) -> bool:
        begun = any((self.path / "checkpoints").glob("step-*[1-9]*"))  # a checkpoint of another step than 0
        return not begun and (not record or (record.get("status") == "failed" and not record.get("steps")))

    def _config_before(self, config: Any) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            return dict(flatten(to_dict(load_config(type(config), path))))
        except ConfigError:
            # Fields came or went since: compare the file as it was written.
            return dict(flatten(plain(read_yaml(path))))

    def _changes(self, config: Any) -> list[str]:
        """What differs from the config of the run so far.

        Raises:
            ConfigError: that cannot be read.
        """
        before = self._config_before(config)
        after = dict(flatten(to_dict(config)))
        return [
            f"  {key}: {before.get(key, '(absent)')!r} -> {after.get(key, '(absent)')!r}"
            for key in dict.fromkeys([*before, *after])
            if not same(before.get(key, "(absent)"), after.get(key, "(absent)")) and not is_place(config, key)
        ]


def read_record(path: Path) -> dict[str, Any]:
    """What the `run.json` of a run folder says; empty where there is none, ``{"status": "unknown"}`` where it is damaged."""
    try:
        return dict(json.loads((path / "run.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError):
        return {"status": "unknown"}


def _listed(changes: list[str]) -> str:
    return "".join(f"\n{line}" for line in changes)
