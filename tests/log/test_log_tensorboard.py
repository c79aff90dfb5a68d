"""TensorBoard: the journal's numbers, all of them, once each, also after a resume."""

from functools import partial

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import treadle
from treadle.core.errors import ConfigError
from treadle.log.tensorboard import TensorBoard
from treadle.metrics import Accuracy, ConfusionMatrix

COUNTERS = ("step", "epoch", "samples", "wall")


def trainer(folder, every="2 steps"):
    torch.manual_seed(0)
    data = torch.randn(40, 3), torch.randint(0, 2, (40,))
    config = treadle.Config(
        run_dir=str(folder),
        duration="3 epochs",
        batch_size=8,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every="4 steps"),
        log=treadle.LogConfig(console="quiet", tensorboard=True, every=every),
    )
    one = treadle.Trainer(
        nn.Linear(3, 2),
        nn.CrossEntropyLoss(),
        data,
        valid=data,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        metrics={"accuracy": Accuracy(), "confusion": ConfusionMatrix(2)},
        schedules={"lr": treadle.schedules.cosine(0.1)},
        config=config,
    )
    one.on("step_finished", every="3 steps")(lambda run: run.log({"mine": torch.tensor(run.progress.steps), "note": "text", "nan": float("nan")}))
    return one


def in_tensorboard(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {(tag, event.step): np.float32(event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}, sum(
        len(events.Scalars(tag)) for tag in events.Tags()["scalars"]
    )


def in_journal(folder):
    return {
        (name, row["step"]): np.float32(value)
        for row in treadle.read_journal(folder)
        for name, value in row.items()
        if name not in COUNTERS and isinstance(value, (int, float))
    }


def assert_a_view_of_the_journal(folder):
    found, count = in_tensorboard(folder)
    expected = in_journal(folder)
    assert found.keys() == expected.keys() and count == len(expected)
    np.testing.assert_array_equal([found[key] for key in expected], list(expected.values()))
    assert {"train/loss", "valid/accuracy", "schedule/lr", "mine", "nan"} <= {name for name, _ in expected}


def test_event_files_hold_exactly_the_scalars_of_the_journal(tmp_path):
    trainer(tmp_path).fit()
    assert_a_view_of_the_journal(tmp_path)


@pytest.mark.parametrize("at", [3, 6, 11])
def test_after_a_resume_there_are_neither_gaps_nor_duplicates(tmp_path, at):
    one = trainer(tmp_path / "cut")

    @one.on("step_finished", every=f"{at} steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    trainer(tmp_path / "cut").fit()
    assert_a_view_of_the_journal(tmp_path / "cut")
    trainer(tmp_path / "whole").fit()
    assert in_journal(tmp_path / "cut").keys() == in_journal(tmp_path / "whole").keys()


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("treadle.log.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'treadle\[tensorboard\]'"):
        TensorBoard()
