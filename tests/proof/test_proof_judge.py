"""A run that was made again is the first one only where it also came as far, and ended as it did for the same reason."""

import json
import shutil
from pathlib import Path

import pytest

from treadle.proof.judge import holds_something, judged

CODE = Path("/tmp/treadle-rerun-xyz/code")
FAILED = {"status": "failed", "steps": 39, "reason": "ValueError: no /home/me/p/x.txt for <X at 0x7f01> in results/001"}


def left(name, **facts):
    folder = Path(name)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n')
    return folder


def verdict(before, now):
    return judged(left("run", **before), left("again", **now), CODE, ["results/{n}", "/tmp/runs/results/001"])


def test_the_same_failure_is_the_same_wherever_it_happened():
    found = verdict(FAILED, {**FAILED, "reason": f"ValueError: no {CODE}/home/me/p/x.txt for <X at 0x9> in /tmp/runs/results/001"})
    assert found.difference is None and holds_something(found.counts)


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({"steps": 7, "reason": "FileNotFoundError: x.csv"}, "the number of steps"),
        ({"reason": "FileNotFoundError: x.csv"}, "why it ended"),
        ({"reason": ""}, "why it ended"),
        ({"status": "finished"}, "how it ended"),
    ],
)
def test_a_failure_at_another_step_or_for_another_reason_is_another(other, where):
    assert verdict(FAILED, {**FAILED, **other}).difference.where == where


def test_a_run_that_was_to_go_on_has_come_as_far_and_its_reason_does_not_count():
    before = {"status": "running", "steps": 5, "reason": ""}
    found = verdict(before, {"status": "interrupted", "steps": 5, "reason": "step 5 of a directed run"})
    assert found.difference is None
    for name in ("run", "again"):
        shutil.rmtree(name)
    assert verdict(before, {"status": "failed", "steps": 4, "reason": "x"}).difference.where == "the number of steps"
