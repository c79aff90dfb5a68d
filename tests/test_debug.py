"""Debug modes: the whole line in a few steps, and nothing left behind."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import treadle
from treadle.errors import CheckpointError
from treadle.metrics import Accuracy

ADAM = partial(torch.optim.Adam, lr=0.01)


def data(length: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(length, 8, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.sum(1) > 0).long()


def config(debug: str, **given: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": "results/{n}", "duration": "50 epochs", "batch_size": 16, "debug": debug} | given)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))


class Counted:
    """A handler that sees what happens."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_epoch_finished(self, run: treadle.Run) -> None:
        self.seen.append(f"epoch at {run.progress.steps}")

    def on_evaluated(self, run: treadle.Run) -> None:
        self.seen.append(f"evaluated at {run.progress.steps}")

    def on_checkpoint_saved(self, run: treadle.Run) -> None:
        self.seen.append(f"saved at {run.progress.steps}")


@pytest.mark.parametrize(
    ("debug", "steps", "seen"),
    [
        ("one batch", 1, ["evaluated at 1", "epoch at 1", "saved at 1"]),
        ("6 steps", 6, ["saved at 3", "evaluated at 6", "epoch at 6", "saved at 6"]),
        ("30 steps", 30, ["evaluated at 13", "epoch at 13", "saved at 15", "evaluated at 26", "epoch at 26", "evaluated at 30", "saved at 30"]),
    ],
)
def test_train_validate_checkpoint_and_load_in_a_few_steps(debug: str, steps: int, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    events = Counted()
    result = treadle.train(
        net, nn.CrossEntropyLoss(), data(), valid=data(300), optimizer=ADAM, metrics={"accuracy": Accuracy()}, config=config(debug), handlers=[events]
    )
    assert (result.status, result.steps) == ("finished", steps)
    assert events.seen == seen
    assert f"debug={debug!r}: steps {steps}" in capsys.readouterr().out


def test_nothing_is_left_where_runs_go_and_the_rest_of_the_script_still_works() -> None:
    trainer = treadle.Trainer(net, nn.CrossEntropyLoss(), data(), optimizer=ADAM, config=config("4 steps"))
    result = trainer.fit()
    assert not Path("results").exists()
    assert result.last is not None and treadle.load_weights(result.last, net()) is not None
    assert set(trainer.evaluate(data())) == {"loss"}


def test_the_folder_goes_when_the_program_ends() -> None:
    program = f"""
import sys; sys.path[:0] = {sys.path!r}
import test_debug as t, treadle
from torch import nn
print("in", treadle.train(t.net, nn.CrossEntropyLoss(), t.data(), optimizer=t.ADAM, config=t.config("one batch")).run_dir.parent)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.splitlines()[-1].removeprefix("in "))
    assert folder.name.startswith("treadle-debug-") and not folder.exists()


def test_overfit_sees_one_batch_and_learns_it_by_heart(capsys: pytest.CaptureFixture[str]) -> None:
    batches = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        if model.training:
            batches.append(batch[0].clone())
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    result = treadle.train(net, objective, data(), optimizer=ADAM, config=config("overfit"))
    assert result.steps == 100 and all(torch.equal(batch, batches[0]) for batch in batches)
    out, err = capsys.readouterr()
    assert "the loss went from" in out and "by heart" not in err


def test_what_cannot_learn_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    treadle.train(net, nn.CrossEntropyLoss(), data(), optimizer=partial(torch.optim.SGD, lr=1e-7), config=config("overfit"))
    assert "one batch could not be learned by heart" in capsys.readouterr().err


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        inputs, targets = data()
        yield from zip(inputs, targets, strict=True)


@pytest.mark.parametrize(
    "source", [Stream(), treadle.Batches([data(16)] * 20), list(zip(*data(), strict=True))], ids=["stream", "batches", "samples"]
)
def test_of_any_data_as_much_is_read_as_is_said(source: Any) -> None:
    result = treadle.train(net, nn.CrossEntropyLoss(), source, optimizer=ADAM, config=config("5 steps", log=treadle.LogConfig(console="quiet")))
    assert result.steps == 5 and result.epochs == 1


def test_an_own_loop_is_as_short_whatever_its_total(capsys: pytest.CaptureFixture[str]) -> None:
    with treadle.Run(config("4 steps")) as run:
        model, optimizer = run.prepare(net(), ADAM)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(data(), total="1000 steps"):
            for inputs, targets in step:
                step.backward(nn.functional.cross_entropy(model(inputs), targets))
            step.update(optimizer)
    assert run.result.steps == 4 and "loaded back with the same bits: 2" in capsys.readouterr().out


def test_a_policy_that_looks_at_the_clock_comes_back() -> None:
    ticks = iter(range(10_000))
    budget = treadle.TimeBudget("1 hour", clock=lambda: float(next(ticks)))
    result = treadle.train(net, nn.CrossEntropyLoss(), data(), optimizer=ADAM, config=config("4 steps"), handlers=[budget])
    assert result.status == "finished"


def test_what_would_not_come_back_is_seen() -> None:
    class Forgetful:
        value = 0

        def on_step_finished(self, run: treadle.Run) -> None:
            self.value += 1

        def state_dict(self) -> dict[str, int]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.value = 0

    with pytest.raises(CheckpointError, match=r"would not be the same: loaded again, the state of Forgetful: value: 2 became 0"):
        treadle.train(net, nn.CrossEntropyLoss(), data(), optimizer=ADAM, config=config("4 steps"), handlers=[Forgetful()])
