"""The same command twice gives the same bits, in fresh processes."""

from pathlib import Path

import pytest

from guarantees.remains import remains, start, tensorboard_scalars


@pytest.mark.parametrize("level", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_same_command_twice_gives_the_same_bits(tmp_path: Path, level: int) -> None:
    for folder in ("a", "b"):
        assert start(level, tmp_path / folder) == 0
    assert remains(tmp_path / "a") == remains(tmp_path / "b")
    assert tensorboard_scalars(tmp_path / "a") == tensorboard_scalars(tmp_path / "b") != {}


def test_another_seed_gives_other_bits(tmp_path: Path) -> None:
    """The comparison above would see a difference."""
    for folder, seed in (("a", 7), ("b", 8)):
        assert start(1, tmp_path / folder, f"seed={seed}") == 0
    a, b = remains(tmp_path / "a"), remains(tmp_path / "b")
    assert a["states"] != b["states"] and a["journal"] != b["journal"] and a["steps"] != b["steps"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        assert start(1, tmp_path / str(workers), f"machine.workers={workers}") == 0
    assert remains(tmp_path / "0") == remains(tmp_path / "2")
