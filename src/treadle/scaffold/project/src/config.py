"""What an experiment is. The only file to change between experiments.

Each value can also be given on the command line: python src/main.py lr=0.01 model.hidden=64
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import treadle
from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model's own values; `src/model.py` takes them."""

    hidden: Annotated[int, Gt(0)] = 32
    """Width of each hidden layer."""
    layers: Annotated[int, Ge(0)] = 2
    """How many hidden layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of hidden values that is left out in training."""


@dataclass(frozen=True, kw_only=True)
class ProjectConfig(treadle.Config):
    """Everything of treadle.Config, such as `clip` and `machine.device`, and what is this project's own."""

    run_dir: str = "results/{n}"
    """{n} is a number: the same command goes on where it was cut short, everything else gets a new folder."""
    duration: str = "30 epochs"
    """Also "2000 steps"."""
    batch_size: int = 32
    seed: int = 42
    """Another seed: other first weights, another order of samples."""

    optimizer: Literal["SGD", "Adam", "AdamW", "RMSprop"] = "AdamW"
    """A name in torch.optim."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Learning rate at the start; it falls to 0 along a cosine."""
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    """Pull of all weights towards 0."""
    model: ModelConfig = field(default_factory=ModelConfig)

    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/loss"))
    """The best epoch is the one with the smallest loss on the validation set."""
    log: treadle.LogConfig = field(default_factory=lambda: treadle.LogConfig(every="5 steps"))
