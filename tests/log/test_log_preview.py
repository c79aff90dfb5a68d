"""Schedules, drawn before anything runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import treadle
from treadle import schedules
from treadle.core.errors import ConfigError, UsageError
from treadle.log.preview import panels_of

GIVEN = {"lr": {"body": schedules.cosine(0.1, warmup="1 epoch"), "head": schedules.constant(0.2)}, "kl": lambda progress: progress.fraction}


def test_the_curves_are_the_values_of_a_run(tmp_path: Path) -> None:
    data = torch.zeros(50, 2), torch.zeros(50, 1)
    given = {"lr": schedules.one_cycle(0.1), "momentum": schedules.linear(0.9, 0.8).then(schedules.constant(0.5), at="2 epochs")}
    treadle.train(
        torch.nn.Linear(2, 1), torch.nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=0.1), schedules=given,
        config=treadle.Config(run_dir=str(tmp_path), duration="3 epochs", batch_size=8, log=treadle.LogConfig(every="1 step", console="quiet")),
    )  # fmt: skip
    rows = [row for row in treadle.read_journal(tmp_path) if "schedule/lr" in row]
    panels = panels_of(given, "3 epochs", epoch_size=50, batch_size=8)
    for name in given:
        assert panels[name][name].steps == [row["step"] for row in rows]
        assert panels[name][name].values == [row[f"schedule/{name}"] for row in rows]


def test_what_groups_have_of_a_value_is_drawn_together() -> None:
    panels = panels_of(GIVEN, "2 epochs", epoch_size=100, batch_size=10)
    assert {name: list(curves) for name, curves in panels.items()} == {"lr": ["lr/body", "lr/head"], "kl": ["kl"]}
    assert panels["lr"]["lr/body"].values[9] == 0.1


@pytest.mark.parametrize(
    ("duration", "sizes", "steps"), [("7 steps", {}, 7), ("100 samples", {"batch_size": 30}, 4), ("1 epoch", {"epoch_size": 9, "batch_size": 4}, 3)]
)
def test_a_run_has_as_many_steps_as_it_will_have(duration: str, sizes: dict[str, int], steps: int) -> None:
    assert panels_of({"lr": schedules.constant(1.0)}, duration, **sizes)["lr"]["lr"].steps == list(range(1, steps + 1))


def test_of_a_long_run_a_thousand_steps_are_looked_at() -> None:
    steps = panels_of({"lr": schedules.constant(1.0)}, "1000000 steps")["lr"]["lr"].steps
    assert (steps[0], steps[-1], len(steps)) == (1, 1_000_000, 1001)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html"])
def test_a_picture_is_written(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"new/schedules.{ending}"
    schedules.plot(GIVEN, "2 epochs", epoch_size=100, batch_size=10, path=path)
    first = path.read_bytes()
    schedules.plot(GIVEN, "2 epochs", epoch_size=100, batch_size=10, path=path)
    assert path.read_bytes() == first
    assert len(first) > 1000


def test_a_sketch_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    schedules.plot(GIVEN, "2 epochs", epoch_size=100, batch_size=10)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("lr/body", "lr/head", "kl", "step 1"))
    assert "⠉" in printed


@pytest.mark.parametrize(
    ("given", "duration", "sizes", "says"),
    [
        ({"lr": schedules.constant(1.0)}, "2 epochs", {}, "'2 epochs' cannot be told in steps; give batch_size and epoch_size"),
        ({"lr": schedules.constant(1.0)}, "2 epochs", {"batch_size": 3}, "give epoch_size, the samples in an epoch"),
        ({"lr": schedules.constant(1.0)}, "2 samples", {}, "'2 samples' cannot be told in steps; give batch_size"),
        ({"lr": schedules.cosine(1.0, warmup="1 epoch")}, "20 steps", {}, "the schedule 'lr': '1 epoch'.* cannot be told"),
        ({"lr": 3}, "20 steps", {}, "must be a callable"),
        (
            {"lr": schedules.from_torch(torch.optim.lr_scheduler.StepLR, "1 step")},
            "20 steps",
            {},
            "has no values without an optimizer; plot the others",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(given: Any, duration: str, sizes: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        schedules.plot(given, duration, **sizes)  # type: ignore[arg-type]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png"):
        schedules.plot(GIVEN, "2 epochs", epoch_size=100, batch_size=10, path=tmp_path / "lr.bmp")
