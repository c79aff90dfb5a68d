"""A trial: forms of the same step, timed on a real batch, with everything put back as it was found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from treadle.data.batch import Batch
from treadle.evaluation import as_found
from treadle.run import Run
from treadle.step.capture import Unrecordable
from treadle.step.closure import kept
from treadle.step.step import Step

ROUNDS, LEAST_S, MOST_STEPS = 7, 0.02, 20
"""Rounds, each of every form; how long a form's turn lasts at least, in steps at most."""
MARGIN = 0.98
"""How much of the time as it is another form may take at most: less is noise, and not worth other bits."""
Make = Callable[[Step], object]


def fastest(run: Run, forms: Mapping[str, Make], step: Step, model: Any, optimizer: Any, objective: Any) -> tuple[str, dict[str, float]]:
    """The fastest of several forms of a step.

    Args:
        run: the run, in its first step.
        forms: by name, what makes a step; the first is the one that stays unless another is clearly faster.
        step: gives the batch.
        model: what is trained; it is as it was afterwards, to the bit, and so are the optimizer and the generators.
        optimizer: of the model, or several by name.
        objective: whose loss may have a state.

    Returns:
        the name, and the seconds that a step of each form took; of a form that cannot be made there are none.
    """
    with as_found(model, objective, training=True), as_it_was(optimizer), _as_it_was_tracked(run):
        ready = {name: turns for name, make in forms.items() if (turns := _turns(run, make, step))}
        times: dict[str, list[float]] = {name: [] for name in ready}
        for number in range(ROUNDS):
            order = list(ready.items())
            for name, turns in order if number % 2 == 0 else reversed(order):
                times[name].append(_timed(run, forms[name], step, turns) / turns)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return choice(seconds), seconds


def choice(seconds: Mapping[str, float]) -> str:
    """The first form, unless another is clearly faster.

    Example:
        >>> choice({"eager": 1.0, "model": 0.99}), choice({"eager": 1.0, "model": 0.9})
        ('eager', 'model')
    """
    first, best = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < MARGIN * seconds[first] else first


def _turns(run: Run, make: Make, step: Step) -> int:
    """How many steps one timing takes, once the form is compiled; 0 where it cannot be made."""
    try:
        _timed(run, make, step, 2)  # some are compiled once more in their second step
    except Unrecordable:
        return 0
    return max(1, min(MOST_STEPS, int(LEAST_S / max(_timed(run, make, step, 1), 1e-9))))


def _timed(run: Run, make: Make, step: Step, turns: int) -> float:
    """Seconds for some steps of the same batch, which nobody counts or logs."""
    scratch, batch = Step(_unrecorded, run.precision, _allowed), Batch(step.parts, step.counts, 0, False, step.ids)
    scratch.names = step.names
    _wait_for(run.device)
    began = time.perf_counter()
    for _ in range(turns):
        scratch.begin(step.number, batch, step.values)
        make(scratch)
    _wait_for(run.device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unrecorded(name: str, value: Any, weight: Any, counted: bool = True) -> None:
    """Record nothing."""


def _allowed(what: str) -> None:
    """Something is not finite: the real step will say so."""


@contextmanager
def as_it_was(optimizer: Any) -> Iterator[None]:
    """Put back an optimizer's state and options, or those of several; what a form laid out anew keeps its place."""
    optimizers: list[Optimizer] = list(optimizer.values()) if isinstance(optimizer, Mapping) else [optimizer]
    found = [kept(one) for one in optimizers]
    try:
        yield
    finally:
        for put_back in found:
            put_back()
        for one in optimizers:
            one.zero_grad(set_to_none=True)


@contextmanager
def _as_it_was_tracked(run: Run) -> Iterator[None]:
    """Put back the generators that the run tracks, and the loss scaler."""
    kept = run._loop.tracked.generators()
    own = {name: item.state_dict() for name, item in kept.items()}
    scaler = run.precision.scaler
    scale = None if scaler is None else scaler.state_dict()
    try:
        yield
    finally:
        for name, item in kept.items():
            item.load_state_dict(own[name])
        if scaler is not None and scale is not None:
            scaler.load_state_dict(scale)
