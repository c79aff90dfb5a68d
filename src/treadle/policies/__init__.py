"""Ready-made handlers."""

from treadle.policies.early_stop import EarlyStop

__all__ = ["EarlyStop"]
