"""Lives: processes of a user's program, each directed by a stage, and none of them outlived by a child."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.core.errors import UsageError
from treadle.system.folder import DONE, read_record
from treadle.system.stage import VARIABLE, Stage

KILLED = -signal.SIGKILL
_TAIL = 2_000
_POLL_S = 0.02


@dataclass
class Life:
    """What came of a process.

    Args:
        code: its exit code; negative for a signal.
        seconds: how long it lived.
        events: what its runs reported, see `treadle.proof.attend.Report`.
        said: the end of what it printed.
        warnings: torch's words about operations without a deterministic implementation.
    """

    code: int
    seconds: float
    events: list[dict[str, Any]] = field(default_factory=list)
    said: str = ""
    warnings: tuple[str, ...] = ()

    def of(self, event: str, run: str | None = None) -> list[dict[str, Any]]:
        """Its events of one kind."""
        return [item for item in self.events if item.get("event") == event and (run is None or item.get("run") == run)]

    @property
    def last_words(self) -> str:
        """The line of the last error that it printed, or its last line."""
        lines = [line.strip() for line in self.said.strip().splitlines()]
        errors = [line for line in lines if re.match(r"(treadle|python|[\w.-]+\.py)[\w .-]*: |[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
        return (errors or lines or ["it printed nothing"])[-1]


class Program:
    """A command that can be started again and again.

    Args:
        command: the words of it.
        scratch: a folder for files that direct it.
        timeout_s: how long one process may take; None for ever.
        cwd: where it is started; here unless told.
    """

    def __init__(self, command: Sequence[str], scratch: Path, timeout_s: float | None = None, cwd: Path | None = None) -> None:
        self.command, self._scratch, self._timeout, self._cwd, self._number = list(command), scratch, timeout_s, cwd, 0

    def live(self, stage: Stage, variables: Mapping[str, str | None] | None = None) -> Life:
        """One process, from its start to its end, or to the end of its time.

        Args:
            stage: what it is told.
            variables: of its environment, besides those of this process; one that is None is taken away.

        Raises:
            UsageError: the command cannot be started, or took too long.
        """
        self._number += 1
        stem = self._scratch / f"process-{self._number:02d}"
        report, printed, where = stem.with_suffix(".report"), stem.with_suffix(".out"), stem.with_suffix(".json")
        Stage(**{**vars(stage), "report": str(report)}).save(where)
        began = time.monotonic()
        with open(printed, "wb") as output:
            told = {**os.environ, VARIABLE: str(where), **(variables or {})}
            code = self._run(output, {name: value for name, value in told.items() if value is not None})
        said = _end_of(printed)
        return Life(code, time.monotonic() - began, _lines(report), said, _deterministic_warnings(printed))

    def _run(self, output: Any, environment: dict[str, str]) -> int:
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                cwd=self._cwd,
            )
        except OSError as error:
            raise UsageError(f"cannot start {self.command[0]!r}: {error.strerror}") from None
        try:
            self._wait(process)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # loading processes whose parent is gone, and all of it after Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        return code

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until it has ended; it is not buried yet, so that its number still names its group."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise UsageError(f"{' '.join(self.command)!r} took more than {self._timeout:g} seconds and was ended; give it more: --timeout")
            time.sleep(_POLL_S)


@dataclass(frozen=True)
class Ended:
    """How a run in a stage's folder stands.

    Args:
        status: as its `run.json` says.
        steps: optimizer steps done.
    """

    status: str
    steps: int

    @property
    def is_over(self) -> bool:
        """Whether it reached its end."""
        return self.status in DONE


def runs_in(folder: Path) -> dict[str, Ended]:
    """The runs below a stage's folder, by their names, the first to begin first."""
    found = sorted(folder.rglob("run.json"), key=lambda path: (_birth(path.parent), str(path)))
    runs = {}
    for path in found:
        record = read_record(path.parent)
        runs[str(path.parent.relative_to(folder))] = Ended(str(record.get("status")), int(record.get("steps") or 0))
    return runs


def _birth(run: Path) -> float:
    try:
        return (run / "config.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _end_of(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().decode(errors="replace")


def _deterministic_warnings(path: Path) -> tuple[str, ...]:
    """What torch said of operations that have no deterministic implementation, each once."""
    found: dict[str, None] = {}
    with open(path, "rb") as file:
        for line in file:
            if b"does not have a deterministic implementation" in line:
                words = line.decode(errors="replace").partition("UserWarning: ")[2].split()
                found[" ".join(words[:1])] = None
    return tuple(found)
