"""Preflight: everything that can be seen to be wrong before training time is spent."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from treadle.checkpoint.tracked import Tracked
from treadle.config.schema import Config
from treadle.core.errors import ConfigError, did_you_mean
from treadle.core.mix import mix
from treadle.core.when import Duration, Progress
from treadle.data.loader import Loader
from treadle.evaluation import as_found
from treadle.step.binding import NEAR
from treadle.step.fields import fields_of
from treadle.step.objective import Objective, Supervised, keywords, required
from treadle.system.groups import overview
from treadle.system.seed import seed

LAZY = 22
"""What the seed of weights is for that are made when the first batch is seen."""


def check_lengths(
    progress: Progress, config: Config, cadences: Iterable[tuple[str, Duration]], loader: Loader | None, epoch: Duration | None
) -> None:
    """Raise where a length or a cadence cannot be told for this data, or for a loop without any.

    Raises:
        ConfigError: it is named, with what can be said instead.
    """
    if loader is not None and epoch is not None:
        raise ConfigError(f"epoch: '{epoch}' is for a loop without data, and this data has epochs of its own; see treadle.data.Infinite")
    has_data = loader is not None
    named = {"log.every": config.log.every, "checkpoint.every": config.checkpoint.every, "checkpoint.keep_every": config.checkpoint.keep_every}
    if has_data:
        named["evaluate.every"] = config.evaluate.every
    asked = [(name, Duration.parse(text)) for name, text in named.items() if text is not None]
    for name, length in [("duration", progress.duration), *asked, *cadences]:
        if not has_data and (length.unit == "samples" or (length.unit == "epochs" and epoch is None)):
            hint = "" if length.unit == "samples" else ", or say how long an epoch is: run.steps(total=..., epoch='100 steps')"
            raise ConfigError(f"{name}: '{length}' never comes in a loop without data; give it in steps{hint}")
        if length.needs_epoch_size() and progress.epoch_size is None:
            raise ConfigError(f"{name}: '{length}' cannot be told, because this data has no length; give it in steps")


def epoch_of_steps(epoch: Duration | None) -> int | None:
    """How many steps the epoch of a loop without data has; None where there is none.

    Raises:
        ConfigError: it is not given in steps.
    """
    if epoch is None:
        return None
    if epoch.unit != "steps":
        raise ConfigError(f"epoch: '{epoch}' must be a number of steps, such as '100 steps'")
    return int(epoch.value)


def materialise(model: Any, objective: Objective, loader: Loader, number: int) -> None:
    """Give modules that wait for a first batch, such as `torch.nn.LazyLinear`, their weights: an optimizer needs them.

    Drawn under a seed of their own, so that they are the same when a run goes on, and are nobody else's numbers.

    Args:
        model: one that is not lazy stays as it is.
        objective: of the run.
        loader: the training data.
        number: the run's seed.
    """
    if not isinstance(model, nn.Module) or not any(is_lazy(p) for p in model.parameters()):
        return
    part = loader.peek()
    with as_found(model, objective, training=False), torch.no_grad():
        seed(mix(number, LAZY))
        try:
            if isinstance(objective, Supervised):
                model(objective.input_of(part))
            else:
                objective(model, part)
        except Exception as error:
            error.add_note(
                "raised while a first batch gave the lazy modules their shapes; or call the model on an example in the function that builds it"
            )
            raise


def check_schedules(names: Iterable[str], optimizers: Iterable[Optimizer], objective: Objective, step: Callable[..., Any] | None = None) -> None:
    """Raise where a schedule belongs to nothing, or a keyword has none.

    Args:
        names: of the schedules.
        optimizers: all of them.
        objective: whose keywords they may be.
        step: the user's own body of the loop, whose keywords they may be. It may also read them from ``step.values``, so then only
            a near miss is taken for a misspelling.

    Raises:
        ConfigError: a name is no field of an optimizer's groups and no keyword; the nearest is given.
    """
    names = list(names)
    takers = {"the objective": keywords(objective), "the step": set() if step is None else keywords(step, after=3)}
    if step is not None and (bare := sorted(required(step, after=3) - set(names))):
        raise ConfigError(f"the step takes the keyword {bare[0]!r}, and no schedule has this name{did_you_mean(bare[0], names)}")
    if None in takers.values():
        return
    fields = fields_of(*optimizers)
    known = fields.union(*(taken for taken in takers.values() if taken))
    whose = "the objective" if step is None else "the step or the objective"
    for name in names:
        if name not in known and (step is None or difflib.get_close_matches(name, known, n=1, cutoff=NEAR)):
            raise ConfigError(f"the schedule {name!r} is neither a field of the optimizer nor a keyword of {whose}{did_you_mean(name, known)}")


def check_names(wanted: Iterable[tuple[str, str | None]], known: set[str], others: bool) -> list[str]:
    """Raise where something waits for a value that is never logged.

    Args:
        wanted: who asks for which value, such as ``("checkpoint.best", "valid/accuracy")``.
        known: the names that will be logged.
        others: whether handlers of the user may log further names; then only a near miss is taken for a misspelling.

    Returns:
        what a person should look at: names that only such a handler can log.

    Raises:
        ConfigError: with the nearest name.
    """
    doubtful = []
    for who, name in wanted:
        if name is None or name in known or any(name.startswith(f"{one}/") for one in known):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if not others or near:
            raise ConfigError(f"{who}: no value named {name!r} is logged{did_you_mean(name, known)}")
        doubtful.append(f"warning: {who}: no value named {name!r} is logged, unless a handler of yours does{did_you_mean(name, known)}")
    return doubtful


def never_logged(who: str, name: str | None, names: set[str]) -> str:
    """What to say at the end where something waited for a value that never came; empty where it did."""
    return "" if name is None or name in names else f"warning: {who}: no value named {name!r} was logged{did_you_mean(name, names)}"


def heading(tracked: Tracked, progress: Progress, device: torch.device, run_dir: str) -> str:
    """What is about to happen, in a line; where there are parameter groups, they are a table below it."""
    models = tracked.models().values()
    trained = [model for model in models if any(True for _ in model.parameters())]
    parts = [f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters" for model in trained]
    parts += [f"{progress.duration} on {device}", run_dir]
    line = "; ".join(parts) + (f"; going on after step {progress.steps:,}" if progress.steps else "")
    table = overview(tracked.optimizers(), models)
    return f"{line}\n{table}" if table else line
