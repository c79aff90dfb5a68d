"""`treadle explain`: what is printed, of which program, and that nothing is trained."""

import json
import sys
from pathlib import Path

import pytest

from treadle.cli.main import main

EXPERIMENT = """
import torch, treadle
from functools import partial
from torch import nn

def announce(run): raise AssertionError("nothing is trained")

class Watch:
    def on_evaluated(self, run): raise AssertionError("nothing is evaluated")

class Warns:
    def __call__(self, run): ...

class Stream(torch.utils.data.IterableDataset):
    def __iter__(self): raise AssertionError("must not be read")

def rows(count):
    return torch.zeros(count, 3), torch.zeros(count, 1)

QUIET = treadle.Config(run_dir="results/a", duration="3 epochs", batch_size=4, log=treadle.LogConfig(console="quiet", every="10 steps"),
                       checkpoint=treadle.CheckpointConfig(best="valid/loss"))

def experiment(config: treadle.Config = QUIET, data=None) -> treadle.Trainer:
    trainer = treadle.Trainer(
        lambda: nn.Linear(3, 1), nn.MSELoss(), rows(31) if data is None else data, valid=rows(5), config=config, handlers=[Watch()],
        optimizer=partial(torch.optim.SGD, lr=0.1), events=("seen",), schedules={"lr": treadle.schedules.linear(1.0, 0.0)},
    )
    trainer.on("epoch_started", every="2 epochs")(announce)
    trainer.on("step_finished", every="3 steps", first="20 steps")(partial(announce))
    trainer.on("step_finished", every="4 steps", once=True, when=announce)(Warns())
    trainer.on("seen", every="2 samples")(announce)
    return trainer

def batches(config: treadle.Config = QUIET) -> treadle.Trainer:
    trainer = experiment(config, treadle.Batches([rows(4)] * 5))
    trainer.on("step_finished", every="7 samples")(announce)
    return trainer

def stream(config: treadle.Config = QUIET) -> treadle.Trainer:
    return experiment(config, Stream())
"""
OWN = """
import torch, treadle

def main():
    config = treadle.Config(run_dir="results/own", duration="2 epochs", batch_size=8, checkpoint=treadle.CheckpointConfig(every="4 steps"))
    with treadle.Run(config) as run:
        model, optimizer = run.prepare(torch.nn.Linear(2, 1), torch.optim.SGD)
        run.track(model=model, optimizer=optimizer)
        run.on("step_finished", every="3 steps")(main)
        for step in run.steps((torch.zeros(50, 2), torch.zeros(50, 1))):
            raise AssertionError("no step is made")

main()
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "ex.py").write_text(EXPERIMENT)
    (tmp_path / "own.py").write_text(OWN)


def test_the_timeline_of_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ex.py"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "epoch 1 of a run of 3 epochs: steps 1 to 8, 31 samples in batches of 4"
    table = [line.split("\t") for line in lines]
    assert [row[:4] for row in table[:12]] == [
        ["when", "what", "condition", "at steps"],
        ["run begins", "checkpoint of step 0", "", "in a new run"],
        ["epoch_started", "announce", "every 2 epochs", "1"],
        ["body", "Trainer._standard_step", "each step", "1 to 8 (each)"],
        ["seen", "announce", "every 2 samples", "where run.fire('seen') says so"],
        ["step_finished", "announce", "every 3 steps, in the first 20 steps", "3, 6"],
        ["step_finished", "Warns", "every 4 steps, when=ex:announce, once in the run", "4, 8; the first of these where when= agrees"],
        ["step_finished", "evaluation of valid", "every 1 epoch, and at the end", "8"],
        ["evaluated", "Watch.on_evaluated", "each time", "8; and where a handler evaluates"],
        ["row", "a row of metrics.jsonl", "every 10 steps, and at the end", "not in this epoch"],
        ["checkpoint", "a checkpoint", "every 1 epoch, and at the end", "8; and where valid/loss is among the best 1"],
        ["schedules"],
    ]
    files = [row[4].rpartition(":") for row in table[2:9]]
    assert [Path(file).name for file, _, _ in files] == ["ex.py", "trainer.py", "ex.py", "ex.py", "ex.py", "validation.py", "ex.py"]
    text = EXPERIMENT.splitlines()
    assert text[int(files[0][2]) - 1].startswith("def announce") and "__call__" in text[int(files[4][2]) - 1]
    assert table[-1][:3] == ["lr", "1", "0.698925"]  # 28 of 93 samples are done when the last step is taken


def test_nothing_is_made(tmp_path: Path) -> None:
    assert main(["explain", "ex.py", "--json"]) == 0
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"ex.py", "own.py"}


def test_values_of_the_line_and_a_later_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ex.py:experiment", "duration=20 steps", "--epoch", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["title"].startswith("epoch 3 of a run of 20 steps: steps 17 to 20, 16 samples")
    assert told["notes"] == ["the run ends in it, at step 20"]
    steps = {(row["moment"], row["what"]): row["steps"] for row in told["rows"]}
    assert steps["epoch_started", "ex:announce"] == [17]
    assert steps["step_finished", "ex:announce"] == [18]
    assert steps["checkpoint", "a checkpoint"] == steps["row", "a row of metrics.jsonl"] == [20]


def test_an_epoch_that_the_run_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ex.py", "--epoch", "4"]) == 1
    assert "there is no epoch 4: the run has a duration of 3 epochs" in capsys.readouterr().err


def test_batches_do_not_say_how_many_samples_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ex.py:batches"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("epoch 1 of a run of 3 epochs: steps 1 to 5, batches as they come\n")
    assert "step_finished\tannounce\tevery 7 samples\tdepends on how many samples the batches hold\t" in out


def test_a_stream_of_unknown_length_has_an_order_and_no_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ex.py:stream", "schedules=0"]) == 1  # no key of the config
    capsys.readouterr()
    assert main(["explain", "ex.py:stream", "duration=100 steps"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("an epoch of unknown length, of a run of 100 steps\n")
    assert "body\tTrainer._standard_step\teach step\t\t" in out
    assert "this data does not say how long it is, so no steps can be told beforehand" in out
    assert "lr\t1\t\t" in out


def test_a_loop_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["explain", "--epoch", "2", "--", sys.executable, "own.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 2 of a run of 2 epochs: steps 8 to 14, 50 samples in batches of 8"
    assert lines[3].startswith("body\tthe body of your own loop\teach step\t8 to 14 (each)")
    assert lines[4] == "step_finished\tmain\tevery 3 steps\t9, 12\town.py:4"
    assert lines[6] == "checkpoint\ta checkpoint\tevery 4 steps, and at the end\t8, 12, 14\t"
    assert not (tmp_path / "results").exists()


def test_a_program_that_makes_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--", sys.executable, "-c", "pass"]) == 1
    assert "the program came to no run.steps(...) and no fit(), so nothing can be told; code 0: it printed nothing" in capsys.readouterr().err


def test_a_program_that_fails_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--", sys.executable, "-c", "raise KeyError('mine')"]) == 1
    assert "code 1: KeyError: 'mine'" in capsys.readouterr().err


def test_a_line_without_a_program_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 2
    assert "treadle explain: give a file with its values, or a command after --" in capsys.readouterr().err
