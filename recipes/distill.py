"""Knowledge distillation, on scikit-learn's digits: a small student learns from a trained teacher, which is frozen.

    treadle train recipes/distill.py
    treadle train recipes/distill.py soft=1.0         # from the teacher alone: it never sees a label
    treadle train recipes/distill.py soft=0.0         # from the labels alone, to compare with

The teacher is a run of its own. It is trained the first time; after that the run is finished, and only its weights are read.
A model without an optimizer is not trained: it must be frozen, is in evaluation mode, and goes to the device with the other.
Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Gt, Interval
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

import treadle
from treadle.metrics import Accuracy

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class DistillConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/distill/{n}"
    duration: str = "30 epochs"
    batch_size: int = 64
    seed: int = 42
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/accuracy", mode="max"))
    teacher: str = "results/distill/teacher"
    """The run folder of the teacher."""
    teacher_duration: str = "15 epochs"
    """How long the teacher is trained."""
    temperature: Annotated[float, Gt(0)] = 4.0
    """What scores are divided by before they are compared: the higher, the more the unlikely classes say."""
    soft: Annotated[float, Interval(ge=0, le=1)] = 0.9
    """Share of the loss that the teacher gives; the labels give the rest."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Learning rate of both."""


# --- 2. The models ---


def big() -> nn.Sequential:
    """The teacher: images (N, 1, 8, 8) -> scores (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip


def small() -> nn.Sequential:
    """The student: the same, with a twelfth of the weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


# --- 3. The step ---

Models = Mapping[str, nn.Module]


def distil(step: treadle.Step, models: Models, optimizers: Mapping[str, torch.optim.Optimizer], temperature: float, soft: float) -> None:
    """The student comes nearer to what the teacher says of each class, and to the labels."""
    for images, labels in step:
        with torch.no_grad():
            told = log_softmax(models["teacher"](images) / temperature, dim=1)
        scores = models["student"](images)
        hint = kl_div(log_softmax(scores / temperature, dim=1), told, reduction="batchmean", log_target=True) * temperature**2
        label = cross_entropy(scores, labels)
        step.backward(treadle.Outcome(soft * hint + (1 - soft) * label, logs={"hint": hint, "label": label}))
    step.update(optimizers["student"])


def compare(models: Models, batch: Any) -> treadle.Outcome:
    """The objective of an evaluation: the labels, and how often both say the same."""
    images, labels = batch
    scores, told = models["student"](images), models["teacher"](images)
    agreed = (scores.argmax(1) == told.argmax(1)).float().mean()
    return treadle.Outcome(cross_entropy(scores, labels), scores, labels, logs={"agreed": agreed})


# --- 4. The experiment ---


def digits(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, float32 (n, 1, 8, 8) in 0..1, and labels, int64 (n,)."""
    found = load_digits()
    return torch.tensor(found.images[part] / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(found.target[part])


def experiment(config: DistillConfig) -> treadle.Trainer:
    train, valid = digits(slice(None, -360)), digits(slice(-360, None))  # by other writers: they come one after the other
    data: dict[str, Any] = {"valid": valid, "metrics": {"accuracy": Accuracy()}}
    adamw = partial(torch.optim.AdamW, lr=config.lr)

    asked = treadle.Config(run_dir=config.teacher, duration=config.teacher_duration, batch_size=64, seed=0, machine=config.machine, log=config.log)
    trained = treadle.train(big, nn.CrossEntropyLoss(), train, optimizer=adamw, config=asked, **data)
    teacher = treadle.load_weights(trained.last, big()).requires_grad_(False)

    step = partial(distil, temperature=config.temperature, soft=config.soft)
    models = {"student": small, "teacher": teacher}
    return treadle.Trainer(models, compare, train, step=step, optimizer={"student": adamw}, config=config, **data)
