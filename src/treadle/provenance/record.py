"""The record of a run: everything that made it, in its folder.

    provenance/record.json      code, environment, config and where each value came from, data, command, seed
    provenance/code/            what git does not have: see `sources`
    provenance/history.jsonl    a line whenever the run is started, and when it ends
    provenance/until-000500/    the record that counted until that step, where somebody accepted another one

Nothing in here fails a run: what cannot be found out or written is said, and left out.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from treadle.config.asked import with_origins
from treadle.config.schema import is_place, run_config
from treadle.core.errors import ACCEPT, RunChanged
from treadle.provenance.differences import Differences, differences
from treadle.provenance.environment import environment
from treadle.provenance.read import read_history, read_provenance
from treadle.provenance.secrets import public, without_secrets
from treadle.provenance.sources import Kept, own_code
from treadle.system.files import append_line, discard, make_folder, replace, write_file, write_json
from treadle.system.seal import checksum

FORMAT = 1
Compare = Callable[[Any, Any], list[str]]


class Record:
    """The folder `provenance/` of a run.

    Args:
        run_folder: the run folder.
        say: told what a person should know.
    """

    def __init__(self, run_folder: Path, say: Callable[[str], None]) -> None:
        self._run_folder, self._folder, self._say = run_folder, run_folder / "provenance", say
        self._facts: dict[str, Any] = {}
        self._kept = Kept({})
        self._found = Differences()
        self._began = self._known = False
        self._unread = ""
        """Why the record of the run so far cannot be compared."""

    def take(self, config: Any, device: torch.device, data: Mapping[str, Any]) -> None:
        """Find out how things are now.

        Args:
            config: the user's own.
            device: what is computed on.
            data: the fingerprint of each dataset, by name.
        """
        try:
            self._kept = own_code()
            self._facts = {
                "format": FORMAT,
                "treadle": version("treadle"),
                "created": _now(),
                "seed": run_config(config).seed,
                "cwd": str(Path.cwd()),
                "command": command(),
                "config": _public(with_origins(config)),
                "code": self._kept.facts,
                "environment": environment(device),
                "data": dict(data),
            }
        except Exception as error:  # a strange machine is no reason not to train
            self._facts = {}
            self._say(f"warning: what made this run is not recorded: {type(error).__name__}: {error}")

    def compare(self, config: Any, data: Compare, accept_changes: bool) -> None:
        """Compare with the record that is there.

        Raises:
            RunChanged: what may change the result is different, and nobody accepts it.
        """
        before = read_provenance(self._run_folder)
        self._known = "config" in before
        if not self._known:
            self._unread = before.get("damaged", "there is none")
            return
        if not self._facts:
            return
        try:
            self._found = differences(before, self._facts, data, lambda key: is_place(config, key))
        except Exception as error:
            self._say(f"warning: the record of the run so far cannot be compared: {type(error).__name__}: {error}")
            return
        if self._found.changing and not accept_changes:
            lines = "".join(f"\n  {line}" for line in self._found.changing)
            raise RunChanged(
                f"{str(self._run_folder)!r} holds a run that was made by something else{lines}\n"
                f"make it as it was, give another run_dir for a new run, or {ACCEPT} to go on"
            )

    def begin(self, step: int, is_new: bool, accepted: Sequence[str] = ()) -> None:
        """Write what is not written yet, and a line of history.

        Args:
            step: optimizer steps that are done.
            is_new: whether nothing of a run before it in this folder counts any more.
            accepted: further differences that somebody accepted.
        """
        if not self._facts:
            return
        try:
            self._write(step, is_new)
            changes = {"accepted": [*self._found.changing, *accepted], "different": self._found.other}
            self._add("started", step, command=self._facts["command"], **{name: lines for name, lines in changes.items() if lines})
            self._began = True
        except Exception as error:  # a full disk, or a value of a config that JSON does not know
            self._say(f"warning: the record of the run cannot be written: {getattr(error, 'strerror', None) or error}")
        if self._unread and not is_new:
            self._say(f"warning: the record of what made the run so far cannot be read ({self._unread}), so nothing was compared with it")
        for lines, what in ((self._found.changing, "accepted: "), (self._found.other, "")):
            for line in lines:
                self._say(f"{what}{line}")
        for note in self._kept.facts.get("notes", ()):
            self._say(f"note: {note}")

    def sums(self) -> dict[str, str]:
        """The checksum of `record.json` by its name in the run folder, for the seal; empty where there is none."""
        with suppress(OSError):
            return {"provenance/record.json": checksum((self._folder / "record.json").read_bytes())}
        return {}

    def end(self, status: str, step: int) -> None:
        """Add how it ended."""
        if self._began:
            with suppress(OSError):  # it is the disk that ended it, then
                self._add("ended", step, status=status)

    def _write(self, step: int, is_new: bool) -> None:
        make_folder(self._folder)
        if is_new:
            (self._folder / "history.jsonl").unlink(missing_ok=True)
        if self._known and not self._found.changing:
            return
        if not is_new:
            self._put_aside(step)
        code, beside = self._folder / "code", self._folder / ".code.tmp"
        for old in (beside, code):
            if old.exists():
                discard(old)
        for name, content in self._kept.contents.items():
            make_folder((beside / name).parent)
            write_file(beside / name, [content])
        if beside.exists():
            replace(beside, code)
        write_json(self._folder / "record.json", self._facts)

    def _put_aside(self, step: int) -> None:
        """Keep what there is of the record that counted so far."""
        if not (self._folder / "record.json").exists():
            return
        aside = self._folder / f"until-{step:06d}"
        if aside.exists():  # two starts at the same step
            discard(aside)
        make_folder(aside)
        for name in ("code", "record.json"):  # record.json last: it says that a record is whole
            if (self._folder / name).exists():
                replace(self._folder / name, aside / name)

    def _add(self, event: str, step: int, **more: Any) -> None:
        line = {"event": event, "time": _now(), "host": socket.gethostname(), "pid": os.getpid(), "step": step, **more}
        append_line(self._folder / "history.jsonl", json.dumps(line))


def command() -> list[str]:
    """The command line of this process, without secrets."""
    return without_secrets([sys.executable or "python", *sys.orig_argv[1:]])


def accepted_changes(folder: Path) -> list[str]:
    """What was accepted on the way, with the step at which that was."""
    return [f"{line} (at step {start.get('step')})" for start in read_history(folder) for line in start.get("accepted", ())]


def _public(config: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    values = public({name: entry["value"] for name, entry in config.items()})
    return {name: {**entry, "value": values[name]} for name, entry in config.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
