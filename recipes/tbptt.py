"""Truncated backpropagation through time: a recurrent network reads Python's own source, from beginning to end.

    treadle train recipes/tbptt.py
    treadle train recipes/tbptt.py carry=false        # it forgets after each window: compare with treadle plot results/tbptt/*

The text is cut into `batch_size` streams, which are read side by side. A step goes through one window of each stream; the state
of the network goes on into the next step, the gradient does not. Williams and Peng, An Efficient Gradient-Based Algorithm for
On-Line Training of Recurrent Network Trajectories, 1990.

That state is a buffer of the model: so it is in every checkpoint, and an evaluation leaves it as it was.
"""

import inspect
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import nn
from torch.nn.functional import cross_entropy

import treadle

TRAIN = ("argparse", "inspect", "tarfile", "typing")
VALID = ("heapq",)
CHARACTERS = 128
"""ASCII; any other character is a question mark."""

# --- 1. What we ask for ---


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(treadle.Config):
    """Everything of `treadle.Config`, and what is this experiment's own."""

    run_dir: str = "results/tbptt/{n}"
    duration: str = "10 epochs"
    batch_size: int = 32
    """Streams that are read side by side."""
    seed: int = 42
    clip: float | None = 1.0
    checkpoint: treadle.CheckpointConfig = field(default_factory=lambda: treadle.CheckpointConfig(best="valid/loss"))
    window: Annotated[int, Gt(0)] = 32
    """Characters through which the gradient goes back."""
    width: Annotated[int, Gt(0)] = 256
    """Numbers in the state."""
    carry: bool = True
    """Whether the state goes on from window to window."""
    lr: Annotated[float, Gt(0)] = 3e-3
    """Highest learning rate, after a warm-up; it falls along half a cosine."""


# --- 2. The model ---


class Reader(nn.Module):
    """Windows of streams -> scores of the next characters, float32 (N, length, CHARACTERS).

    Args:
        streams: of how many it keeps the state.
        width: numbers in a state.
    """

    state: torch.Tensor

    def __init__(self, streams: int, width: int) -> None:
        super().__init__()
        self.character = nn.Embedding(CHARACTERS, width)
        self.read = nn.GRU(width, width, batch_first=True)
        self.scores = nn.Linear(width, CHARACTERS)
        self.register_buffer("state", torch.zeros(streams, width))

    def forward(self, text: torch.Tensor, stream: torch.Tensor, goes_on: torch.Tensor) -> torch.Tensor:
        """`text`: int64 (N, length); `stream`: whose it is, int64 (N,); `goes_on`: whether from the state that it was left in, bool (N,)."""
        before = self.state[stream] * goes_on[:, None]
        states, after = self.read(self.character(text), before[None])
        self.state[stream] = after[0].detach()  # here the gradient ends
        scores: torch.Tensor = self.scores(states)
        return scores


# --- 3. The data ---


def streams(modules: tuple[str, ...], count: int, window: int, carry: bool = True) -> treadle.Samples:
    """Windows of text, in the order in which a batch of `count` has the same window of each stream.

    A sample is a window with one character more, int64, the number of its stream, and whether that was read before.
    """
    text = "".join(inspect.getsource(import_module(module)) for module in modules).encode("ascii", "replace")
    length = (len(text) - 1) // (count * window)
    characters = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    start = torch.arange(length)[:, None] * window + torch.arange(count) * length * window  # (windows, streams)
    windows = characters[start.flatten()[:, None] + torch.arange(window + 1)]
    stream = torch.arange(count).repeat(length)
    goes_on = (torch.arange(length) > 0).repeat_interleave(count) & carry
    return treadle.Samples((windows, stream, goes_on), sampler="sequential", batch_size=count)


# --- 4. The objective ---


def next_character(model: nn.Module, batch: Any) -> treadle.Outcome:
    """Mean over the characters."""
    text, stream, goes_on = batch
    loss = cross_entropy(model(text[:, :-1], stream, goes_on).flatten(0, 1), text[:, 1:].flatten())
    return treadle.Outcome(loss, logs={"bits": loss / torch.log(torch.tensor(2.0))})


# --- 5. The experiment ---


def experiment(config: ReaderConfig) -> treadle.Trainer:
    return treadle.Trainer(
        partial(Reader, config.batch_size, config.width),
        next_character,
        streams(TRAIN, config.batch_size, config.window, config.carry),
        valid=streams(VALID, config.batch_size, config.window, config.carry),
        optimizer=partial(torch.optim.Adam, lr=config.lr),
        schedules={"lr": treadle.schedules.cosine(config.lr, warmup="50 steps")},
        config=config,
    )
