"""Schedules: values that change while a run goes on, as pure functions of its progress."""

from treadle.core.schedules.named import FromTorch, Scheduled, from_torch
from treadle.core.schedules.recurring import cosine_restarts, cyclic, exponential, piecewise, step_decay
from treadle.core.schedules.schedule import Schedule, of
from treadle.core.schedules.spanning import constant, cosine, inverse_sqrt, linear, one_cycle, polynomial, wsd

__all__ = [
    "FromTorch",
    "Schedule",
    "Scheduled",
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
    "polynomial",
    "step_decay",
    "wsd",
]
