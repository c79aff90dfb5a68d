"""3. What comes in: an order that is a pure function of position, and the batches it makes."""

from treadle.data.images import Images
from treadle.data.order import Weighted
from treadle.data.sources import Batches, Samples

__all__ = ["Batches", "Images", "Samples", "Weighted"]
