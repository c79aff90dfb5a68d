"""The schedules, by their public address; they live in `treadle.core.schedules`."""

from treadle.core.schedules.named import from_torch
from treadle.core.schedules.recurring import cosine_restarts, cyclic, exponential, piecewise, step_decay
from treadle.core.schedules.schedule import Schedule, of
from treadle.core.schedules.spanning import constant, cosine, inverse_sqrt, linear, one_cycle, polynomial, wsd
from treadle.log.preview import plot

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "from_torch",
    "inverse_sqrt",
    "linear",
    "of",
    "one_cycle",
    "piecewise",
    "plot",
    "polynomial",
    "step_decay",
    "wsd",
]
