"""A small training program with everything that could go differently the second time; the guarantees are proved on it.

Dropout, BatchNorm, momentum, a schedule, an uneven last batch, augmentation from three random generators, validation, a
handler with state: that is the case "level-1", and level 2 and 3 are the same run, written with more of one's own. The
other cases change the data, the body of the loop, or the machine. From the folder `tests`:

    python -m guarantees.program CASE RUN_DIR [--kill-at STEP] [--kill-in PLACE:N] [--stop-at STEP] [key=value ...]
"""

import argparse
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import treadle
from guarantees import datasets
from guarantees.death import die_in
from guarantees.witness import Witness
from treadle.metrics import Accuracy

torch.set_num_threads(1)

STEPS, STEPS_AN_EPOCH = 21, 7


class Net(nn.Sequential):
    """A classifier with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 36, 2)
        )  # fmt: skip


class PlainNet(nn.Sequential):
    """One that does not care how a batch is cut."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2))


@dataclass(frozen=True)
class Case:
    """One way to train.

    Args:
        level: how much of the loop is written here: 1, 2 or 3.
        data: makes the training data.
        body: "classify"; "mixup", which augments whole batches in the body; or "play", two models with an optimizer each.
        net: makes the classifier.
        config: overrides of the config, ``key=value``.
        handlers: makes further handlers.
        elsewhere: an override under which the run may go on, to the same end.
        rounding: whether that end is the same but for rounding.
    """

    level: int = 1
    data: Callable[[], Any] = datasets.Images
    body: str = "classify"
    net: Callable[[], nn.Module] = Net
    config: tuple[str, ...] = ()
    handlers: Callable[[], list[object]] = list
    elsewhere: str | None = None
    rounding: bool = False


ENDLESS = ("duration=21 steps",)  # a stream has no length to count epochs by
BEST = ("checkpoint.best=valid/loss", "evaluate.every=2 steps", "checkpoint.keep_last=1", "checkpoint.keep_best=2")
LATER = ("evaluate.every=2 steps", "checkpoint.keep_last=1", "machine.micro_batch=5")


def policies() -> list[object]:
    """Those that have a state, or look at one step in advance."""
    return [
        treadle.EarlyStop("train/update_ratio", patience=100),
        treadle.EarlyStop("train/loss", patience=100),
        treadle.Plateau("valid/loss", factor=0.5, patience=1, cooldown=1, min_delta=0.05),
        treadle.Watch(every="2 steps", patterns=["3.*"]),
        treadle.NoiseScale(every="3 steps"),
        treadle.StopWhen(lambda run: run.latest("train/loss", default=1.0) < 0.0, every="5 steps"),
    ]


CASES = {
    "level-1": Case(elsewhere="machine.workers=2"),
    "level-2": Case(level=2, config=("machine.workers=2",), elsewhere="machine.workers=1"),
    "level-3": Case(level=3, config=("machine.workers=1",), elsewhere="machine.workers=0"),
    "four-workers": Case(body="mixup", config=("machine.workers=4",), elsewhere="machine.workers=0"),
    "micro-batches": Case(net=PlainNet, config=("machine.micro_batch=5",), elsewhere="machine.micro_batch=7", rounding=True),
    "tensors": Case(data=datasets.tensors),
    "tensors-mixup-bf16": Case(level=2, data=datasets.tensors, body="mixup", config=("machine.precision=bf16",)),
    "own-loop-mixup": Case(level=3, body="mixup", config=("machine.micro_batch=5",)),
    "best": Case(data=datasets.tensors, config=BEST),
    "policies": Case(net=PlainNet, config=LATER, handlers=policies),
    "policies-own-loop": Case(level=3, net=PlainNet, config=LATER, handlers=policies),
    "loader": Case(level=2, data=datasets.torch_loader),
    "loader-workers": Case(body="mixup", data=partial(datasets.torch_loader, workers=2)),
    "stream": Case(data=datasets.Stream, config=ENDLESS, elsewhere="machine.workers=1"),
    "stream-worker": Case(level=3, data=datasets.Stream, body="mixup", config=(*ENDLESS, "machine.workers=1")),
    "stateful": Case(level=2, data=datasets.StatefulStream, config=ENDLESS, elsewhere="machine.workers=1"),
    "stateful-worker": Case(data=datasets.StatefulStream, body="mixup", config=(*ENDLESS, "machine.workers=1"), elsewhere="machine.workers=0"),
    "stateful-own-loop": Case(level=3, data=datasets.StatefulStream, config=(*ENDLESS, "machine.micro_batch=5", "machine.precision=bf16")),
    "batches": Case(body="mixup", data=datasets.list_of_batches, config=("machine.micro_batch=5",)),
    "batches-function": Case(level=3, data=datasets.function_of_batches, config=ENDLESS),
    "mixed": Case(data=datasets.mixed, config=("machine.workers=1",), elsewhere="machine.workers=0"),
    "bucketed": Case(level=2, data=datasets.bucketed, elsewhere="machine.workers=2"),
    "two-models": Case(level=2, body="play", config=("machine.workers=1",), elsewhere="machine.workers=2"),
    "two-models-own-loop": Case(level=3, body="play", data=datasets.tensors, config=("machine.micro_batch=6", "machine.precision=bf16")),
}  # fmt: skip


# --- bodies ---

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
SCHEDULES = {"lr": treadle.schedules.cosine(0.05, warmup="3 steps")}
PLAYERS = {"G": partial(torch.optim.Adam, lr=0.01), "D": SGD}


def classify(model: nn.Module, batch: Any) -> treadle.Outcome:
    images, labels = batch
    scores = model(images)
    return treadle.Outcome(cross_entropy(scores, labels), scores, labels)


def mixup(model: nn.Module, batch: Any) -> treadle.Outcome:
    """Train on mixtures of two images, drawn from the run's own generators."""
    if not model.training:
        return classify(model, batch)
    images, labels = batch
    share, partners = float(np.random.beta(0.4, 0.4)), torch.randperm(len(images))
    images = images.flip(-1) if random.random() < 0.5 else images
    scores = model(share * images + (1 - share) * images[partners])
    return treadle.Outcome(share * cross_entropy(scores, labels) + (1 - share) * cross_entropy(scores, labels[partners]), scores, labels)


def players() -> dict[str, nn.Module]:
    """A model that makes images, and one that tells them from the real ones."""
    return {
        "G": nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8))),
        "D": nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)),
    }


def play(step: treadle.Step, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], witness: Witness) -> None:
    """A step for one model, and one for the other."""
    make, judge = models["G"], models["D"]
    for images, _ in step:
        witness.see(images)
        made = make(torch.randn(len(images), 8)).detach()
        step.backward(softplus(judge(made)).mean() + softplus(-judge(images)).mean())
    step.update(optimizers["D"], clip=1.0)
    for images, _ in step:
        step.backward(softplus(-judge(make(torch.randn(len(images), 8)))).mean())
    step.update(optimizers["G"])


OBJECTIVES = {"classify": classify, "mixup": mixup}


# --- levels ---


def level_1(case: Case, config: treadle.Config, witness: Witness) -> treadle.Result:
    return treadle.train(
        lambda: witness.watching(case.net()), nn.CrossEntropyLoss() if case.body == "classify" else OBJECTIVES[case.body], case.data(),
        valid=datasets.tensors(50), optimizer=SGD, metrics={"accuracy": Accuracy()}, schedules=SCHEDULES,
        handlers=[witness, *case.handlers()], config=config,
    )  # fmt: skip


def level_2(case: Case, config: treadle.Config, witness: Witness) -> treadle.Result:
    treadle.seed(config.seed)
    if case.body == "play":
        body = partial(play, witness=witness)
        trainer = treadle.Trainer(players(), None, case.data(), optimizer=PLAYERS, schedules=SCHEDULES, handlers=[witness], step=body, config=config)
    else:
        trainer = treadle.Trainer(
            witness.watching(case.net()), OBJECTIVES[case.body], case.data(), valid=datasets.tensors(50), optimizer=SGD,
            metrics={"accuracy": Accuracy()}, schedules=SCHEDULES, handlers=[witness, *case.handlers()], config=config,
        )  # fmt: skip
    return trainer.fit()


def level_3(case: Case, config: treadle.Config, witness: Witness) -> treadle.Result:
    with treadle.Run(config, schedules=SCHEDULES, handlers=[witness, *case.handlers()]) as run:
        (play_here if case.body == "play" else classify_here)(run, case, witness)
    return run.result


def classify_here(run: treadle.Run, case: Case, witness: Witness) -> None:
    model, optimizer = run.prepare(witness.watching(case.net()), SGD)
    run.track(model=model, optimizer=optimizer)
    objective, valid, metrics = OBJECTIVES[case.body], datasets.tensors(50), {"accuracy": Accuracy()}
    for step in run.steps(run.loader(case.data())):
        for batch in step:
            step.backward(objective(model, batch).loss)
        step.update(optimizer, clip=run.config.clip)
        if run.due("1 epoch"):
            run.log(run.evaluate(model, nn.CrossEntropyLoss(), valid, metrics), prefix="valid")


def play_here(run: treadle.Run, case: Case, witness: Witness) -> None:
    models, optimizers = run.prepare(players(), PLAYERS)
    run.track(**{f"model-{name}": model for name, model in models.items()}, **{f"optimizer-{name}": one for name, one in optimizers.items()})
    for step in run.steps(case.data()):
        play(step, models, optimizers, witness)


def run_program(
    name: str | int,
    folder: str,
    overrides: Sequence[str] = (),
    kill_at: int | None = None,
    stop_at: int | None = None,
    kill_in: str | None = None,
) -> treadle.Result:
    """Train one case, or a level as it is.

    Args:
        name: of the case; 1, 2 and 3 are "level-1" to "level-3" without workers.
        folder: the run folder.
        overrides: of the config, after the case's own.
        kill_at: the step after which the process is killed.
        stop_at: the step after which it is asked to stop.
        kill_in: see `death.die_in`.
    """
    case = CASES[name] if name in CASES else Case(level=int(name))
    if kill_in:
        die_in(kill_in)
    base = {
        "run_dir": folder, "duration": "3 epochs", "batch_size": datasets.BATCH, "seed": 7, "clip": 1.0,
        "checkpoint": {"every": "3 steps"}, "log": {"every": "4 steps", "console": "quiet"},
    }  # fmt: skip
    config = treadle.load_config(treadle.Config, base, overrides=[*case.config, *overrides])
    return {1: level_1, 2: level_2, 3: level_3}[case.level](case, config, Witness(folder, kill_at, stop_at))


def main(arguments: Sequence[str] | None = None) -> None:
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than this machine has cores, on purpose
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--kill-in")
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("overrides", nargs="*")
    run_program(**vars(parser.parse_intermixed_args(arguments)))


if __name__ == "__main__":
    main()
