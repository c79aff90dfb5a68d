"""The experiment: from a config to a Trainer, which brings model, loss, data, optimizer and metrics together."""

from functools import partial

import torch
import treadle
from torch import nn
from treadle.metrics import Accuracy

import dataset
from config import ProjectConfig
from model import MLP


def experiment(config: ProjectConfig) -> treadle.Trainer:
    trainer = treadle.Trainer(
        lambda: MLP(config.model, inputs=len(dataset.FEATURES), classes=len(dataset.SPECIES)),
        nn.CrossEntropyLoss(),
        dataset.train_set(),
        valid=dataset.valid_set(),
        test=dataset.test_set(),  # only looked through for items that are in the training data, too
        optimizer=partial(getattr(torch.optim, config.optimizer), lr=config.lr, weight_decay=config.weight_decay),
        schedules={"lr": treadle.schedules.cosine(config.lr)},
        metrics={"accuracy": Accuracy()},
        writers=[treadle.Plot()],
        config=config,
    )
    # Here is the place for what else shall happen while it trains: @trainer.on("epoch_finished") over a function of the run.
    return trainer
