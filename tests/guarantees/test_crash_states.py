"""Crash consistency, proved and not argued: every folder that a crash can leave, at every file operation, goes on to the same end.

Here for two saves; `tests/campaign.py` does it for a whole run.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from guarantees.crash_run import every_crash, record
from guarantees.crashes import Disk, Operation, on_disk, recorded
from guarantees.remains import remains
from treadle.system.files import append_line, write_all

Undisturbed = tuple[list[Operation], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("crashes") / "run"
    log = record(folder)
    return log, remains(folder)


@pytest.mark.parametrize("background", [False, True])
def test_the_record_of_a_run_makes_its_folder_again(tmp_path: Path, background: bool) -> None:
    """So no operation was missed."""
    folder = tmp_path / "run"
    disk = Disk()
    for operation in record(folder, background=background):
        disk.do(operation)
    assert disk.killed().key() == on_disk(folder).key()


def save_of(step: int, log: list[Operation]) -> tuple[int, int]:
    """The first and the last operation of a save: until older checkpoints are removed and the next step begins."""
    name = f"checkpoints/.step-{step:06d}.tmp"
    begin = next(place for place, operation in enumerate(log) if operation.path == name)
    end = next(place for place in range(begin, len(log)) if log[place].path == "metrics.jsonl")
    return begin, end


def forgotten(*_: object) -> None:
    """What should have been done, and is not."""


def written_only(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    """What `write_file` does, but for its fsync."""
    content = b"".join(pieces)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    write_all(handle, content)
    os.close(handle)
    return len(content), hashlib.sha256(content).hexdigest()


MISTAKES: dict[str, tuple[str, Callable[..., Any]]] = {
    "the names in a checkpoint are not safe": ("treadle.checkpoint.save.fsync", forgotten),
    "no name is safe": ("treadle.system.files.fsync", forgotten),
    "no content is safe": ("treadle.checkpoint.save.write_file", written_only),
    "the journal is not safe before the checkpoint": ("treadle.log.log.Log.sync", forgotten),
    "an old checkpoint is removed file by file": ("treadle.checkpoint.store.discard", shutil.rmtree),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_save_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*MISTAKES[mistake])
        log = record(tmp_path / "run")
    whole = remains(tmp_path / "run")
    assert any(wrong for _, wrong in every_crash(tmp_path / "states", log, whole, save_of(6, log)))


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 6])
def test_a_run_goes_on_after_a_crash_at_any_operation_of_a_save(tmp_path: Path, undisturbed: Undisturbed, step: int) -> None:
    """Of the first that is more than the beginning, and of one that removes an older checkpoint."""
    log, whole = undisturbed
    found = list(every_crash(tmp_path, log, whole, save_of(step, log)))
    assert len(found) > 60
    assert [f"{where}: {wrong}" for where, wrong in found if wrong] == []


def test_a_run_goes_on_after_a_crash_while_what_made_it_is_written(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """And is recorded in the end."""
    log, whole = undisturbed
    begin = next(place for place, operation in enumerate(log) if operation.path == "provenance/.record.json.tmp")
    end = log.index(Operation("fsync", "provenance/history.jsonl")) + 2
    found = list(every_crash(tmp_path, log, whole, (begin, end)))
    assert len(found) > 20
    assert [f"{where}: {wrong}" for where, wrong in found if wrong] == []


def test_a_line_that_was_added_is_safe_with_the_name_of_its_file(tmp_path: Path) -> None:
    with recorded(tmp_path) as log:
        append_line(tmp_path / "file", "first")
        append_line(tmp_path / "file", "second")
    disk = Disk()
    for operation in log:
        disk.do(operation)
    assert disk.cut_off()["only what is safe"].files == {"file": b"first\nsecond\n"}
