"""The schedules, by their public address: see `treadle.core.schedules`."""

from treadle.core.schedules import Schedule, constant, cosine, exponential, linear, one_cycle

__all__ = ["Schedule", "constant", "cosine", "exponential", "linear", "one_cycle"]
