"""A preview: schedules over the steps of a run, as a picture or a sketch, before anything runs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treadle.core.errors import ConfigError
from treadle.core.schedules.named import FromTorch, Scheduled, check_values, checked, flat
from treadle.core.when import Duration, Progress
from treadle.log.curves import Curve, Panels

_POINTS = 1000
"""More steps than these are looked at in equal distances."""


def plot(
    schedules: Mapping[str, Scheduled],
    duration: str,
    *,
    epoch_size: int | None = None,
    batch_size: int | None = None,
    path: str | Path | None = None,
) -> None:
    """Show what schedules will do: a sketch in the terminal, a picture in a notebook or in a file.

    Args:
        schedules: by name, as they are given to a run. Those of `treadle.schedules.from_torch` need an optimizer, and are not drawn.
        duration: the length of the run, such as ``"10 epochs"``.
        epoch_size: samples in an epoch; needed where a length is in epochs.
        batch_size: samples in a step; needed where a length is in epochs or samples.
        path: a file for the picture, by its ending ``.png``, ``.svg``, ``.pdf`` or ``.html``.

    Raises:
        ConfigError: a length cannot be told without these sizes.
        UsageError: a picture is wanted, and matplotlib is not installed.

    Example:
        >>> from treadle.schedules import cosine, plot
        >>> plot({"lr": cosine(0.1, warmup="1 epoch")}, "10 epochs", epoch_size=50_000, batch_size=128, path=f"{tmp}/lr.png")
    """
    panels = panels_of(schedules, duration, epoch_size, batch_size)
    if path is not None:
        from treadle.log.figure import draw, save

        save(draw({"": panels}), Path(path))
        return
    from treadle.log.notebook import Display, in_notebook

    if in_notebook():
        from treadle.log.figure import draw, to_bytes

        picture = b64encode(to_bytes(draw({"": panels}), "png")).decode()
        Display().show({"image/png": picture, "text/plain": f"schedules of {', '.join(panels)}"})
        return
    from treadle.log.sketch import print_curves

    print_curves(panels)


def panels_of(schedules: Mapping[str, Any], duration: str, epoch_size: int | None = None, batch_size: int | None = None) -> Panels:
    """The value of every schedule before the steps of a run; those of one value together."""
    drawn = {name: schedule for name, schedule in checked(schedules).items() if not isinstance(schedule, FromTorch)}
    if left_out := sorted(set(schedules) - set(drawn)):
        raise ConfigError(f"the schedule {left_out[0]!r} is a scheduler of torch's, which has no values without an optimizer; plot the others")
    length = Duration.parse(duration)
    if length.unit != "steps" and not batch_size:
        raise ConfigError(f"'{duration}' cannot be told in steps; give batch_size" + ("" if epoch_size else " and epoch_size"))
    if length.unit == "epochs" and not epoch_size:
        raise ConfigError(f"'{duration}' cannot be told in steps; give epoch_size, the samples in an epoch")
    begin = _moment(0, length, epoch_size, batch_size)
    check_values(drawn, begin)
    steps = _steps(begin, batch_size)
    panels: Panels = {name: {} for name in drawn}
    for step in sorted({*range(0, steps, -(-steps // _POINTS)), steps - 1}):
        progress = _moment(step, length, epoch_size, batch_size)
        for name, schedule in drawn.items():
            for label, value in flat({name: schedule(progress)}):
                panels[name].setdefault(label, Curve()).add(step + 1, value)
    return panels


def _steps(begin: Progress, batch_size: int | None) -> int:
    """The steps of a run."""
    length = begin.duration
    if length.unit == "samples" and not begin.epoch_steps:
        assert batch_size is not None
        return -(-int(length.value) // batch_size)
    return max(1, round(begin.steps_in(length)))


def _moment(steps: int, duration: Duration, epoch_size: int | None, batch_size: int | None) -> Progress:
    """Where a run is after some steps."""
    if not epoch_size or not batch_size:
        return Progress(duration, steps=steps, samples=steps * (batch_size or 0))
    in_epoch = -(-epoch_size // batch_size)
    epochs, into = divmod(steps, in_epoch)
    return Progress(duration, epoch_size, in_epoch, epoch_size, steps, epochs * epoch_size + into * batch_size, epochs, into * batch_size)
