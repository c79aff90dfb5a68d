"""The schedules, by their public address: see `treadle.core.schedules`."""

from treadle.core.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    from_torch,
    inverse_sqrt,
    linear,
    of,
    one_cycle,
    piecewise,
    polynomial,
    step_decay,
    wsd,
)
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
