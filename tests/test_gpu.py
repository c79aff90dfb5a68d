"""What can only be seen on a CUDA GPU: `make gpu`. Everything in here is skipped where there is none."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.metrics import Accuracy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

IMAGES = torch.randn(640, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(640) % 10
ADAMW = partial(torch.optim.AdamW, lr=1e-3)


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * 14 * 14, 10))


def fit(run_dir: Path, duration: str = "2 epochs", model: Any = build, **machine: Any) -> tuple[treadle.Trainer, treadle.Result]:
    config = treadle.Config(
        run_dir=str(run_dir), duration=duration, batch_size=64, seed=3, clip=1.0, machine=treadle.MachineConfig(device="cuda", **machine),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="5 steps"), checkpoint=treadle.CheckpointConfig(every="5 steps"),
    )  # fmt: skip
    trainer = treadle.Trainer(
        model, nn.CrossEntropyLoss(), (IMAGES, LABELS), optimizer=ADAMW, metrics={"accuracy": Accuracy()}, config=config,
        schedules={"lr": treadle.schedules.cosine(1e-3)},
    )  # fmt: skip
    return trainer, trainer.fit()


def losses(run_dir: Path) -> list[float]:
    return [row["train/loss"] for row in treadle.read_journal(run_dir) if "train/loss" in row]


@pytest.mark.parametrize("resident", [True, False])
def test_the_host_waits_for_nothing_between_rows(tmp_path: Path, resident: bool) -> None:
    machine = treadle.MachineConfig(device="cuda", resident=resident)
    log = treadle.LogConfig(console="quiet", tensorboard=False, every="10 steps")
    config = treadle.Config(run_dir=str(tmp_path / "run"), duration="40 steps", batch_size=16, machine=machine, log=log)
    accuracy, loss_of = Accuracy(), nn.CrossEntropyLoss()
    with treadle.Run(config) as run:
        model, optimizer = run.prepare(build(), partial(ADAMW, fused=True))
        run.track(model=model, optimizer=optimizer)
        for step in run.steps((IMAGES, LABELS)):
            is_between = 10 < step.number % 20 < 19  # not the step whose row is written when it is over
            torch.cuda.set_sync_debug_mode("error" if is_between else "default")
            for x, y in step:
                output = model(x)
                step.backward(loss_of(output, y))
                accuracy.update(output.detach(), y)
            step.update(optimizer, clip=1.0)
            run.log({"train/grad_norm": step.grad_norm})
    assert run.result.status == "finished"


@pytest.mark.parametrize(
    "machine",
    [{}, {"resident": False}, {"workers": 2}, {"channels_last": True}, {"precision": "bf16"}, {"cuda_graph": True}],
    ids=lambda machine: str(machine) if machine else "plain",
)
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path: Path, machine: dict[str, Any]) -> None:
    whole, _ = fit(tmp_path / "whole", **machine)

    class Stop:
        def on_step_finished(self, run: treadle.Run) -> None:
            if run.progress.steps == 7:
                raise KeyboardInterrupt

    config = treadle.Config(
        run_dir=str(tmp_path / "parts"), duration="2 epochs", batch_size=64, seed=3, clip=1.0,
        machine=treadle.MachineConfig(device="cuda", **machine),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="5 steps"), checkpoint=treadle.CheckpointConfig(every="5 steps"),
    )  # fmt: skip
    schedules = {"lr": treadle.schedules.cosine(1e-3)}
    parts = {"optimizer": ADAMW, "metrics": {"accuracy": Accuracy()}, "schedules": schedules, "config": config}
    with pytest.raises(KeyboardInterrupt):
        treadle.Trainer(build, nn.CrossEntropyLoss(), (IMAGES, LABELS), handlers=[Stop()], **parts).fit()
    resumed, result = fit(tmp_path / "parts", **machine)
    assert result.status == "finished" and losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert all(torch.equal(one, two) for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


@pytest.mark.parametrize("machine", [{"cuda_graph": True}, {"channels_last": True}, {"precision": "tf32"}, {"compile": "step"}], ids=str)
def test_the_machine_changes_nothing_but_rounding(tmp_path: Path, machine: dict[str, Any]) -> None:
    fit(tmp_path / "plain")
    fit(tmp_path / "other", **machine)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=0.05)


def test_a_step_that_really_does_not_fit_is_made_again(tmp_path: Path) -> None:
    class Hungry(nn.Module):
        """Takes a sixteenth of the memory for each of 64 samples."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 16 * 16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = torch.cuda.get_device_properties(0).total_memory
            room = torch.empty(len(x) * (total // 16), dtype=torch.uint8, device=x.device)
            return self.head(x.flatten(1)) + 0 * room[:1]

    found, result = fit(tmp_path / "auto", duration="5 steps", model=Hungry, micro_batch="auto")
    assert result.status == "finished" and result.steps == 5
    given, _ = fit(tmp_path / "given", duration="5 steps", model=Hungry, micro_batch=8)
    assert all(torch.equal(one, two) for one, two in zip(found.model.parameters(), given.model.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path: Path) -> None:
    class Bad(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1)).sqrt()  # of numbers below 0

    before = [p.detach().clone() for p in Bad(3 * 16 * 16, 10).parameters()]
    model = Bad(3 * 16 * 16, 10)
    model.load_state_dict(dict(zip(("weight", "bias"), before, strict=True)))
    with pytest.raises(treadle.errors.NonFiniteLoss):
        fit(tmp_path / "run", model=model)
    assert all(p.isfinite().all() for p in model.parameters())
