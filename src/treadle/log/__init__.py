"""6. Where numbers go: the journal is the truth, every writer is a view of it."""

from treadle.log.console import Console
from treadle.log.tensorboard import TensorBoard
from treadle.log.writer import Row, Writer

__all__ = ["Console", "Row", "TensorBoard", "Writer"]
