"""Two run folders are compared bit by bit, and the first difference is told with its step."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle
from treadle.proof.compare import compare, first_difference


def train(name: str, change: float = 0.0) -> Path:
    config = treadle.Config(run_dir=name, duration="6 steps", batch_size=4, log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"))

    def objective(model: nn.Module, batch: tuple[torch.Tensor]) -> torch.Tensor:
        return (model(batch[0]) ** 2).mean()

    trainer = treadle.Trainer(lambda: nn.Linear(2, 1), objective, (torch.ones(32, 2),), optimizer=torch.optim.SGD, config=config)

    @trainer.on("step_finished")
    def disturb(run: treadle.Run) -> None:
        if run.progress.steps == 3:
            with torch.no_grad():
                trainer.model.bias += change

    trainer.fit()
    return Path(name)


def test_equal_runs_do_not_differ() -> None:
    found = compare(train("a"), train("b"))
    assert found.difference is None
    assert found.counts["journal rows"] == 6
    assert found.counts["tensors"] >= 2
    assert len(found.weights) == 64


def test_the_first_step_that_shows_it_is_told() -> None:
    difference = first_difference(train("a"), train("b", change=1.0))
    assert difference is not None
    assert (difference.what, difference.step) == ("journal", 4)
    assert str(difference).startswith("'train/loss' in the journal at step 4: ")


def test_what_only_the_state_shows_is_told_by_its_name() -> None:
    one, other = train("a"), train("b", change=1e-3)
    for folder in (one, other):
        (folder / "metrics.jsonl").write_text("")
    difference = first_difference(one, other)
    assert difference is not None
    assert (difference.what, difference.step) == ("state", 6)
    assert difference.where in ("the state of model: weight", "the state of model: bias")


def test_a_witness_comes_before_everything_and_repeats_must_agree() -> None:
    one, other = train("a"), train("b")
    line = {"step": 2, "samples": 4, "ids": "x", "batch": "y", "loss": ["nan"], "weights": "z", "random": "r"}
    (one / "witness.jsonl").write_text(json.dumps(line) + "\n")
    (other / "witness.jsonl").write_text(json.dumps(line) + "\n{torn\n" + json.dumps({**line, "batch": "other"}) + "\n")
    difference = first_difference(one, other)
    assert difference is not None
    assert (difference.what, difference.step, difference.one, difference.other) == ("batch", 2, "y", "other")


@pytest.mark.parametrize("left", ["checkpoints", "metrics.jsonl"])
def test_what_is_missing_is_a_difference(left: str) -> None:
    import shutil

    one, other = train("a"), train("b")
    shutil.rmtree(other / left) if (other / left).is_dir() else (other / left).unlink()
    difference = first_difference(one, other)
    assert difference is not None
    assert difference.what == ("checkpoint" if left == "checkpoints" else "journal")


def test_checkpoints_that_somebody_removed_from_the_first_run_are_a_note_where_that_is_asked() -> None:
    import shutil

    one, other = train("a"), train("b")
    shutil.rmtree(one / "checkpoints/step-000006")
    found = compare(one, other, thinned=True)
    assert found.difference is None and found.counts["journal rows"] == 6 and found.weights == "" and len(found.notes) == 1
    shutil.rmtree(one / "checkpoints")
    assert compare(one, other, thinned=True).difference is None and compare(one, other).difference is not None
    assert compare(other, one, thinned=True).difference is not None  # the one that was made again has none, and that is one
