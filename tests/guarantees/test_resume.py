"""A killed run that is started again ends with the bits of the run that was never interrupted.

Here at chosen places, the same each time; `tests/campaign.py` draws hundreds of instants.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from guarantees.program import CASES, STEPS, STEPS_AN_EPOCH, Case
from guarantees.remains import KILLED, everything, first_difference, start
from guarantees.zygote import Zygote

Undisturbed = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What a case leaves that nobody kills."""

    @cache
    def left(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("undisturbed") / name
        assert zygote.run(name, folder) == 0, Path(f"{folder}.out").read_text()
        return everything(folder)

    return left


def deaths(case: Case) -> list[str]:
    """Where one run is killed, again and again: on the way to its first end of an epoch, going on, saving, at the end of an epoch."""
    first = f"--kill-at={STEPS_AN_EPOCH - 1}" if case.body == "play" else "--kill-in=evaluation:2"
    return [first, "--kill-in=resume:2", "--kill-in=save:14", f"--kill-at={2 * STEPS_AN_EPOCH}"]


@pytest.mark.parametrize("name", CASES)
def test_killed_wherever_it_was_a_run_loses_nothing(name: str, tmp_path: Path, zygote: Zygote, undisturbed: Undisturbed) -> None:
    folder = tmp_path / "run"
    for death in deaths(CASES[name]):
        assert zygote.run(name, folder, death) == KILLED, death
    assert zygote.run(name, folder) == 0, Path(f"{folder}.out").read_text()
    assert first_difference(undisturbed(name), everything(folder)) is None


# Before the first periodic checkpoint, in the middle of an epoch, on an epoch's last step, on a saving step, at the end.
@pytest.mark.parametrize("kill_at", [1, 5, STEPS_AN_EPOCH, 12, STEPS])
def test_kill_9_after_a_step(kill_at: int, tmp_path: Path, zygote: Zygote, undisturbed: Undisturbed) -> None:
    folder = tmp_path / "run"
    assert zygote.run("level-1", folder, f"--kill-at={kill_at}") == KILLED
    assert zygote.run("level-1", folder) == 0
    assert first_difference(undisturbed("level-1"), everything(folder)) is None


# Every other call that one save makes to the file system; it also removes an older checkpoint.
@pytest.mark.parametrize("call", range(28, 48, 2))
def test_kill_9_in_a_save(call: int, tmp_path: Path, zygote: Zygote, undisturbed: Undisturbed) -> None:
    folder = tmp_path / "run"
    assert zygote.run("tensors", folder, f"--kill-in=save:{call}") == KILLED
    assert zygote.run("tensors", folder) == 0
    assert first_difference(undisturbed("tensors"), everything(folder)) is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.elsewhere])
def test_it_may_go_on_elsewhere(name: str, tmp_path: Path, zygote: Zygote, undisturbed: Undisturbed) -> None:
    """With another number of workers to the same bits; cut into other micro-batches, to other roundings of the same samples and pixels."""
    folder, case = tmp_path / "run", CASES[name]
    assert zygote.run(name, folder, "--kill-at=11") == KILLED
    assert zygote.run(name, folder, str(case.elsewhere)) == 0, Path(f"{folder}.out").read_text()
    assert first_difference(undisturbed(name), everything(folder), rounding=case.rounding) is None


@pytest.mark.parametrize("stop_at", [4, 5, STEPS_AN_EPOCH])
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not_been(stop_at: int, tmp_path: Path, zygote: Zygote, undisturbed: Undisturbed) -> None:
    """It saves at a step that has no checkpoint otherwise; its journal gets no row that the other has not."""
    folder = tmp_path / "run"
    assert zygote.run("level-1", folder, f"--stop-at={stop_at}") == 0
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["reason"], record["steps"]) == ("interrupted", "SIGTERM", stop_at)
    assert zygote.run("level-1", folder) == 0
    assert first_difference(undisturbed("level-1"), everything(folder)) is None


def test_a_new_process_does_what_a_forked_one_does(tmp_path: Path, undisturbed: Undisturbed) -> None:
    folder = tmp_path / "run"
    assert start("level-3", folder, "--kill-at=10") == KILLED
    assert start("level-3", folder) == 0
    assert first_difference(undisturbed("level-3"), everything(folder)) is None
