"""A small training program with everything that could go differently the second time; the guarantees are proved on it.

Dropout, BatchNorm, momentum, a schedule, an uneven last batch, augmentation drawn from Python's, NumPy's and torch's
generators in `__getitem__`, micro-batches, validation, a handler with state. Written at each of the three levels.

    python program.py LEVEL RUN_DIR [--workers N] [--kill-at STEP] [--stop-at STEP] [key=value ...]
"""

import argparse
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import treadle
from treadle.metrics import Accuracy

torch.set_num_threads(1)


class Images(torch.utils.data.Dataset):
    """203 noisy images of two classes, augmented with three generators."""

    def __init__(self, length: int = 203) -> None:
        generator = torch.Generator().manual_seed(5)
        self.labels = torch.randint(0, 2, (length,), generator=generator)
        self.images = torch.randn(length, 1, 8, 8, generator=generator) + self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[index] + 0.1 * torch.randn(1, 8, 8) + float(np.random.normal()) * 0.1
        return (image.flip(-1) if random.random() < 0.5 else image), self.labels[index]


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 36, 2)
        )  # fmt: skip


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    images = Images(50)
    return images.images, images.labels


class Witness:
    """Writes down which samples each step saw, and dies or stops where it is told to."""

    def __init__(self, folder: str, kill_at: int | None = None, stop_at: int | None = None) -> None:
        self.file, self.kill_at, self.stop_at, self.seen = Path(f"{folder}.ids"), kill_at, stop_at, 0

    def on_step_finished(self, run: Any) -> None:
        self.seen += int(run.step.ids.sum())
        with open(self.file, "a") as file:
            print(run.step.number, *run.step.ids, self.seen, file=file)
        if run.step.number == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.step.number == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
SCHEDULES = {"lr": treadle.schedules.cosine(0.05, warmup="3 steps")}


def level_1(config: treadle.Config, witness: Witness) -> treadle.Result:
    return treadle.train(
        Net, nn.CrossEntropyLoss(), Images(), valid=held_out(), optimizer=SGD, metrics={"accuracy": Accuracy()},
        schedules=SCHEDULES, handlers=[witness], config=config,
    )  # fmt: skip


def level_2(config: treadle.Config, witness: Witness) -> treadle.Result:
    def objective(model: nn.Module, batch: Any) -> treadle.Outcome:
        images, labels = batch
        scores = model(images)
        return treadle.Outcome(nn.functional.cross_entropy(scores, labels), scores, labels)

    treadle.seed(config.seed)
    trainer = treadle.Trainer(
        Net(), objective, Images(), valid=held_out(), optimizer=SGD, metrics={"accuracy": Accuracy()},
        schedules=SCHEDULES, handlers=[witness], config=config,
    )  # fmt: skip
    return trainer.fit()


def level_3(config: treadle.Config, witness: Witness) -> treadle.Result:
    valid, metrics = held_out(), {"accuracy": Accuracy()}
    with treadle.Run(config, schedules=SCHEDULES, handlers=[witness]) as run:
        model, opt = run.prepare(Net(), SGD)
        data = run.loader(Images())
        run.track(model=model, optimizer=opt)
        for step in run.steps(data):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(opt, clip=config.clip)
            if run.due("1 epoch"):
                run.log(run.evaluate(model, nn.CrossEntropyLoss(), valid, metrics), prefix="valid")
    return run.result


def run_program(level: int, folder: str, overrides: list[str], kill_at: int | None = None, stop_at: int | None = None) -> treadle.Result:
    base = {"run_dir": folder, "duration": "3 epochs", "batch_size": 32, "seed": 7, "clip": 1.0, "log": {"every": "4 steps", "console": "quiet"}}
    config = treadle.load_config(treadle.Config, base, overrides=overrides)
    return {1: level_1, 2: level_2, 3: level_3}[level](config, Witness(folder, kill_at, stop_at))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("level", type=int)
    parser.add_argument("folder")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    run_program(options.level, options.folder, options.overrides, options.kill_at, options.stop_at)
