"""The lock of a run folder: held by the living only, however its holder died, and where the file system has no locks."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

import treadle
from treadle.errors import RunLocked
from treadle.system.lock import Held, Lock, began

HOLD = """
import sys, time
from pathlib import Path
from treadle.system.lock import Lock
lock = Lock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock until it is killed."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_kernel_locks(monkeypatch):
    """A file system such as some that are mounted over a network."""

    def refuse(file, kind):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def written(path, **changes):
    """A lock file as this process would write it, but for the changes."""
    path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "began": began(os.getpid())} | changes))


def taken(path):
    lock = Lock(path)
    lock.take()
    lock.release()


def test_the_message_names_the_process_and_the_host(path, holder):
    with pytest.raises(Held, match=f"process {holder.pid} on {socket.gethostname()}"):
        taken(path)


def test_kill_9_opens_it_at_once(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads(path.read_text())["process"] == holder.pid, "it left its name"
    assert not Lock(path).is_held()
    taken(path)


def test_looking_changes_nothing(path, holder):
    before = path.read_text()
    assert Lock(path).is_held()
    assert path.read_text() == before


def test_a_lock_that_was_let_go_names_nobody(path):
    taken(path)
    assert path.read_text() == ""
    assert not Lock(path).is_held()


def test_without_kernel_locks_a_living_holder_is_respected(path, holder, no_kernel_locks):
    with pytest.raises(Held, match=f"process {holder.pid}"):
        taken(path)


def test_without_kernel_locks_a_living_holder_is_seen(path, holder, no_kernel_locks):
    assert Lock(path).is_held()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not Lock(path).is_held()


def test_without_kernel_locks_the_lock_of_one_that_was_killed_is_stale(path, holder, no_kernel_locks):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    taken(path)


def test_without_kernel_locks_one_that_was_killed_and_not_yet_buried_is_dead(path, holder, no_kernel_locks):
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    taken(path)


@pytest.mark.parametrize("left", [{"began": "another boot 123"}, {"began": None}, {"process": 2**22 + 1}, {"process": "x"}])
def test_another_process_that_got_the_number_of_the_holder_does_not_hold_it(path, no_kernel_locks, left):
    written(path, **left)
    taken(path)


@pytest.mark.parametrize("content", ["", "process 123", "[1]", "{}", '{"process"', "\0"])
def test_a_lock_file_that_cannot_be_read_names_nobody(path, no_kernel_locks, content):
    path.write_text(content)
    taken(path)


def test_without_kernel_locks_a_holder_on_another_host_is_respected_and_the_remedy_named(path, no_kernel_locks):
    written(path, host="elsewhere")
    with pytest.raises(Held, match=rf"process {os.getpid()} on elsewhere.*delete .*{path.name}"):
        taken(path)


def test_the_kernel_knows_better_than_a_name_from_another_host(path):
    written(path, host="elsewhere")
    taken(path)


def test_a_file_system_that_only_pretends_to_lock_is_seen_through(path, holder, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, kind: None)
    with pytest.raises(Held, match=f"process {holder.pid}"):
        taken(path)


def test_an_own_lock_that_was_never_let_go_is_no_obstacle(path):
    written(path)
    taken(path)


def test_without_kernel_locks_two_runs_of_one_process_are_refused(path, no_kernel_locks):
    first = Lock(path)
    first.take()
    with pytest.raises(Held):
        taken(path)
    first.release()
    taken(path)


def test_a_process_that_is_not_there_has_not_begun():
    assert began(2**22 + 1) is None


def test_a_run_names_who_holds_its_folder(path, holder):
    config = treadle.Config(run_dir=str(path.parent), duration="1 step", log=treadle.LogConfig(console="quiet", tensorboard=False))
    with pytest.raises(RunLocked, match=f"is in use by process {holder.pid} on .*; wait for it, or give another run_dir"), treadle.Run(config):
        pass
