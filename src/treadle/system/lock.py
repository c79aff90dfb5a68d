"""One run folder, one writer: a lock that its holder's death opens, however it dies.

The kernel's lock decides. Beside it the file says who holds it (host, process and when that process began), for messages, and
for file systems that have no locks or only pretend to.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

_HELD: WeakSet[TextIO] = WeakSet()
# A forked worker would share the lock and hold it on for seconds after its parent was killed.
os.register_at_fork(after_in_child=lambda: [file.close() for file in _HELD])

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Held(Exception):
    """Somebody else holds the lock; the text says who."""


class Lock:
    """A lock file.

    Args:
        path: made where it is missing, and left there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def take(self) -> None:
        """Hold it until `release`, or the end of this process.

        Raises:
            Held: somebody else holds it.
            OSError: the file cannot be written.
        """
        file = open(self._path, "a+", encoding="utf-8")
        try:
            self._refuse_if_held(_read(file), by_kernel=_locked(file, fcntl.LOCK_EX))
            _write(file, {"host": socket.gethostname(), "process": os.getpid(), "began": began(os.getpid())})
        except BaseException:
            file.close()
            raise
        _HELD.add(file)
        self._file = file

    def release(self) -> None:
        """Let go of it."""
        if self._file is not None:
            if not self._file.closed:
                _write(self._file, None)
            self._file.close()
            self._file = None

    def is_held(self) -> bool:
        """Whether somebody holds it at this moment; nothing is changed by looking."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return _locked(file, fcntl.LOCK_SH, tries=1) is False or _lives(_read(file))
        except OSError:
            return False

    def _refuse_if_held(self, holder: dict[str, Any], by_kernel: bool | None) -> None:
        """Raise where somebody else holds it.

        Args:
            holder: whom the file names.
            by_kernel: whether the kernel gave it to us; None where it has no locks here.
        """
        named = f"process {holder.get('process', '?')} on {holder.get('host', 'another host')}" if holder else "another process"
        if by_kernel is False or (_lives(holder) and not (by_kernel and holder["process"] == os.getpid())):
            raise Held(named)
        if by_kernel is None and holder and holder.get("host") != socket.gethostname():
            raise Held(f"{named}, as far as can be told: this file system has no locks. If that run is not going on, delete {self._path}")


def began(process: int) -> str | None:
    """When a process began, as text that no other process with its number has; None where there is none.

    Example:
        >>> began(os.getpid()) == began(os.getpid()) != None
        True
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return None if Path("/proc/self/stat").exists() else _began_by_ps(process)
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # one that was killed and not yet buried is none


def _began_by_ps(process: int) -> str | None:
    try:
        found = subprocess.run(["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return None
    return found or None


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock file names is there: on this host, and the same one, not another that got its number."""
    process = holder.get("process")
    known = isinstance(process, int) and holder.get("began") is not None and holder.get("host") == socket.gethostname()
    return known and began(int(str(process))) == holder["began"]


def _locked(file: TextIO, kind: int, tries: int = 5) -> bool | None:
    """Whether the kernel gave us the lock; None where it has none here. Whoever only looks holds it for a moment: then again."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(0.01)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None
    return False


def _read(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.load(file))
    except (ValueError, TypeError):
        return {}


def _write(file: TextIO, holder: dict[str, Any] | None) -> None:
    os.ftruncate(file.fileno(), 0)
    if holder is not None:
        os.write(file.fileno(), json.dumps(holder).encode())
