"""Treadle as an entrant of a fault-injection harness for training libraries.

The harness kills a run, fills its disk, damages its checkpoints, ends a worker, makes the loss NaN or makes a user's mistakes, starts
the run again, and compares what comes out with the run that was left alone. An entrant is a module `adapters/NAME.py` with
`run(cfg, probe)`; this is the one of Treadle, written as a user would who wants a run that cannot be lost. To take part, copy this file
there as `adapters/treadle.py`, and tell the harness two things: that the newest checkpoint is a folder of `checkpoints/`, such as
`step-000020`, and, where it fills the disk, that a run also keeps the checkpoint of its beginning, so one more fits. Then:

    python experiments.py treadle F1 F2 F3
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from task import Config as Task
from task import Images, Probe, cosine, loss_fn, make_net, target
from torch import nn

import treadle
from treadle.metrics import Accuracy

EXIT_CODES = {"interrupted: SIGTERM": 143, "interrupted: SIGINT": 130}
"""What `treadle train` and `treadle.main` end with; any other script says it itself."""


class Probed:
    """The objective, and the harness's probe, which sees every training batch and may make its loss NaN."""

    def __init__(self, cfg: Task, probe: Probe) -> None:
        self._cfg, self._probe, self._loss = cfg, probe, loss_fn(cfg)
        self._tried = False

    def __call__(self, model: nn.Module, batch: Any) -> treadle.Outcome:
        x, y, ids = batch
        counts = self._counts(model)
        if counts:
            self._probe.batch(ids, x)
        output, wanted = model(x), target(self._cfg, y)
        loss = self._loss(output, wanted)
        return treadle.Outcome(loss * self._probe.loss_factor() if counts else loss, output, wanted)

    def _counts(self, model: nn.Module) -> bool:
        """Whether the batch is one to train on: not of the validation, nor the first one when it is tried before any update."""
        if not model.training:
            return False
        tried, self._tried = self._tried, True
        return tried


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(treadle.Config):
    lr: Annotated[float, Gt(0)]


def config(cfg: Task) -> ImagesConfig:
    asked = {
        "run_dir": cfg.ckpt,
        "duration": f"{cfg.epochs} epochs",
        "batch_size": cfg.batch * cfg.accumulate,
        "lr": cfg.lr,
        "seed": cfg.seed,
        "drop_last": cfg.drop_last,
        "machine": {"device": cfg.device, "workers": cfg.workers, "micro_batch": cfg.batch},
        "evaluate": {"batch_size": 64},
        "checkpoint": {"every": f"{cfg.every} steps", "keep_last": cfg.keep},
        "log": {"every": "1 step"},
    }
    return treadle.load_config(ImagesConfig, asked, {"durations": "3 epochs"} if cfg.case == "misspelt" else {})


def trainer(cfg: Task, probe: Probe) -> treadle.Trainer:
    settings, factor = config(cfg), cosine(cfg)
    return treadle.Trainer(
        partial(make_net, cfg),
        Probed(cfg, probe),
        Images(cfg.n_train, bad_item=cfg.bad_item, case=cfg.case),
        valid=Images(500, train=False),
        optimizer=lambda parameters: torch.optim.AdamW([] if cfg.case == "no_params" else parameters, lr=settings.lr),
        schedules={"lr": lambda progress: settings.lr * factor(progress.steps)},
        metrics={} if cfg.case == "mse_shape" else {"accuracy": Accuracy()},
        handlers=[treadle.EarlyStop(cfg.monitor.replace("val_", "valid/"))] if cfg.case == "monitor" else [],
        config=settings,
    )


def show_logs(cfg: Task) -> None:
    """Let the harness find the event files, which lie in the run folder: by a relative link, so that a copy of the run has its own."""
    logs = Path(cfg.logs)
    if not logs.is_symlink():
        logs.symlink_to(os.path.relpath(Path(cfg.ckpt) / "tensorboard", logs.parent))


def run(cfg: Task, probe: Probe) -> None:
    show_logs(cfg)
    training = trainer(cfg, probe)

    @training.on("run_started")
    def tell(run: treadle.Run) -> None:
        if run.progress.steps:
            probe.resumed(run.progress.steps, training.model)

    # The harness gives some runs another epoch when it resumes them; to go on with another length has to be asked for.
    result = training.fit(accept_changes=cfg.resume)
    print(f"{result.status} at step {result.steps}")
    if result.status != "finished":
        raise SystemExit(EXIT_CODES.get(result.status, 1))
    probe.done(training.model)
