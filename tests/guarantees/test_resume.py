"""A killed run that is started again ends with the bits of the run that was never interrupted."""

from pathlib import Path
from typing import Any

import pytest

from guarantees.program import run_program
from guarantees.remains import KILLED, remains, start, tensorboard_scalars

STEPS_AN_EPOCH = 7


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_program(1, str(folder), ["checkpoint.every=3 steps"])
    return remains(folder), tensorboard_scalars(folder)


# Before the first periodic checkpoint, in the middle of an epoch, on an epoch's last step, on a saving step, at the end.
@pytest.mark.parametrize("kill_at", [1, 5, STEPS_AN_EPOCH, 12, 3 * STEPS_AN_EPOCH])
def test_kill_9_loses_nothing(tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, Any]], kill_at: int) -> None:
    folder = tmp_path / "run"
    assert start(1, folder, f"--kill-at={kill_at}", "checkpoint.every=3 steps") == KILLED
    assert start(1, folder, "checkpoint.every=3 steps") == 0
    assert remains(folder) == undisturbed[0]
    assert tensorboard_scalars(folder) == undisturbed[1]


def test_it_may_go_on_with_another_number_of_workers(tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, Any]]) -> None:
    folder = tmp_path / "run"
    assert start(1, folder, "--kill-at=11", "checkpoint.every=3 steps", "machine.workers=2") == KILLED
    assert start(1, folder, "checkpoint.every=3 steps", "machine.workers=1") == 0
    assert remains(folder) == undisturbed[0]


@pytest.mark.parametrize("stop_at", [4, 5, STEPS_AN_EPOCH])
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], dict[str, Any]], stop_at: int
) -> None:
    """It saves at a step that has no checkpoint otherwise; its journal gets no row that the other has not."""
    folder = str(tmp_path / "run")
    assert run_program(1, folder, ["checkpoint.every=3 steps"], stop_at=stop_at).status == "interrupted: SIGTERM"
    assert run_program(1, folder, ["checkpoint.every=3 steps"]).status == "finished"
    assert remains(tmp_path / "run") == undisturbed[0]
    assert tensorboard_scalars(tmp_path / "run") == undisturbed[1]


def test_an_own_loop_resumes_exactly_too(tmp_path: Path) -> None:
    run_program(3, str(tmp_path / "a"), [])
    assert start(3, tmp_path / "b", "--kill-at=10") == KILLED
    run_program(3, str(tmp_path / "b"), [])
    assert remains(tmp_path / "a") == remains(tmp_path / "b")
