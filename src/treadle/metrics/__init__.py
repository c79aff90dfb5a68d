"""5. What we measured: exact means, fetched late, and the usual metrics."""

from treadle.metrics.common import Accuracy, ConfusionMatrix, Mean

__all__ = ["Accuracy", "ConfusionMatrix", "Mean"]
