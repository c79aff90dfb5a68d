"""Crash consistency, proved and not argued: every folder that a crash can leave, at every file operation, goes on to the same end.

Here for two saves; `tests/campaign.py` does it for a whole run.
"""

from pathlib import Path
from typing import Any

import pytest

from guarantees.crash_run import every_crash, record
from guarantees.crashes import Disk, Operation, on_disk
from guarantees.remains import remains

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


@pytest.mark.parametrize("step", [2, 6])
def test_a_run_goes_on_after_a_crash_at_any_operation_of_a_save(tmp_path: Path, undisturbed: Undisturbed, step: int) -> None:
    """Of the first that is more than the beginning, and of one that removes an older checkpoint."""
    log, whole = undisturbed
    found = list(every_crash(tmp_path, log, whole, save_of(step, log)))
    assert len(found) > 60
    assert [f"{where}: {wrong}" for where, wrong in found if wrong] == []
